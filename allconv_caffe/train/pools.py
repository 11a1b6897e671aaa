"""Where the runs of a grid are worked off: a pool of processes here, Ray on a machine or a cluster, SLURM.

Nothing distributed is home-made: a pool starts jobs (`job.work` on a folder) and says which have ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from allconv_caffe.train import job, process
from allconv_caffe.train.settings import DriverError

KINDS = ("local", "ray", "slurm")
_STOP_SECONDS = 150.0  # for the snapshot of a training that is stopped
_MOST_TIMEOUTS = 1000  # a training longer than a job may be is handed in again as often
_PREEMPTED_SECONDS = 60.0  # for that of one whose node is taken away


class Pool(Protocol):
    """What works jobs off."""

    slots: int | None
    """Runs at a time; None: the scheduler's business, all are handed to it at once."""

    def describe(self) -> str:
        """One line for people."""

    def submit(self, folders: Sequence[Path]) -> None:
        """Hand jobs over."""

    def ended(self) -> list[Path]:
        """The jobs that have ended since it was asked last."""

    def stop(self) -> None:
        """Ask every run to snapshot and stop; a second time: end it."""

    def close(self) -> None:
        """Leave nothing running that this process started."""


class LocalPool:
    """Processes of this machine, each with a device and a number of threads of its own."""

    def __init__(self, devices: Sequence[str], threads: int | None = None) -> None:
        """
        Args:
            devices: one for each run at a time, as ``GPU=`` names it; a device may stand here several times.
            threads: of the CPU, for each run.
        """
        self.slots: int | None = len(devices)
        self._free, self._threads, self._stops = list(devices), threads, 0
        self._running: dict[Path, tuple[subprocess.Popen[bytes], str]] = {}

    def describe(self) -> str:
        kinds = {device: self._free.count(device) for device in self._free}
        places = ", ".join(f"{count} on {'the CPU' if gpu == 'none' else f'GPU {gpu}'}" for gpu, count in kinds.items())
        threads = "" if self._threads is None else f", {self._threads} threads each"
        return f"local: {self.slots} runs at a time ({places}{threads})"

    def submit(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            device = self._free.pop(0)
            words = [sys.executable, "-m", job.__name__, str(folder), "--gpu", device]
            if self._threads is not None:
                words += ["--threads", str(self._threads)]
            with open(folder / job.SAID, "ab") as said:
                started = subprocess.Popen(
                    words,
                    env={**os.environ, "PYTHONPATH": _python_path()},
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches it once, through `stop`
                )
            self._running[folder] = started, device

    def ended(self) -> list[Path]:
        found = [folder for folder, (started, _) in self._running.items() if started.poll() is not None]
        for folder in found:
            self._free.append(self._running.pop(folder)[1])
        return found

    def stop(self) -> None:
        self._stops += 1
        for started, _ in self._running.values():
            started.send_signal(signal.SIGINT)  # twice: the driver kills its engine

    def close(self) -> None:
        if not self._running:
            return
        self.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for started, _ in self._running.values():
            try:
                started.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


class RayPool:
    """Ray tasks: a cluster that ``RAY_ADDRESS`` names, or one of this machine's that is started for the grid.

    A task whose worker or node is lost is tried again; the same command then goes on from the run's newest snapshot.
    """

    RETRIES = 3

    def __init__(self, per_gpu: int = 1, threads: int | None = None, limits: Mapping[str, float] | None = None) -> None:
        """
        Args:
            per_gpu: runs that share a GPU; where the cluster has none, runs take CPUs.
            threads: CPUs of each run.
            limits: what `ray.init` is told of this machine, where it starts a cluster: num_cpus, num_gpus.
        """
        ray = _imported("ray", "cluster")
        self._ray = ray
        environment = {"env_vars": {"PYTHONPATH": _python_path()}}
        ray.init(include_dashboard=False, log_to_driver=False, runtime_env=environment, **(limits or {}))
        resources = ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0))
        cpus = threads or 1
        self.slots: int | None = None
        self._shown = f"{resources.get('CPU', 0):g} CPUs, {self._gpus} GPUs"
        self._task = ray.remote(
            num_cpus=cpus if not self._gpus else min(cpus, 1),
            num_gpus=1 / per_gpu if self._gpus else 0,
            max_retries=self.RETRIES,
        )(_in_ray)
        self._threads, self._stops = threads, 0
        self._running: dict[Any, Path] = {}

    def describe(self) -> str:
        return f"ray {self._ray.__version__}: {self._shown}"

    def submit(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            self._running[self._task.remote(str(folder), self._threads)] = folder

    def ended(self) -> list[Path]:
        references = list(self._running)
        if not references:
            return []
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        found = []
        for reference in done:
            folder = self._running.pop(reference)
            found.append(folder)
            try:
                self._ray.get(reference)
            except Exception as error:  # cancelled, or lost with its node for the last time
                _note(folder, error)
        return found

    def stop(self) -> None:
        self._stops += 1
        for reference in self._running:
            self._ray.cancel(reference, force=self._stops > 1)

    def close(self) -> None:
        if self._running:
            self.stop()
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_SECONDS)
        self._ray.shutdown()


