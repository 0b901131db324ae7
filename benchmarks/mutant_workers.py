"""Processes that run tests against mutants: each has a copy of the project, and forks for each mutant.

Run as a script, this is the parent of the forks: it imports the large libraries once, reads one request per line, and
answers with the verdict. A fork imports the project's own modules itself, so it sees the mutant in the copy.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

PROJECT = Path(__file__).parent.parent
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
_LIBRARIES = [
    *("apache_beam", "keras", "numpy", "pydantic.main", "tensorflow_text", "yaml", "zstandard"),
    *("lxml.etree", "pyarrow.parquet", "hypothesis.strategies", "scipy.optimize", "scipy.stats"),
    *("sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics"),
]

_MOST_MEMORY = 6 << 30


@dataclass(frozen=True)
class Outcome:
    """What came of the tests of one mutant.

    Attributes:
        verdict: `KILLED`, `SURVIVED` or `TIMEOUT`.
        test: the first test that failed, if one did.
        seconds: the processor time that the tests took.
    """

    verdict: str
    test: str | None
    seconds: float


class Worker:
    """A copy of the project and its process; a context manager."""

    def __init__(self, template: Path = PROJECT) -> None:
        """Copies the project, or another worker's copy of it with what Python has compiled there."""
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-")
        self.path = Path(self._folder.name) / "project"
        if template == PROJECT:
            for file in _project_files():
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / file, self.path / file)
        else:
            shutil.copytree(template, self.path)

    def __enter__(self) -> Worker:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.path),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=self.path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def run(
        self,
        tests: Sequence[str],
        *,
        skipped: Collection[str] = (),
        first: Sequence[str] = (),
        limit: float = 300,
        compile: bool = True,
    ) -> Outcome:
        """Returns what the tests say of the copy as it stands.

        Args:
            tests: their files.
            skipped: names of tests that do not run.
            first: tests that run before the others, in this order.
            limit: seconds of processor time.
            compile: whether compiled files are kept in the copy.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"tests": [*tests], "skipped": [*skipped], "first": [*first], "limit": limit, "compile": compile}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def run_mutant(self, module: str, source: str, tests: Sequence[str], **options: Any) -> Outcome:
        """As `run`, with `source` in a module's place."""
        path = self.path / module
        own, times = path.read_bytes(), path.stat()
        path.write_text(source, encoding="utf-8")
        # The fork keeps no compiled files, and takes those of the module itself for out of date.
        os.utime(path, (times.st_atime, times.st_mtime + 10))
        try:
            return self.run(tests, compile=False, **options)
        finally:
            path.write_bytes(own)
            os.utime(path, (times.st_atime, times.st_mtime))


class _Plugin:
    """Runs the likeliest killers first, and notes which test failed."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.failed: str | None = None
        self._request = request

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        ranks = {test: rank for rank, test in enumerate(self._request["first"])}
        kept = [item for item in items if item.name.partition("[")[0] not in self._request["skipped"]]
        items[:] = sorted(kept, key=lambda item: ranks.get(item.nodeid, len(ranks)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.failed is None:
            self.failed = f"{report.nodeid} (import)"


def _project_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [file for file in listed.stdout.splitlines() if (PROJECT / file).is_file()]


def _serve() -> None:
    for library in _LIBRARIES:
        importlib.import_module(library)
    # Without shrinking: that a test fails is enough.
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    hypothesis.settings.load_profile("mutants")
    gc.freeze()  # collections in the forks would touch, and so copy, all of the parent's memory
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _run_tests(request, writer)
    os.close(writer)
    _, status, usage = os.wait4(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with os.fdopen(reader) as answer:
        failed = answer.read()
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGALRM):
        verdict = TIMEOUT
    elif code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise RuntimeError(f"no tests in {request['tests']}")
    else:
        verdict = KILLED if code else SURVIVED
    return {"verdict": verdict, "test": failed or None, "seconds": round(usage.ru_utime + usage.ru_stime, 2)}


def _run_tests(request: dict[str, Any], writer: int) -> NoReturn:
    os.setsid()  # a group of its own, so that no process of a test outlives it
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.dont_write_bytecode = not request["compile"]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    seconds = int(request["limit"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    signal.alarm(10 * seconds)  # one that only waits takes no processor time
    plugin = _Plugin(request)
    code = 70
    try:
        arguments = ["-x", "--assert=plain", "-p", "no:cacheprovider", "-o", "addopts=", *request["tests"]]
        code = pytest.main(arguments, plugins=[plugin])
    finally:
        os.write(writer, (plugin.failed or "").encode())
        os._exit(code)


if __name__ == "__main__":
    _serve()
