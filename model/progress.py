"""Progress on standard error: a bar on a terminal, otherwise a line every half minute."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from model.console import VisibleConsole
from model.screen import visible, visible_stream

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReporter:
    """Shows on standard error how far a step is and how much time is left.

    Args:
        title: the name of the step.
        total: how many units there are; None while that is not known.
        unit: what is counted.
        done: how many units an earlier run has done.

    Example:
        with ProgressReporter("epoch 1 of 3", total=120, unit="batches") as progress:
            progress.update(done=7, note="loss 0.61")
    """

    def __init__(self, title: str, *, total: int | None, unit: str, done: int = 0) -> None:
        self._title, self._total, self._unit, self._first = visible(title), total, unit, done
        console = VisibleConsole(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
            )
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> ProgressReporter:
        if self._bar:
            self._bar.start()  # takes what is written meanwhile for text with styles, and shows it above the bar
            sys.stdout, sys.stderr = visible_stream(sys.stdout), visible_stream(sys.stderr)
            self._task = self._bar.add_task(
                self._title, total=self._total, completed=self._first, unit=self._unit, note=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, *, done: int, total: int | None = None, note: str = "") -> None:
        """Reports that `done` units are done; `total` replaces the known total, `note` is shown next to the count."""
        self._total = total if total is not None else self._total
        now = time.monotonic()
        remaining = self._remaining(done, now - self._started)
        note = ", ".join(part for part in (visible(note), remaining) if part)
        if self._bar:
            self._bar.update(self._task, completed=done, total=self._total, note=note)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            of_total = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self._title}: {done:,}{of_total} {self._unit}, {note}".rstrip(", "), file=sys.stderr, flush=True)

    def _remaining(self, done: int, seconds: float) -> str:
        if self._total is None or done <= self._first or done >= self._total:
            return ""
        return f"{show_seconds((self._total - done) * seconds / (done - self._first))} left"


def show_seconds(seconds: float) -> str:
    """Returns a duration with at most two digits: `45 s`, `12 min`, `3.5 h`."""
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * size:
            return f"{seconds / size:.{0 if unit == 's' or seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"
