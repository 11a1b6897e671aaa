"""A random case of the fuzzer run through pycaffe's interface: the same steps on either side.

Runs under real Caffe's Python 3.9 as a script (``fuzz_side.py JOBS FOLDER``), each job in a fork of its own since a wrong
one kills its process, and is imported by fuzz.py for our side. Imports nothing but numpy, and caffe where it is the script.
"""

import json
import os
import sys
import traceback
import zlib

import fuzz_python_side
import numpy as np

UNTOUCHED = 0.5  # what diffs hold before backward, so that what is not written shows


def draw(kind, shape, *words):
    """Float32 values of a kind that depend on `words` only; equal under every NumPy.

    kind: "normal", "positive", "unit" (0 to 1), "zeroone", "cont" (mostly 1), "label K" or "index K" (integers below K),
    "ties" (few distinct values), "matrix" (normal plus the identity), "zero", "special" (normal, every third nan, inf or 0).
    """
    state = np.random.RandomState(zlib.crc32(" ".join(map(str, words)).encode()) & 0xFFFFFFFF)
    word, _, most = kind.partition(" ")
    shape = tuple(shape)
    if word in ("label", "index"):
        value = state.randint(0, int(most), shape)
    elif word == "zeroone":
        value = state.randint(0, 2, shape)
    elif word == "cont":
        value = state.uniform(size=shape) > 0.25
    elif word == "positive":
        value = state.uniform(0.1, 2, shape)
    elif word == "unit":
        value = state.uniform(size=shape)
    elif word == "ties":
        value = state.randint(-2, 3, shape)
    elif word == "zero":
        value = np.zeros(shape)
    elif word == "special":
        value = state.standard_normal(shape)
        others = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1])[state.randint(0, 6, shape)]
        value = np.where(state.uniform(size=shape) < 1 / 3, others, value)
    elif word == "matrix":
        value = state.standard_normal(shape) * 0.3 + np.eye(shape[-1])
    else:
        value = state.standard_normal(shape)
    return np.asarray(value, np.float32)


def inputs_of(job, step):
    return {name: draw(kind, shapes[step % len(shapes)], job["id"], step, name) for name, kind, shapes in job["inputs"]}


def shake(array, jitter, state):
    """Changes values, relatively; with a negative jitter by as much of the largest. Whole numbers stay."""
    if array.size and not np.all(array % 1 == 0):
        noise = jitter * state.standard_normal(array.shape).astype(np.float32)
        array[...] += noise * (array if jitter > 0 else np.abs(array).max())


def shake_all(net, jitter, state):
    """Shakes parameters now, and whatever a layer computes from now on: how far rounding carries."""
    for blobs in net.params.values():
        for blob in blobs:
            shake(blob.data, jitter, state)
    blobs = list(net.blobs.values())
    net.after_forward(lambda i: [shake(blobs[j].data, jitter, state) for j in net._top_ids(i)])
    net.after_backward(lambda i: [shake(blobs[j].diff, jitter, state) for j in net._bottom_ids(i)])


def run_net(caffe, job, jitter=0.0):
    """Builds the net of a job and runs its steps.

    Args:
        jitter: how much everything is shaken, to see how far rounding carries.
    Returns: dict name -> array, or list of texts under "names".
    """
    with open("net.prototxt", "w") as file:
        file.write(job["net"])
    caffe.set_random_seed(job["seed"])
    net = caffe.Net("net.prototxt", job["phase"], level=job["level"], stages=job["stages"])
    out = {}
    names = [
        ["blobs"] + [f"{name} {list(blob.shape)}" for name, blob in net.blobs.items()],
        ["params"] + [f"{name} {[list(b.shape) for b in blobs]}" for name, blobs in net.params.items()],
        ["layers"]
        + [f"{name} {layer.type}" for name, layer in ((n, net.layers[i]) for i, n in enumerate(net._layer_names))],
        ["weights"] + [f"{name} {weight:g}" for name, weight in net.blob_loss_weights.items()],
        ["inputs", *list(net.inputs), "outputs", *list(net.outputs)],
        ["tops"] + [f"{name} {list(tops)}" for name, tops in net.top_names.items()],
        ["bottoms"] + [f"{name} {list(bottoms)}" for name, bottoms in net.bottom_names.items()],
    ]
    out["names"] = np.array(json.dumps(names))
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            out[f"filled {name} {i}"] = blob.data.copy()
    if job.get("weights"):
        for name, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                blob.data[...] = draw(job["weights"], blob.data.shape, job["id"], "weights", name, i)
    if jitter:
        state = np.random.RandomState(1)
        shake_all(net, jitter, state)
    if job.get("arrays"):
        images = draw("normal", job["arrays"], job["id"], "arrays")
        net.set_input_arrays(images, draw("label 9", job["arrays"][:1], job["id"], "labels"))
    for step in range(job["steps"]):
        for name, value in inputs_of(job, step).items():
            if name not in net.blobs:
                continue
            if tuple(net.blobs[name].shape) != value.shape:
                net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
        net.forward()
        for name, blob in net.blobs.items():
            out[f"{step} data {name}"] = blob.data.copy()
        if job["backward"]:
            for name in net.outputs:
                if not net.blob_loss_weights[name]:
                    diff = net.blobs[name].diff
                    diff[...] = draw(job.get("diffs", "normal"), diff.shape, job["id"], step, "diff", name)
                    if jitter:
                        shake(diff, jitter, state)
            if step == 0 and job["clear"]:
                net.clear_param_diffs()
            net.backward()
            for name, blob in net.blobs.items():
                out[f"{step} diff {name}"] = blob.diff.copy()
        for name, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                if job["backward"]:
                    out[f"{step} diff {name} {i}"] = blob.diff.copy()
                out[f"{step} param {name} {i}"] = blob.data.copy()
                if job["backward"] and job["update"]:
                    blob.data[...] -= 0.01 * blob.diff
    return out


