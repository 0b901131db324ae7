"""Programs that the tests of runners start: servers, pools of SDK workers, an object store, a Python with the sdist."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from conftest import PROJECT

from support.constraints import pinned_versions
from support.requirements import skip_unless_required

BEAM = pinned_versions()["apache-beam"]
_CACHE = Path(os.environ.get("SEPLINE_CACHE") or Path.home() / ".cache" / "sepline")


def prism_binary() -> Path:
    """Returns the binary of Prism, Beam's portable runner, in this Beam version."""
    return _go_binary("github.com/apache/beam/sdks/v2/go/cmd/prism", BEAM, capability="prism")


def versitygw_binary() -> Path:
    """Returns a server that speaks S3 and keeps each object as a file."""
    return _go_binary("github.com/versity/versitygw/cmd/versitygw", "1.8.0", capability="s3")


def _go_binary(package: str, version: str, *, capability: str) -> Path:
    """Returns a program built from the Go proxy, into the user's cache on first use."""
    name = package.rpartition("/")[2]
    variable = f"SEPLINE_{name.upper()}"
    if given := os.environ.get(variable):
        return Path(given)
    if shutil.which("go") is None:
        reason = f"{name} is built with Go, which is not installed; {variable} may name a binary"
        skip_unless_required(capability, reason)
    command = ["go", "install", f"{package}@v{version}"]

    def install(folder: Path) -> list[str]:
        return ["env", f"GOBIN={folder}", *command]

    return cached(f"{name}-{version}", install, capability=capability) / name


def python_package(requirement: str, *, capability: str) -> Path:
    """Returns a folder with the Python package of a runner, without its dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]

    def install(folder: Path) -> list[str]:
        return [*pip, "--target", str(folder), requirement]

    return cached(requirement.replace("==", "-"), install, capability=capability)


def cached(name: str, command: Callable[[Path], list[str]], *, capability: str) -> Path:
    """Returns a folder of the user's cache that a command fills on first use.

    The test is skipped where that fails, unless the capability is required.
    """
    folder = _CACHE / name
    if not folder.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
            filled = Path(scratch) / name
            result = subprocess.run(command(filled), capture_output=True, text=True, check=False)
            if result.returncode:
                skip_unless_required(capability, f"{name} can't be had: {result.stderr.strip().splitlines()[-1]}")
            filled.rename(folder)
    return folder


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, *, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Runs a program, and what it starts, until the block ends; yields its process id."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=log.parent, env=env
        )
    try:
        yield process.pid
    finally:
        kill(process.pid)
        process.wait()


@contextmanager
def server(
    command: list[str], port: int, log: Path, *, env: Mapping[str, str] | None = None, host: str = "localhost"
) -> Iterator[int]:
    """Runs a server until the block ends; yields its process id once it listens on the port."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0

    with running(command, log, env=env) as pid:
        wait_until(listens, log.parent)
        yield pid


def wait_until(ready: Callable[[], bool], logs: Path) -> None:
    """Waits two minutes until it is so, or fails with the ends of a folder's logs."""
    deadline = time.monotonic() + 120
    while not ready():
        ends = [f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in sorted(logs.glob("*.txt"))]
        assert time.monotonic() < deadline, "\n".join(ends)
        time.sleep(0.1)


def kill(pid: int) -> None:
    """Kills a process and its children, if they are there."""
    for process in (*children(pid), pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Returns the ids of a process's children, whichever of its threads started them."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text(encoding="utf-8").split()]
        except OSError:  # the thread has ended
            continue
    return found


def install_sdist(folder: Path) -> Path:
    """Builds the sdist as Beam does for --setup_file, installs it into an environment of its own, returns its Python.

    The environment sees the packages of this one, but not the checkout: files named .pth, with which an editable
    install points to its source, count only in the environment that they lie in.
    """
    source = folder / "source"  # building leaves files beside the code
    for name in ("model", "pipelines"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    _run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(folder / "dist")], source)
    (archive,) = (folder / "dist").glob("sepline-*.tar.gz")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    _run([*command, "--target", str(packages), str(archive)], folder)
    return environment / "bin" / "python"


def without_checkout(python: Path) -> dict[str, str]:
    """Returns the variables for a process that must find `python` first, and the project only where it is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PATH": f"{python.parent}:{kept['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
