"""Runs a command as a user would, and measures it from outside: seconds, processor seconds, and memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took, with all processes that it started.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of all processes that ended in order.
        peak_mib: the most memory that all processes had at a time; pages that they share count once.
        output: what it printed on standard output.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


class CommandError(Exception):
    """The command failed; the message is the last line that it printed on standard error."""


def run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cores: Sequence[int] | None = None
) -> Usage:
    """Runs a command and returns what it took.

    Args:
        command: program and arguments.
        environment: is added to that of this process.
        cores: the only cores that it may use; None for those of this process.

    Raises:
        CommandError: its exit code is not 0.
    """
    command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command] if cores else list(command)
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # so that its processes are found by their session
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ended = threading.Event()
        totals: list[int] = [0]
        errors: list[str] = []
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, totals))
        reader = threading.Thread(target=errors.extend, args=(process.stderr,))
        watcher.start()
        reader.start()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        reader.join()
    if process.returncode:
        said = [line.strip() for line in errors if line.strip()] or ["nothing"]
        raise CommandError(f"exit code {process.returncode}: {said[-1]}")
    # The peak in `usage` is no use: it is that of one process, and begins with that of this one.
    return Usage(seconds, usage.ru_utime + usage.ru_stime, max(totals) / 1024, output)


def _watch(session: int, ended: threading.Event, totals: list[int]) -> None:
    """Notes the memory of a session's processes in KiB again and again, until the event."""
    while not ended.wait(_SECONDS_BETWEEN_LOOKS):
        totals.append(sum(map(_memory, _processes(session))))


def _processes(session: int) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if process.name.isdigit() and os.getsid(int(process.name)) == session:
                yield process


def _memory(process: Path) -> int:
    """Returns a process's proportional set size in KiB: of a page that several share, each has its share."""
    try:
        rolled_up = (process / "smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(rolled_up.partition("\nPss:")[2].split(maxsplit=1)[0] or 0)