def run_solver(caffe, job, jitter=0.0):
    """Builds the solver of a job and does with it what the job says.

    Returns: dict name -> array. Snapshots stay in the folder.
    """
    for name in ("net", "solver"):
        with open(name + ".prototxt", "w") as file:
            file.write(job[name])
    solver = caffe.get_solver("solver.prototxt")
    out = {}
    state = np.random.RandomState(1)

    def keep(when):
        out[when + " iter"] = np.array([solver.iter])
        for prefix, net in [("train", solver.net)] + [(f"test{i}", net) for i, net in enumerate(solver.test_nets)]:
            for name, blobs in net.params.items():
                for i, blob in enumerate(blobs):
                    out[f"{when} {prefix} data {name} {i}"] = blob.data.copy()
                    if prefix == "train":
                        out[f"{when} {prefix} diff {name} {i}"] = blob.diff.copy()
            for name in net.outputs:
                out[f"{when} {prefix} output {name}"] = net.blobs[name].data.copy()

    def do(action, *words):
        if action == "step":
            solver.step(words[0])
        elif action == "solve":
            solver.solve()
        elif action == "lr":
            out[f"{len(out)} lr"] = np.array([solver.lr])
        elif action == "snapshot":
            solver.snapshot()
        elif action == "restore":
            states = sorted(name for name in os.listdir(".") if ".solverstate" in name)
            if states:
                solver.restore(states[0])
        elif action == "apply":
            solver.net.clear_param_diffs()
            solver.net.forward()
            solver.net.backward()
            solver.apply_update()
        elif action == "share" and len(solver.test_nets):
            solver.test_nets[0].share_with(solver.net)
            solver.test_nets[0].forward()
        elif action == "test" and len(solver.test_nets):
            solver.test_nets[-1].forward()
        elif action == "again":
            solver.net.forward()
            solver.net.backward()

    keep("start")
    if jitter:
        shake_all(solver.net, jitter, state)
    for number, action in enumerate(job["actions"]):
        do(*action)
        keep(f"{number} {action[0]}")
    return out


def run_weights(caffe, job, jitter=0.0):
    """Builds the nets of a job and lets weights go from one to another.

    Returns: dict name -> array.
    """
    caffe.set_random_seed(job["seed"])
    nets = []
    for i, text in enumerate(job["nets"]):
        with open(f"net{i}.prototxt", "w") as file:
            file.write(text)
        nets.append(caffe.Net(f"net{i}.prototxt", caffe.TRAIN))
    out = {}
    state = np.random.RandomState(1)
    if jitter:
        for net in nets:
            shake_all(net, jitter, state)
    for number, (action, i, *rest) in enumerate([("start", 0), *job["actions"]]):
        net = nets[i]
        if action == "share":
            net.share_with(nets[rest[0]])
        elif action in ("copy", "hdf5", "cross"):  # "cross": the other format's name
            name = f"w{number}.caffemodel" + ".h5" * (action != "copy")
            if action == "hdf5":
                nets[rest[0]].save_hdf5(name)
                net.load_hdf5(name)
            else:
                nets[rest[0]].save(name)
                net.copy_from(name)
        elif action == "set":
            for name, blobs in net.params.items():
                for j, blob in enumerate(blobs):
                    blob.data[...] = draw("normal", blob.data.shape, job["id"], rest[0], name, j)
        elif action == "forward":
            net.forward()
        elif action == "backward":
            net.forward()
            net.backward()
        for k, other in enumerate(nets):
            for name, blobs in other.params.items():
                for j, blob in enumerate(blobs):
                    out[f"{number} {action} {k} data {name} {j}"] = blob.data.copy()
                    out[f"{number} {action} {k} diff {name} {j}"] = blob.diff.copy()
            for name in other.outputs:
                out[f"{number} {action} {k} output {name}"] = other.blobs[name].data.copy()
    return out


KINDS = {
    "weights": run_weights,
    "net": run_net,
    "data": run_net,
    "solver": run_solver,
    "python": fuzz_python_side.run_python,
}


def forked(call, error_file):
    """Runs `call` in a child with its stderr in `error_file`. Returns its wait status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(error_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1]


def main(jobs_file, folder):
    import caffe

    with open(jobs_file) as file:
        jobs = json.load(file)
    for job in jobs:
        own = os.path.join(folder, job["id"])
        os.makedirs(own, exist_ok=True)
        os.chdir(own)
        error_file = os.path.join(own, "stderr")
        status = forked(lambda job=job: np.savez("real.npz", **KINDS[job["kind"]](caffe, job)), error_file)
        if status:
            with open(error_file, errors="replace") as file:
                np.savez("error.npz", error=np.array([str(status), file.read()[-6000:]]))


if __name__ == "__main__":
    main(*sys.argv[1:])
