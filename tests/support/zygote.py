"""Processes that run `sepline` verbs without importing TensorFlow and Beam each anew: forks of one that has.

A fork is a process like any other: it has its own number, runs the program's own `main`, and can be killed.
Run as a script, this is the parent: it reads a JSON list of arguments a line, and answers with the fork's number, and
with its exit code once it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from conftest import PROJECT


class Child:
    """A verb that runs in a fork."""

    def __init__(self, pid: int, parent: Zygote) -> None:
        self.pid, self._parent = pid, parent

    def wait(self) -> int:
        """Returns the exit code; -9 of a killed one."""
        return int(self._parent.answer())

    def kill_when(self, moment: Callable[[], bool], *, seconds: float = 120) -> int:
        """Kills the process as soon as the moment has come, if it still runs, and returns its exit code."""
        deadline = time.monotonic() + seconds
        while not moment() and _runs(self.pid):
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.0005)
        if _runs(self.pid):
            os.kill(self.pid, 9)
        return self.wait()


class Zygote:
    """The parent; a context manager."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> Zygote:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._log)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, *arguments: str) -> Child:
        """Starts a verb."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return Child(int(self.answer()), self)

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _serve(log: str) -> None:
    import pipelines.cli
    import pipelines.preprocessing.preprocess
    import pipelines.retraining.evaluation
    import pipelines.retraining.retrain
    import pipelines.terminal

    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = 70
            try:
                code = pipelines.cli.main(json.loads(line))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
