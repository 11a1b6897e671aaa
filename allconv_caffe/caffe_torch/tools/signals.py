"""What SIGINT and SIGHUP do to a training: noted when they come, acted on between iterations.

Source: signal_handler.cpp, tools/caffe.cpp.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from allconv_caffe.caffe_torch.errors import CaffeError

EFFECTS = ("snapshot", "stop", "none")


class SignalHandler:
    """Catches SIGINT and SIGHUP while it is entered (`with SignalHandler(...) as handler`).

    Args:
        sigint_effect, sighup_effect: "stop", "snapshot" or "none".
    Raises: CaffeError for any other effect.
    """

    def __init__(self, sigint_effect: str = "stop", sighup_effect: str = "snapshot") -> None:
        for effect in (sigint_effect, sighup_effect):
            if effect not in EFFECTS:
                raise CaffeError(f'Invalid signal effect "{effect}" was specified (choices: {", ".join(EFFECTS)})')
        self.effects = {signal.SIGHUP: sighup_effect, signal.SIGINT: sigint_effect}  # SIGHUP is looked at first
        self._got: set[int] = set()
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> SignalHandler:
        for number in self.effects:
            self._before[number] = signal.signal(number, self._note)
            signal.siginterrupt(number, False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def action(self) -> str:
        """What is asked for since the last call: "none", "stop" or "snapshot". Each signal counts once."""
        for number, effect in self.effects.items():
            if number in self._got:
                self._got.discard(number)
                return effect
        return "none"

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._got.add(number)
