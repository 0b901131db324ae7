"""Runs a command as a user would, and measures it from outside: seconds, processor seconds, and memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took, with all processes that it started.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of all processes that ended in order.
        peak_mib: the peaks of resident memory of all processes, added up; pages that they share count in each.
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
        peaks: dict[int, int] = {}
        errors: list[str] = []
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, peaks))
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
    # The peak in `usage` is no use: it begins with that of this process, from before the command was loaded.
    return Usage(seconds, usage.ru_utime + usage.ru_stime, sum(peaks.values()) / 1024, output)


def _watch(session: int, ended: threading.Event, peaks: dict[int, int]) -> None:
    """Notes the peak of each process of a session in KiB, until the event."""
    while not ended.wait(_SECONDS_BETWEEN_LOOKS):
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                pid = int(process.name)
                try:
                    if os.getsid(pid) != session:
                        continue
                    status = (process / "status").read_text(encoding="utf-8")
                except OSError:  # it has ended meanwhile
                    continue
                peak = status.partition("VmHWM:")[2].split(maxsplit=1)
                if peak:
                    peaks[pid] = max(peaks.get(pid, 0), int(peak[0]))
