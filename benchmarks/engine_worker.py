"""One contender of bench_engine.py, in a process of its own: trains on request and says how long that took.

    python engine_worker.py KIND CONFIG.json        KIND: engine, caffe, eager, compile or graphs

Each line on stdin is a number of iterations; the answer is a line with their seconds. The first answer, after the
warm-up, is "ready". Runs on Python 3.9 as well: `caffe` is served by the interpreter of a real pycaffe.
"""

import json
import sys
import time


def engine(config):
    """This project's engine as `caffe-torch train` runs it: the same solver file, the same executor."""
    import torch

    from allconv_caffe.caffe_torch import glog
    from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
    from allconv_caffe.caffe_torch.layer import Context
    from allconv_caffe.caffe_torch.solver_factory import create_solver
    from allconv_caffe.proto import SolverParameter, parse_text

    glog.info = lambda *_, **__: None
    with open(config["solver"]) as file:
        param = parse_text(file.read(), SolverParameter)
    dtype = torch.bfloat16 if config["precision"] == "bf16" else torch.float32
    context = Context(
        rng=TorchGenerator(1),
        device=torch.device(config["device"]),
        compute_dtype=dtype,
        conv_mode="auto",
        tf32=config["precision"] == "tf32",
    )
    solver = create_solver(param, context=context, executor="compiled")
    return solver.step


def caffe(config):
    """Real Caffe through pycaffe's solver, on the same files."""
    import os

    os.environ["GLOG_minloglevel"] = "2"
    import caffe as pycaffe

    if config["device"] == "cpu":
        pycaffe.set_mode_cpu()
    else:
        pycaffe.set_mode_gpu()
    return pycaffe.get_solver(config["solver"]).step


def handwritten(config, mode):
    """All-CNN-C as one would write it in PyTorch: modules, autograd, channels_last, torch.optim.SGD; `mode` is torch.compile's."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    device = config["device"]

    class AllCnnC(nn.Module):
        def __init__(self):
            super().__init__()
            shapes = [
                (3, 96, 3, 1, 1),
                (96, 96, 3, 1, 1),
                (96, 96, 3, 2, 1),
                (96, 192, 3, 1, 1),
                (192, 192, 3, 1, 1),
                (192, 192, 3, 2, 1),
                (192, 192, 3, 1, 0),
                (192, 192, 1, 1, 0),
                (192, 10, 1, 1, 0),
            ]
            self.convs = nn.ModuleList([nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in shapes])

        def forward(self, x):
            x = F.dropout(x, 0.2, self.training)
            for i, conv in enumerate(self.convs):
                x = F.relu(conv(x))
                if i in (2, 5):
                    x = F.dropout(x, 0.5, self.training)
            return x.mean((2, 3))

    net = AllCnnC().to(device, memory_format=torch.channels_last).train()
    for parameter in net.parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
    count = sum(p.numel() for p in net.parameters())
    assert count == config["parameters"], count
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.001)
    model = torch.compile(net, mode=mode) if mode else net
    generator = torch.Generator().manual_seed(0)
    batch = config["batch"]
    images = torch.randn(8, batch, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(0, 10, (8, batch), generator=generator).to(device)
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=config["precision"] == "bf16")

    def step(iterations):
        for i in range(iterations):
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                scores = model(images[i % 8].contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(scores.float(), labels[i % 8])
            loss.backward()
            optimizer.step()

    return step


def main():
    kind, path = sys.argv[1:]
    with open(path) as file:
        config = json.load(file)

    def wait():
        pass

    if kind != "caffe":
        import torch

        torch.set_num_threads(config["threads"])
        torch.manual_seed(0)
        if config["precision"] == "tf32":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        elif config["device"] != "cpu":
            torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        if config["device"] != "cpu":
            wait = torch.cuda.synchronize
    if kind == "engine":
        step = engine(config)
    elif kind == "caffe":
        step = caffe(config)
    else:
        step = handwritten(config, {"eager": None, "compile": "default", "graphs": "reduce-overhead"}[kind])
    step(config["warmup"])
    wait()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        step(int(line))
        wait()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
