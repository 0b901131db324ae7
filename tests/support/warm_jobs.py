"""Real processes of `sepline`, without the seconds that importing TensorFlow and Beam takes each time.

One process imports them, runs nothing, and forks a child for every job. The child is a process like any other: it
can be killed, and has nothing of an earlier job in it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

_DEADLINE_SECONDS = 120.0


class WarmJobs:
    """Starts jobs; use it as a context manager.

    Attributes:
        errors: the file to which what the jobs print on standard error is appended.
        pid: the process that starts them.
    """

    def __init__(self, errors: Path, *, prefix: Sequence[str] = ()) -> None:
        """`prefix` is a command that runs the command that follows it."""
        self.errors, self._prefix = errors, prefix

    def __enter__(self) -> WarmJobs:
        with open(self.errors, "ab") as errors:
            self._server = subprocess.Popen(
                [*self._prefix, sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self._server.pid
        self._said()  # it is ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.communicate()

    def start(self, arguments: Sequence[str]) -> Job:
        """Starts `sepline ARGUMENTS`."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(list(arguments)) + "\n")
        self._server.stdin.flush()
        return Job(int(self._said()), self._reap)

    def run(self, arguments: Sequence[str]) -> int:
        """Runs `sepline ARGUMENTS` and returns its exit code."""
        job = self.start(arguments)
        job.wait_until(lambda: False)
        return job.wait()

    def _reap(self) -> int:
        assert self._server.stdin is not None
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return int(self._said())

    def _said(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, self.errors.read_text(encoding="utf-8", errors="replace")
        return line


class Job:
    """A running job."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        self.pid, self._reap = pid, reap

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it has not ended yet; it stays a zombie until `wait`, so the id is its own."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Returns the exit code, or minus the number of the signal that ended it."""
        return self._reap()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds or the job has ended."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition() and self._running():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def children(self) -> list[int]:
        """Returns the ids of the processes that it has started."""
        return [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == self.pid
        ]

    def _running(self) -> bool:
        state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state != "Z"


def _serve() -> None:
    from pipelines.cli import main
    from pipelines.runners.quiet_imports import keep_imports_quiet

    keep_imports_quiet()
    import pipelines.scoring.dry_run  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    print("ready", flush=True)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = main(json.loads(line))
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()  # reaped only when asked, so that its id cannot become another's meanwhile
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