def _in_ray(folder: str, threads: int | None) -> str:
    """A task: Ray shows it the GPU that it has, as device 0, and no other."""
    import ray

    gpu = "0" if ray.get_gpu_ids() else "none"
    return job.work(folder, gpu, threads).status


class SlurmPool:
    """SLURM jobs through submitit, in one array; a job that is preempted comes back and goes on from its snapshot."""

    def __init__(self, folder: Path, options: Mapping[str, str], cluster: str = "slurm") -> None:
        """
        Args:
            folder: of submitit's own files; all nodes must see it.
            options: of ``submitit``, e.g. ``{"partition": "gpu", "gpus_per_node": "1", "timeout_min": "600"}``.
            cluster: ``slurm``, or ``local`` for submitit's own processes on this machine.
        """
        submitit = _imported("submitit", "slurm")
        if cluster == "slurm" and shutil.which("srun") is None:
            raise DriverError("--on slurm", "found no srun, expected a machine of a SLURM cluster")
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=_MOST_TIMEOUTS)
        known = {"name": "allconv", **{key: _number(value) for key, value in options.items()}}
        own = [key for key in known if key in _SUBMITIT_OPTIONS]
        try:
            self._executor.update_parameters(**{key if key in own else f"slurm_{key}": known[key] for key in known})
        except (NameError, TypeError, ValueError) as error:
            raise DriverError("SLURM", f"found an option that submitit refuses ({error})") from None
        self.slots: int | None = None
        self._shown = f"{cluster} through submitit {submitit.__version__}"
        self._task = _in_slurm()
        self._running: dict[Path, Any] = {}

    def describe(self) -> str:
        return self._shown

    def submit(self, folders: Sequence[Path]) -> None:
        with self._executor.batch():
            jobs = [self._executor.submit(self._task, str(folder)) for folder in folders]
        self._running |= dict(zip(folders, jobs, strict=True))

    def ended(self) -> list[Path]:
        found = [folder for folder, running in self._running.items() if running.done()]
        for folder in found:
            error = self._running.pop(folder).exception()
            if error is not None:
                _note(folder, error)
        return found

    def stop(self) -> None:
        for running in self._running.values():
            running.cancel(check=False)

    def close(self) -> None:
        self.stop()


_SUBMITIT_OPTIONS = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")


def _in_slurm() -> Any:
    """What submitit sends to a node; made here, so that submitit is needed only where SLURM is."""
    import submitit

    class Task(submitit.helpers.Checkpointable):
        def __call__(self, folder: str) -> str:
            cores = os.environ.get("SLURM_CPUS_PER_TASK")
            return job.work(folder, None, int(cores) if cores else None).status

        def checkpoint(self, folder: str) -> Any:
            """Preempted, or out of time: the engine snapshots, and the same job is handed in again."""
            process.stop_running(_PREEMPTED_SECONDS)
            return submitit.helpers.DelayedSubmission(self, folder)

    return Task()


def _note(folder: Path, error: BaseException) -> None:
    """Keep why a scheduler's job ended without a word of its own."""
    with open(folder / job.SAID, "a", encoding="utf-8") as said:
        print(f"{type(error).__name__}: {error}", file=said)


def _number(text: str) -> Any:
    return int(text) if text.lstrip("-").isdigit() else text


def _imported(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise DriverError(
            f"--on {'ray' if module == 'ray' else 'slurm'}",
            f"found no {module} ({error}); install it with: pip install 'allconv-caffe[{extra}]'",
        ) from None


def _python_path() -> str:
    """For processes of ours: this installation first."""
    root = str(Path(__file__).resolve().parents[2])
    parts: Iterable[str] = (root, *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys(part for part in parts if part))
