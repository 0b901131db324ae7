"""Real processes of `sepline`, without the seconds that importing TensorFlow and Beam takes each time.

One process imports them, runs nothing, and forks a child for every job. The child is a process like any other: it
can be killed, and has nothing of an earlier job in it. Run as a script, this is that process: it reads a job a line,
answers with the child's id, and with its exit code when asked for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

_DEADLINE_SECONDS = 300.0
_STOP = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


class WarmJobs:
    """Starts jobs, one after the other; use it as a context manager.

    A job that nobody has waited for, since a test failed meanwhile, is killed when the next one starts.

    Attributes:
        output, errors: the files to which what the jobs print is appended.
        pid: the process that starts them.
    """

    def __init__(self, logs: Path, *, prefix: Sequence[str] = ()) -> None:
        """Sets it up; `prefix` is a command that runs the command that follows it."""
        self.output, self.errors, self._prefix = logs / "output.txt", logs / "errors.txt", prefix

    def __enter__(self) -> WarmJobs:
        self.output.touch()
        with open(self.errors, "ab") as errors:
            self._server = subprocess.Popen(
                [*self._prefix, sys.executable, __file__, str(self.output)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self._server.pid
        self._running: Job | None = None
        self._answer()  # it is ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.communicate()

    def start(self, arguments: Sequence[str], *, before: str = "") -> Job:
        """Starts `sepline ARGUMENTS`; the process runs the Python code `before` first."""
        if self._running is not None:
            self._running.kill()
        self._ask(json.dumps([before, list(arguments)]))
        self._running = Job(int(self._answer()), self._reap)
        return self._running

    def run(self, arguments: Sequence[str], *, before: str = "") -> int:
        """Runs `sepline ARGUMENTS`, as `start` does, and returns its exit code."""
        return self.start(arguments, before=before).wait()

    def start_traced(self, arguments: Sequence[str], strace: Sequence[str]) -> tuple[Job, subprocess.Popen[bytes]]:
        """Starts `sepline ARGUMENTS` under strace, with the options that are given, and returns both processes.

        Raises:
            RuntimeError: strace can't trace it.
        """
        job = self.start(arguments, before=_STOP)
        job.wait_until_stopped()
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(job.pid), *strace], stdout=subprocess.DEVNULL)
        status = Path(f"/proc/{job.pid}/status")
        job.wait_until(lambda: tracer.poll() is not None or "TracerPid:\t0\n" not in status.read_text(encoding="utf-8"))
        if tracer.poll() is not None:
            raise RuntimeError(f"strace ended with {tracer.returncode}")
        job.send(signal.SIGCONT)
        return job, tracer

    def run_traced(self, arguments: Sequence[str], strace: Sequence[str]) -> int:
        """Runs `sepline ARGUMENTS`, as `start_traced` does, and returns its exit code."""
        job, tracer = self.start_traced(arguments, ["-o", "/dev/null", *strace])
        code = job.wait()
        tracer.wait()
        return code

    def _reap(self) -> int:
        self._running = None
        self._ask("")
        return int(self._answer())

    def _ask(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, self.errors.read_text(encoding="utf-8", errors="replace")
        return line


class Job:
    """A running job; its process stays a zombie until `wait`, so that its id is its own."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        self.pid, self._reap = pid, reap

    def send(self, *signals: signal.Signals) -> None:
        """Sends signals, which do nothing if it has ended; SIGCONT goes to the processes that it has started, too."""
        for number in signals:
            os.kill(self.pid, number)
            if number == signal.SIGCONT:
                for pid in self.family():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)

    def kill(self) -> int:
        """Kills it, if it has not ended, and returns the exit code: -9 unless it was quicker."""
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Returns the exit code, or minus the number of the signal that ended it."""
        return self._reap()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds or the job has ended."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition() and self._state() != "Z":
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.003)

    def has_ended(self) -> bool:
        """Returns whether it has ended, in whatever way."""
        return self._state() == "Z"

    def wait_until_stopped(self) -> None:
        """Waits until it, or a process that it has started, has stopped itself, as `stop_before` makes it do."""
        self.wait_until(lambda: bool(self.stopped()))
        assert self.stopped(), "the job has ended"

    def family(self) -> list[int]:
        """Returns the ids of the processes that it has started, and of those that these have started."""
        parents = {pid: int(stat[1]) for pid, stat in _stats().items()}
        found = [self.pid]
        for one in found:
            found += [pid for pid, parent in parents.items() if parent == one]
        return found[1:]

    def workers(self) -> list[int]:
        """Returns the ids of its local workers: its only child is the process that has started them."""
        return self.family()[1:]

    def stopped(self) -> list[int]:
        """Returns the ids of those of its processes that have stopped themselves."""
        stats = _stats()
        return [pid for pid in (self.pid, *self.family()) if pid in stats and stats[pid][0] == "T"]

    def _state(self) -> str:
        return _stats()[self.pid][0]


def _stats() -> dict[int, list[str]]:
    """Returns state, parent and more of every process, by its id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            found[int(stat.parent.name)] = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return found


def stop_before(pattern: str, *, times: int = 1, event: Literal["os.rename", "open"] = "os.rename") -> str:
    """Returns code for `WarmJobs.start` that makes a certain moment last: the process stops itself there, as by Ctrl-Z.

    Args:
        pattern: a regular expression, found in the path to which a file is about to be renamed, or that is opened.
        times: how many times that is to happen; the job stops before the last.
        event: Python's audit event.
    """
    return f"""
import re, signal, sys, threading

def stop(event, arguments, left=[{times}]):
    if event == {event!r} and re.search({pattern!r}, str(arguments[{int(event == "os.rename")}])):
        left[0] -= 1
        if left[0] == 0:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # not the process: another thread may be later

sys.addaudithook(stop)
"""


def kill_at(words: Mapping[str, Literal["reading", "splitting", "predicting"]], *, vocabulary: Sequence[str]) -> str:
    """Returns code for `WarmJobs.start` that makes documents kill the process that works on them, by SIGSEGV.

    Args:
        words: what is done with a document with a certain word when that happens.
        vocabulary: the model's pieces; words for `predicting` are among them.
    """
    ids = [vocabulary.index(word) for word, stage in words.items() if stage == "predicting"]
    return f"""
import os, signal
from pipelines.corpora import reader
from pipelines.scoring import pipeline

def deadly(function, is_deadly):
    def run(*arguments, **named):
        if is_deadly(arguments):
            os.kill(os.getpid(), signal.SIGSEGV)
        return function(*arguments, **named)
    return run

def has_word(stage):
    return lambda arguments: any(word in str(arguments[0]) for word, at in {dict(words)!r}.items() if at == stage)

reader.check_record = deadly(reader.check_record, has_word("reading"))
pipeline.split_document = deadly(pipeline.split_document, has_word("splitting"))
pipeline.Predictor.results = deadly(
    pipeline.Predictor.results,
    lambda arguments: any(set(window.token_ids) & set({ids!r}) for window in arguments[1]),
)
"""


def _serve(output: str) -> None:
    from pipelines.cli import main
    from pipelines.runners.quiet_imports import keep_imports_quiet

    keep_imports_quiet()
    import model.inference.openvino_imports
    import model.training.train  # noqa: F401
    import pipelines.preprocessing.preprocess
    import pipelines.retraining.evaluation
    import pipelines.scoring.dry_run  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    print("ready", flush=True)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), 1)
                before, arguments = json.loads(line)
                exec(before, {})
                code = main(arguments)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()  # reaped only when asked, so that its id cannot become another's meanwhile
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
