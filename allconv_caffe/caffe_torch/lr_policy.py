"""Learning rate policies: ``policy(param, iter, current_step, log) -> (rate, current_step)``.

Arithmetic is Caffe's: fixed, step, exp and multistep round one double product to float32; inv, poly and sigmoid are
float32 throughout. Source: sgd_solver.cpp, GetLearningRate.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.proto import SolverParameter

F = np.float32
_LIBC = ctypes.CDLL(None)  # with the C library's own powf and expf: NumPy's differ here and there in the last digit
_powf, _expf = _LIBC.powf, _LIBC.expf
_powf.argtypes, _expf.argtypes = (ctypes.c_float, ctypes.c_float), (ctypes.c_float,)
_powf.restype = _expf.restype = ctypes.c_float
Policy = Callable[[SolverParameter, int, int], tuple[float, int]]
POLICIES: dict[str, Policy] = {}


def learning_rate(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """The rate of iteration `iteration` (float32 value) and the step count after it.

    Only multistep uses `current_step`, which rises by at most one a call, as in Caffe.

    Raises:
        CaffeError: unknown policy, stepsize or gamma out of range.
    """
    if param.lr_policy not in POLICIES:
        raise CaffeError(f"Unknown learning rate policy: {param.lr_policy} (known policies: {', '.join(POLICIES)})")
    with np.errstate(all="ignore"):
        return POLICIES[param.lr_policy](param, iteration, current_step)


def check_policy(param: SolverParameter) -> None:
    """Raises CaffeError now for what would stop the first update."""
    learning_rate(param, 0, 0)


def policy(name: str) -> Callable[[Policy], Policy]:
    def add(function: Policy) -> Policy:
        if name in POLICIES:
            raise ValueError(f"learning rate policy {name} is already registered")
        POLICIES[name] = function
        return function

    return add


def _check_gamma(param: SolverParameter) -> float:
    check(param.gamma >= 0, f"Check failed: this->param_.gamma() >= 0 ({param.gamma:g} vs. 0)")
    return float(F(param.gamma))


def _check_stepsize(param: SolverParameter) -> int:
    check(param.stepsize > 0, f"Check failed: this->param_.stepsize() > 0 ({param.stepsize} vs. 0)")
    return int(param.stepsize)


def _power(param: SolverParameter, gamma: float, exponent: int) -> float:
    return float(F(float(F(param.base_lr)) * np.float64(gamma) ** exponent))


@policy("fixed")
def fixed(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr"""
    return float(F(param.base_lr)), current_step


@policy("step")
def step(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr * gamma ^ floor(iter / stepsize)"""
    current_step = iteration // _check_stepsize(param)
    return _power(param, _check_gamma(param), current_step), current_step


@policy("exp")
def exp(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr * gamma ^ iter"""
    return _power(param, _check_gamma(param), iteration), current_step


@policy("inv")
def inv(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr * (1 + gamma * iter) ^ (-power)"""
    base = F(1) + F(_check_gamma(param)) * F(iteration)
    return float(F(param.base_lr) * F(_powf(base, -F(param.power)))), current_step


@policy("multistep")
def multistep(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr * gamma ^ (number of stepvalues passed)"""
    if current_step < len(param.stepvalue) and iteration >= param.stepvalue[current_step]:
        current_step += 1
    return _power(param, _check_gamma(param), current_step), current_step


@policy("poly")
def poly(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr * (1 - iter / max_iter) ^ power"""
    left = F(1) - F(iteration) / F(param.max_iter)
    return float(F(param.base_lr) * F(_powf(left, F(param.power)))), current_step


@policy("sigmoid")
def sigmoid(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    """base_lr / (1 + exp(-gamma * (iter - stepsize)))"""
    gamma, stepsize = F(_check_gamma(param)), _check_stepsize(param)
    return float(F(param.base_lr) * (F(1) / (F(1) + F(_expf(-gamma * F(iteration - stepsize)))))), current_step
