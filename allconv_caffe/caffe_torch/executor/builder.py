"""Whoever needs a plan: finds it in the cache, or has it made by a process beside, see `build`."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.compiler import cached
from allconv_caffe.caffe_torch.executor import plan, shelf
from allconv_caffe.caffe_torch.executor.recipe import PACKAGE, Recipe

BUILD = "allconv_caffe.caffe_torch.executor.build"
BESIDE = "beside"
KERNELS = "kernels"  # after the recipes, or in their place
LOOK_SECONDS = 0.02
UNKNOWN = 2  # its exit status where the compiler's program is of another form than `build` knows


class Building:
    """A process that makes the plans of some recipes, one after the other.

    Args:
        beside: training goes on meanwhile, and comes first.
        kernels: those of forward passes, too, after the plans.
    """

    def __init__(self, recipes: Sequence[Recipe], beside: bool, kernels: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="allconv-caffe-")
        arguments = []
        for i, recipe in enumerate(recipes):
            path = Path(self._folder.name) / f"recipe{i}"
            path.write_text(recipe.text(), encoding="utf-8")
            arguments += [str(path), str(place(recipe, anew=True))]
        if kernels:
            arguments.append(KERNELS)
        found = os.environ.get("PYTHONPATH")
        paths = [str(PACKAGE.parent), *([found] if found else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if beside:
            environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
        self._said = open(Path(self._folder.name) / "said", "w+", encoding="utf-8")  # noqa: SIM115  (it lives as long)
        self._process = subprocess.Popen(
            [sys.executable, "-m", BUILD, BESIDE if beside else "first", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        atexit.register(self.stop)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def complaint(self) -> str:
        """What kept it from making a plan, in one line."""
        self._said.seek(0)
        lines = self._said.read().splitlines()
        return lines[-1] if lines else f"the process that compiles ended with status {self._process.poll()}"

    @property
    def program_unknown(self) -> bool:
        """It compiled, but what the compiler wrote cannot be made a plan."""
        return self._process.poll() == UNKNOWN

    def stop(self) -> None:
        """Ends it, and what it has started, done or not."""
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._said.close()
        self._folder.cleanup()
        atexit.unregister(self.stop)


_making: dict[str, Building] = {}
_damaged: set[str] = set()


def place(recipe: Recipe, anew: bool = False) -> Path:
    """The folder of the recipe's plan."""
    return cached(f"plans/{recipe.key}", anew or recipe.key in _damaged)


def is_there(recipe: Recipe) -> bool:
    return (place(recipe) / plan.LIST).exists()


def find(recipe: Recipe) -> plan.Function | None:
    """The plan's function, where there is one; a damaged one is said, and is none."""
    folder = place(recipe)
    if not shelf.use(folder):
        return None
    try:
        function, notes = plan.load(folder)
    except plan.DamagedPlanError as error:
        glog.warning("builder.py:1", f"{folder}: {error}; compiled again")
        _damaged.add(recipe.key)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    for note in notes:
        glog.info("builder.py:2", note)
    return function


def start(recipes: Sequence[Recipe], beside: bool, kernels: bool = False) -> Building:
    """A process that makes the plans that are missing, the first one first; then, if asked for, the kernels of forward passes."""
    building = Building([recipe for recipe in recipes if not is_there(recipe)], beside, kernels)
    _making.update((recipe.key, building) for recipe in recipes)
    return building


def get(recipe: Recipe, others: Sequence[Recipe] = ()) -> plan.Function | None:
    """The plan's function, made now if there is none; None, and a line in the log, where it cannot be made.

    Args:
        others: plans that will be asked for, and are made in the same process.
    """
    function = find(recipe)
    if function is not None:
        return function
    building = _making.get(recipe.key)
    if building is None or (building.ended and not building.program_unknown):
        building = start([recipe, *others], beside=False)
    while not building.ended and not is_there(recipe):
        time.sleep(LOOK_SECONDS)
    function = find(recipe)
    if function is None:
        glog.info("builder.py:1", f"No plan of the graph ({building.complaint}): compiled in this process")
    return function
