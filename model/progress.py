"""Progress for people: a bar where there is a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReporter:
    """Shows how far a step is, on standard error.

    Example:
        with ProgressReporter("epoch 1 of 3", total=120, unit="batches") as progress:
            progress.update(done=7, note="loss 0.61")
    """

    def __init__(self, title: str, *, total: int | None, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
        self._last_line = time.monotonic()

    def __enter__(self) -> ProgressReporter:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, unit=self._unit, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, *, done: int, note: str = "") -> None:
        """Says that `done` units are behind us; `note` is shown beside it."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            of_total = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self._title}: {done:,}{of_total} {self._unit}, {note}".rstrip(", "), file=sys.stderr, flush=True)
