"""Working a grid off: locally, by Ray and by submitit, with a stand-in for caffe; what is said, and what is found again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.driver import fork_jobs, stand_in
from support.extras import needed

from allconv_caffe.train import job as job_, lease, pools, sweep
from allconv_caffe.train.job import Outcome, Progress
from allconv_caffe.train.pools import LocalPool
from allconv_caffe.train.settings import DriverError, RunSettings
from allconv_caffe.train.show import Show
from allconv_caffe.train.sweep import Grid
from data_prep import cifar, pipeline


class Field:
    """A project root with a small prepared set, real, since runs read it in processes of their own; and a stand-in."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.lines: list[str] = []
        monkeypatch.setenv("CAFFE", str(stand_in(home)))
        monkeypatch.setattr(sweep, "POLL_SECONDS", 0.05)
        monkeypatch.chdir(home)
        self.behave()
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(120) % 10
        archive = cifar.write_python_archive(
            home / "a.tar.gz", images[:100], labels[:100], images[100:], labels[100:], list("abcdefghij")
        )
        pipeline.prepare(archive, home / "data/cifar10", preprocessing="gcn", progress=False)

    def behave(self, **behaviour: object) -> None:
        (self.home / "behaviour").write_text(json.dumps({"gpu": False, **behaviour}))

    def grid(self, *experiments: str, **asked: object) -> Grid:
        """4 epochs of 100 images by 10 are 40 iterations."""
        lists = {"epochs": ["4"], "batch_size": ["10"], "engine": ["caffe"], **asked.pop("lists", {})}  # type: ignore[dict-item]
        settings = RunSettings(root=self.home, gpu="none", download=False)
        return Grid(experiments=experiments, lists=lists, settings=settings, **asked)  # type: ignore[arg-type]

    def run(self, *experiments: str, dry: bool = False, **asked: object) -> sweep.Swept:
        self.lines.clear()
        ended = sweep.run(self.grid(*experiments, **asked), self.lines.append, dry)
        self.lines += ended.lines
        return ended

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def calls(self) -> int:
        file = self.home / "calls"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Field:
    return Field(tmp_path, monkeypatch)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_jobs(monkeypatch)


def test_a_grid_is_worked_off_and_found_again(field: Field, forked: None) -> None:
    """Two networks, two rates, two seeds, one of which dies: eight runs, a line each, the best rates; then nothing to do."""
    field.behave(**{"2": {"nan_from": 5}, "sleep": 0.02})
    asked = {"lists": {"lr": [".1,.05"], "seed": ["1-2"]}, "jobs": 2}
    ended = field.run("cifar10-model-a", "cifar10-model-b", **asked)
    assert ended.counts == {"done": 4, "dead": 4} and ended.status == "done"
    assert "8 runs, 8 to do; local: 2 runs at a time (2 on the CPU" in field.said
    lines = [line for line in field.lines if line.startswith("[")]
    assert len(lines) == 8 and lines[0].startswith("[1/8] cifar10-model-")
    assert any("lr 0.05 seed 2: dead" in line and "not a number" in line for line in lines)
    assert "8 runs: 4 done, 4 dead" in field.said
    assert "| Model A | 10.00 %, 1 of 2 dead | 10.00 %, 1 of 2 dead | lr 0.1 | 10.00 % | 12.47 % |" in field.lines
    trained = field.calls()
    again = field.run("cifar10-model-a", "cifar10-model-b", **asked)
    assert again.counts == ended.counts and field.calls() == trained
    assert "8 runs, 0 to do" in field.said and "[8/8]" in field.said and "already dead" in field.said
    one = field.home / "runs/sweep/cifar10-model-a-lr-0.1-seed-1"
    assert json.loads((one / "outcome.json").read_text())["status"] == "done" and (one / "said").stat().st_size


