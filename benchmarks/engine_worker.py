"""One contender of bench_engine.py or bench_nets.py, in a process of its own: works on request and says how long it took.

    python engine_worker.py KIND CONFIG.json        KIND: engine, float32 (engine), caffe, eager, compile or graphs

Each line on stdin is a number of iterations; the answer is a line with their seconds. The first answer, after the
warm-up, is "ready"; of a net of bench_nets.py, with the seconds to the end of the first iteration, building included.
Runs on Python 3.9 as well: `caffe` is served by the interpreter of a real pycaffe.

bench_engine.py's config names a solver over an LMDB, and All-CNN-C is written out below. bench_nets.py's adds
`inputs`, each blob's shape, classes and whether it is all ones, which are filled once; `net`, the prototxt; `forward`, for passes
without training.
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


def arrays(config):
    """A net's inputs by name, by seed: unit normal noise, labels, or ones."""
    import numpy as np

    rng = np.random.default_rng(0)
    values = {}
    for name, given in config["inputs"].items():
        if given["ones"]:
            value = np.ones(given["shape"])
        elif given["classes"]:
            value = rng.integers(0, given["classes"], given["shape"])
        else:
            value = rng.standard_normal(given["shape"])
        values[name] = value.astype(np.float32)
    return values


def fill(net, config):
    """Puts the inputs into the blobs of a net of pycaffe, real or ours."""
    for name, value in arrays(config).items():
        net.blobs[name].data[...] = value


def net_engine(config):
    """A net on this project's engine: as `caffe-torch train` runs it, or the drop-in's forward."""
    import torch

    from allconv_caffe import pycaffe
    from allconv_caffe.caffe_torch import glog
    from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
    from allconv_caffe.caffe_torch.executor import compiled
    from allconv_caffe.caffe_torch.layer import Context
    from allconv_caffe.caffe_torch.solver_factory import create_solver
    from allconv_caffe.proto import SolverParameter, parse_text

    glog.info = lambda *_, **__: None
    if config["forward"]:
        return forwards(pycaffe.Net(config["net"], pycaffe.TEST), config)
    with open(config["solver"]) as file:
        param = parse_text(file.read(), SolverParameter)
    dtype = torch.bfloat16 if config["precision"] == "bf16" else torch.float32
    context = Context(rng=TorchGenerator(1), device=torch.device("cpu"), compute_dtype=dtype, conv_mode="auto")
    solver = create_solver(param, context=context, executor="compiled")
    if compiled.why_not(solver) is not None:  # what `auto` does in a run that is long enough to pay for compiling
        solver = create_solver(param, context=context, executor="plain")
    for name, value in arrays(config).items():
        solver.net.blobs[name].data = torch.from_numpy(value)
    return solver.step


def net_caffe(config):
    """A net in real Caffe, by pycaffe's solver or forward."""
    import os

    os.environ["GLOG_minloglevel"] = "2"
    import caffe as pycaffe

    pycaffe.set_mode_cpu()
    if config["forward"]:
        return forwards(pycaffe.Net(config["net"], pycaffe.TEST), config)
    solver = pycaffe.get_solver(config["solver"])
    fill(solver.net, config)
    return solver.step


def forwards(net, config):
    """pycaffe's forward, real or ours."""
    fill(net, config)

    def step(iterations):
        for _ in range(iterations):
            net.forward()

    return step


def net_handwritten(config, mode):
    """A net as one would write it in PyTorch; `mode` is torch.compile's."""
    import torch
    from nets import handwritten

    from allconv_caffe.proto import NetParameter, parse_text

    with open(config["net"]) as file:
        param = parse_text(file.read(), NetParameter)
    shapes = {name: given["shape"] for name, given in config["inputs"].items()}
    net = handwritten.HandWritten(param, shapes)
    count = sum(
        p.numel() for name, p in net.named_parameters() if not name.endswith("bias_hh_l0")
    )  # Caffe's LSTM has one
    assert count == config["parameters"], count
    inputs = {name: torch.from_numpy(value) for name, value in arrays(config).items()}
    for name, value in inputs.items():
        if config["inputs"][name]["classes"]:
            inputs[name] = value.long()
        elif value.dim() == 4:
            inputs[name] = value.contiguous(memory_format=torch.channels_last)
    if config["forward"]:
        return handwritten.scoring(net, inputs, mode)
    return handwritten.training(net, inputs, mode, bf16=config["precision"] == "bf16")


def peak_mib():
    """The most memory that this process ever held; getrusage would count that of the process which started it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


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
    mode = {"eager": None, "compile": "default", "graphs": "reduce-overhead"}.get(kind)
    nets = "inputs" in config
    start = time.perf_counter()
    if kind in ("engine", "float32"):
        step = (net_engine if nets else engine)(config)
    elif kind == "caffe":
        step = (net_caffe if nets else caffe)(config)
    else:
        step = (net_handwritten if nets else handwritten)(config, mode)
    if nets:
        step(1)
        first = time.perf_counter() - start
    step(config["warmup"])
    wait()
    print(f"ready {first:.3f}" if nets else "ready", flush=True)
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        step(int(line))
        wait()
        seconds = time.perf_counter() - start
        print(f"{seconds} {time.process_time() - used} {peak_mib()}" if nets else seconds, flush=True)


if __name__ == "__main__":
    main()
