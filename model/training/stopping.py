"""Lets a training that is told to stop, by SIGTERM or Ctrl-C, end after the step that it is at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from model.errors import Interrupted, Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the training has been told to stop."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def end(self, message: str) -> None:
        """Ends the training.

        Raises:
            Interrupted: always; `Terminated` after SIGTERM.
        """
        raise (
            Terminated(f"terminated; {message}")
            if self._signal == signal.SIGTERM
            else Interrupted(f"interrupted; {message}")
        )

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the second one ends the training at once."""
        if self._signal is not None:
            self.end("the last checkpoint is kept; repeat the command to continue")
        self._signal = number


@contextmanager
def stopping_between_steps() -> Iterator[Stop]:
    """Yields what says whether to stop. Signals that are ignored stay so, and only the main thread gets any."""
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, stop.note) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