def test_a_dry_run_starts_nothing(field: Field, forked: None) -> None:
    """--dry-run says each run's command and state, prepares nothing and trains nothing."""
    field.run("cifar10-model-a", lists={"lr": [".1"]}, jobs=1)
    trained = field.calls()
    ended = field.run("cifar10-model-a", dry=True, lists={"lr": [".1,.05"], "validation": ["20"], "seed": ["1"]})
    assert field.calls() == trained and not list(field.home.glob("data/*held-out"))
    assert ended.status == "done" and "not prepared yet" in field.said
    field.run("cifar10-model-a", dry=True, lists={"lr": [".1,.05"]})
    assert [line.split()[0] for line in field.lines if "allconv run" in line] == ["done", "new"]
    assert "2 runs" in field.lines


def test_what_follows_a_run_is_done_in_its_process_and_made_up_for(
    field: Field, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`then` is called with a done run's directory, once; where the process was killed before its end, the same grid calls it,
    and trains nothing. Where it fails, the run stays done."""
    (field.home / "following.py").write_text(
        "def mark(directory, say, root):\n    with open(directory / 'marks', 'a') as file:\n        file.write(f'{root}\\n')\n"
    )
    monkeypatch.syspath_prepend(field.home)
    asked = {"lists": {"lr": [".1"], "seed": ["1-2"]}, "jobs": 1, "then": "following:mark"}
    field.behave(**{"2": {"nan_from": 5}})
    assert field.run("cifar10-model-a", **asked).counts == {"done": 1, "dead": 1}
    (marks,) = field.home.glob("runs/*/*/marks")
    assert "seed1" in str(marks) and marks.read_text() == f"{field.home}\n"
    trained = field.calls()
    field.run("cifar10-model-a", **asked)
    assert marks.read_text().count("\n") == 1 and "2 runs, 0 to do" in field.said
    (outcome,) = field.home.glob("runs/sweep/*seed-1/outcome.json")
    outcome.unlink()
    again = field.run("cifar10-model-a", **asked)
    assert again.counts == {"done": 1, "dead": 1} and field.calls() == trained
    assert marks.read_text().count("\n") == 2 and "2 runs, 1 to do" in field.said
    outcome.unlink()
    assert field.run("cifar10-model-a", **{**asked, "then": "following:nothing"}).counts == {"done": 1, "dead": 1}
    assert "AttributeError" in outcome.with_name("said").read_text()


def test_a_run_that_fails_is_counted_and_the_grid_goes_on(field: Field, forked: None) -> None:
    """A batch that no iteration can be made of fails one run in one line; the others are trained; the status says it."""
    field.behave(**{"1": {"crash_at": 11}})
    ended = field.run("cifar10-model-a", lists={"lr": [".1,.05"]}, jobs=1)
    assert ended.counts == {"failed": 1, "done": 1} and ended.status == "failed"
    assert (
        "lr 0.1 seed 1: failed: " in field.said
        and "the engine failed: Check failed: error == cudaSuccess" in field.said
    )
    ended = field.run("cifar10-model-a", lists={"lr": [".1,.05"]}, jobs=1)
    assert ended.counts == {"done": 2}  # what failed is tried again, from its snapshot


def test_ctrl_c_stops_every_run_with_a_snapshot(field: Field, forked: None) -> None:
    """One interrupt: the runs at work snapshot and stop, no other begins; the same command goes on with them."""
    field.behave(sleep=0.05)
    me = os.getpid()

    def interrupt() -> None:
        for _ in range(1200):
            if len(list(field.home.glob("runs/*/*/log"))) == 2 and all(
                "Iteration 10, lr" in log.read_text() for log in field.home.glob("runs/*/*/log")
            ):
                break
            time.sleep(0.05)
        os.kill(me, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    ended = field.run("cifar10-model-a", lists={"seed": ["1-4"]}, jobs=2)
    assert ended.status == "interrupted" and ended.counts == {"interrupted": 2}
    assert len(list(field.home.glob("runs/cifar10-model-a/*/snapshots/*.solverstate"))) >= 2
    field.behave()
    ended = field.run("cifar10-model-a", lists={"seed": ["1-4"]}, jobs=2)
    assert ended.counts == {"done": 4}
    assert sum("-snapshot" in json.loads(line) for line in (field.home / "calls").read_text().splitlines()) == 2


def test_the_point_is_chosen_on_held_out_images(field: Field, forked: None) -> None:
    """--select-on val: the grid on 80 images, tested on 20 held-out ones; then the best rate alone on all 100."""
    ended = field.run("cifar10-model-a", lists={"lr": [".1,.05"], "validation": ["20"]}, jobs=2, select_on="val")
    assert ended.counts == {"done": 3}
    assert "the best point is chosen on the 20 held-out training images too." in field.said
    records = [json.loads(path.read_text()) for path in field.home.glob("runs/cifar10-model-a/*/result.json")]
    assert sorted((record["n_train"], record["n_test"], record["validation"]) for record in records) == [
        (80, 20, 20),
        (80, 20, 20),
        (100, 20, None),
    ]
    final = next(record for record in records if record["n_train"] == 100)
    assert final["lr"] == 0.1  # equal errors: the first of the list
    assert field.lines[-1] == "Errors of the last iteration, on test images."


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"on": "moon"}, "--on moon: expected one of local, ray, slurm"),
        ({"jobs": 0}, "--jobs 0: expected a whole number of at least 1"),
        ({"select_on": "train"}, "--select-on train: expected test or val"),
        ({"lists": {"lr": ["0"]}}, "LR=0.0: expected a number above 0"),
    ],
)
def test_what_no_run_could_do_is_said_before_the_first(field: Field, asked: dict[str, object], text: str) -> None:
    """A wrong word for the whole grid is one line, and nothing is started."""
    with pytest.raises(DriverError) as caught:
        field.run("cifar10-model-a", **asked)
    assert str(caught.value) == text and not field.calls()


def test_a_job_turns_every_error_into_an_outcome(field: Field) -> None:
    """A mistake of the user is one line; a defect of ours keeps its traceback in what was said."""
    folder = field.home / "job"
    job_.write(folder, "cifar10-nope", RunSettings(root=field.home))
    assert job_.work(folder).why.startswith("experiment: found 'cifar10-nope'")
    (folder / "job.json").write_text('{"experiment": "cifar10-model-a"}')
    assert job_.work(folder) == job_.read_outcome(folder)
    assert job_.read_outcome(folder).why == "KeyError: 'settings'" and "Traceback" in (folder / "said").read_text()
    (folder / "outcome.json").unlink()
    assert job_.read_outcome(folder).why.startswith("its process ended without a word")


def test_gpus_are_shared_out() -> None:
    """Two GPUs with two runs each are four places; a place that is free again is taken by the next run."""
    pool = LocalPool(["0", "0", "1", "1"])
    assert pool.slots == 4 and pool.describe() == "local: 4 runs at a time (2 on GPU 0, 2 on GPU 1)"


def _swept_by(field: Field, pool: pools.Pool) -> sweep.Swept:
    field.behave(**{"2": {"nan_from": 5}, "sleep": 0.02})
    jobs = field.grid("cifar10-model-a", lists={"lr": [".1"], "seed": ["1-2"]}).runs()
    return sweep.sweep(jobs, pool, field.home / "runs/sweep", field.lines.append)


def test_ray_works_the_grid_off(field: Field) -> None:
    """Ray, started for real on this machine: two runs, one of which dies, with the same lines and records."""
    needed("ray", "cluster")
    ended = _swept_by(field, pools.RayPool(limits={"num_cpus": 2, "num_gpus": 0}))
    assert ended.counts == {"done": 1, "dead": 1}
    assert "2 CPUs, 0 GPUs" in field.said and "[2/2]" in field.said
    assert len(list(field.home.glob("runs/cifar10-model-a/*/result.json"))) == 2


def test_ray_shares_gpus_out(field: Field) -> None:
    """Where Ray has GPUs, each run gets its share of one, and the driver is told the device that Ray shows it."""
    ray = needed("ray", "cluster")
    pool = pools.RayPool(per_gpu=2, limits={"num_cpus": 4, "num_gpus": 1})
    try:
        task = ray.remote(num_gpus=0.5, num_cpus=1)(lambda: (ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]))
        assert ray.get([task.remote(), task.remote()]) == [([0], "0")] * 2
        assert pool.describe().endswith("4 CPUs, 1 GPUs")
    finally:
        pool.close()


def test_submitit_works_the_grid_off(field: Field) -> None:
    """submitit with its own local processes in SLURM's place: the same task, the same lines and records."""
    needed("submitit", "slurm")
    ended = _swept_by(field, pools.SlurmPool(field.home / "slurm", {"timeout_min": "5"}, cluster="local"))
    assert ended.counts == {"done": 1, "dead": 1} and "[2/2]" in field.said


def test_a_preempted_job_comes_back_and_goes_on(field: Field) -> None:
    """A node that is taken away: the engine snapshots, the job is handed in again, and goes on from there."""
    needed("submitit", "slurm")
    from submitit.local.local import LocalJobEnvironment

    field.behave(sleep=0.05)
    (job,) = field.grid("cifar10-model-a").runs()
    folder = field.home / "runs/sweep" / job.key
    job_.write(folder, job.experiment, job.settings)
    pool = pools.SlurmPool(field.home / "slurm", {"timeout_min": "5"}, cluster="local")
    pool.submit([folder])
    for _ in range(1200):
        if any("Iteration 10, lr" in log.read_text() for log in field.home.glob("runs/*/*/log")):
            break
        time.sleep(0.05)
    (lock,) = field.home.glob("runs/*/*/.lock")
    status = Path(
        f"/proc/{lease.holder(lock.parent).engine}/status"
    ).read_text()  # of the engine, whose parent is the task
    task = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid")))
    os.kill(task, LocalJobEnvironment._usr_sig())
    for _ in range(1200):
        if pool.ended():
            break
        time.sleep(0.05)
    assert job_.read_outcome(folder).status == "done"
    calls = [json.loads(line) for line in (field.home / "calls").read_text().splitlines()]
    assert ["-snapshot" in call for call in calls] == [False, True]


def test_slurm_is_asked_for_where_it_is(field: Field) -> None:
    """Without srun on the machine nothing is run somewhere else in silence."""
    needed("submitit", "slurm")
    with pytest.raises(DriverError, match="^--on slurm: found no srun, expected a machine of a SLURM cluster$"):
        field.run("cifar10-model-a", on="slurm")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an extra, the line says how to get it."""
    import builtins

    real = builtins.__import__

    def without(name: str, *words: object, **more: object) -> object:
        if name in ("ray", "submitit"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DriverError, match=r"^--on ray: found no ray .*pip install 'allconv-caffe\[cluster\]'$"):
        pools.RayPool()
    with pytest.raises(DriverError, match=r"^--on slurm: found no submitit .*pip install 'allconv-caffe\[slurm\]'$"):
        pools.SlurmPool(Path("x"), {})


def test_a_terminal_shows_a_bar_for_each_run() -> None:
    """On a terminal a bar counts the runs, and one for each run at work shows iteration, loss and error."""
    main, terminal = os.openpty()
    lines: list[str] = []
    try:
        with open(terminal, "w", closefd=False) as stream:
            show = Show(2, lines.append, stream)
            show.progress({"one": Progress(directory="x", iteration=5, max_iter=40, loss=1.5, error_percent=60.0)})
            shown = ""
            while "60.00 %" not in shown:  # a read may give a part of what was written
                shown += os.read(main, 65536).decode()
            show.end("one", Outcome(status="done", error_percent=12.5, seconds=61.0))
            show.end("two", Outcome(status="dead", why="loss nan"))
            show.close()
    finally:
        os.close(main)
        os.close(terminal)
    assert "runs:" in shown and "one:" in shown and "5/40" in shown and "loss 1.5, error 60.00 %" in shown
    assert lines == ["[1/2] one: done, error 12.50 %, 0:01:01", "[2/2] two: dead: loss nan"]
