"""A process that loads TensorFlow and Beam, runs nothing, and forks a worker at each request.

TensorFlow doesn't survive a fork once it has run, but a process that has only loaded it can be forked. So a worker
starts at once, workers share the memory of what is loaded, and the process that starts them need not load it.

However the process that started them ends, the server then kills its workers, even stopped ones, and ends. If the
server itself dies, so do the workers. So a killed job writes nothing more.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from typing import Any

from model.errors import JobFailure
from pipelines.runners import machine
from pipelines.runners.quiet_imports import keep_imports_quiet

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # which may be sent to the whole group; only the starting process must react
_REPLY = struct.Struct("!ii")  # a worker's id and its exit code, or _STARTED; or _FAILED and the error's number
_STARTED = 1 << 16
_FAILED = -1
GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""What a channel raises when the process at its other end has ended."""
_ENDED = "the process that starts the workers has ended; if memory ran out, take fewer --workers"


@dataclass(slots=True)
class Worker:
    """A forked process.

    Attributes:
        pid: its id.
        channel: what it sends comes out here.
    """

    pid: int
    channel: Connection


class ForkServer:
    """Starts workers. It belongs to one thread of one process."""

    def __init__(self, *modules: str) -> None:
        """Sets it up; `modules` are loaded before the first worker is forked."""
        self._modules = modules
        self._control: socket.socket | None = None
        self._pid = 0
        self._ends: deque[tuple[int, int]] = deque()

    @property
    def control(self) -> socket.socket:
        """The socket that becomes readable when a worker has ended."""
        assert self._control is not None
        return self._control

    def start(self) -> None:
        """Lets the server begin to load, and does not wait for that; does nothing if it runs already."""
        if self._control is not None:
            return
        ours, theirs = socket.socketpair()
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if _can_fork():
                self._pid = os.fork()
                if self._pid == 0:
                    ours.close()
                    serve(theirs.detach(), self._modules)
            else:
                theirs.set_inheritable(True)
                code = (
                    f"import sys; sys.path[:] = {sys.path!r}; from pipelines.runners.fork_server import serve; "
                    f"serve({theirs.fileno()}, {self._modules!r})"
                )
                command = [sys.executable, "-c", code]
                self._pid = os.posix_spawn(sys.executable, command, os.environ, setsigmask=_SIGNALS)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            theirs.close()
        self._control = ours

    def fork(self, function: str, *arguments: Any) -> Worker:
        """Starts a worker that runs a function, and returns it.

        Args:
            function: its name, as `module:name`.
            arguments: of the function; they are pickled.

        Raises:
            JobFailure: the server has died, or no process can be started.
            OSError: the worker can't be told what to run.
        """
        self.start()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                socket.send_fds(self.control, [b"."], [theirs.fileno()])
            except OSError:
                raise self._lost() from None
            theirs.close()
            pid, code = self._receive()
            while code != _STARTED and pid != _FAILED:
                self._ends.append((pid, code))
                pid, code = self._receive()
            if pid == _FAILED:
                raise JobFailure(f"no worker process can be started: {os.strerror(code)}")
            channel = Connection(ours.detach())
        with suppress(*GONE):  # one that is killed by now is told by its end
            channel.send_bytes(pickle.dumps((function, arguments, os.getcwd())))
        return Worker(pid, channel)

    def next_end(self) -> tuple[int, int]:
        """Waits for the end of any worker, and returns its id and its exit code: -9 if SIGKILL ended it.

        Raises:
            JobFailure: the server has died.
        """
        return self._ends.popleft() if self._ends else self._receive()

    def has_end(self) -> bool:
        """Returns True if `next_end` would not wait."""
        return bool(self._ends)

    def stop(self) -> None:
        """Kills all workers and ends the server."""
        if self._control is not None:
            self._control.close()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)  # it may still be loading, and would notice only then
                os.waitpid(self._pid, 0)
            self._control = None
            self._ends.clear()

    def forget(self) -> None:
        """Leaves the server to the process from which this one was forked."""
        if self._control is not None:
            self._control.close()
            self._control = None
            self._ends.clear()

    def _receive(self) -> tuple[int, int]:
        try:
            reply = self.control.recv(_REPLY.size, socket.MSG_WAITALL)
        except OSError:
            reply = b""
        if len(reply) < _REPLY.size:
            raise self._lost()
        pid, code = _REPLY.unpack(reply)
        return pid, code

    def _lost(self) -> JobFailure:
        self.stop()
        return JobFailure(_ENDED)


@functools.cache
def fork_server(*modules: str) -> ForkServer:
    """Returns the process's server that loads these modules; it ends with the process."""
    server = ForkServer(*modules)
    atexit.register(server.stop)
    os.register_at_fork(after_in_child=server.forget)
    return server


def _can_fork() -> bool:
    """Returns True if a fork of this process can run Python: then what it has loaded is neither loaded nor held twice.

    Threads of numpy and Arrow, which a command has from loading them, do no harm. Nobody knows what the threads of a
    program do that uses sepline as a library, and TensorFlow doesn't survive a fork once it has run.
    """
    if machine.runs_command and sys.platform == "linux" and "tensorflow" not in sys.modules:
        return threading.active_count() == 1
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def serve(control: int, modules: tuple[str, ...]) -> None:
    """The server: loads the modules, forks a worker for every channel that it is sent, and tells how they end."""
    try:
        wake, wakeup = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # else it wakes nobody
        signal.set_wakeup_fd(wakeup)
        keep_imports_quiet()
        for module in modules:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # collections in the workers would copy the memory that they share
        _serve(socket.socket(fileno=control), wake)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _serve(control: socket.socket, wake: int) -> None:
    watched, alive = os.pipe()  # only this process keeps `alive` open
    workers: set[int] = set()
    try:
        while True:
            select.select([control.fileno(), wake], [], [])
            with suppress(BlockingIOError):
                os.read(wake, 4096)
            while workers and (end := os.waitpid(-1, os.WNOHANG))[0]:
                workers.discard(end[0])
                control.sendall(_REPLY.pack(end[0], os.waitstatus_to_exitcode(end[1])))
            if not select.select([control], [], [], 0)[0]:
                continue
            asked, channels, _, _ = socket.recv_fds(control, 1, 1)
            if not asked:
                return
            try:
                pid = os.fork()
            except OSError as error:
                control.sendall(_REPLY.pack(_FAILED, error.errno or 0))
            else:
                if pid == 0:
                    workers.clear()  # they are not this process's
                    os.close(alive)
                    control.close()
                    _work(channels[0], watched)
                workers.add(pid)
                control.sendall(_REPLY.pack(pid, _STARTED))
            os.close(channels[0])
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)


_to_starter: list[Connection] = []  # of a worker, which has one
_sending = threading.Lock()


def tell(message: Any, *, by: str) -> None:
    """Sends a message to the process that started this worker; does nothing in other processes.

    Args:
        message: what is told.
        by: the part of the worker that tells it; of each part, the last message counts.
    """
    for channel in _to_starter:
        with _sending:
            channel.send(("told", (by, message)))


def ask() -> Any:
    """Returns what the process that started this worker supplies next; only one thread may ask."""
    (channel,) = _to_starter
    with _sending:
        channel.send(("asked", None))
    return channel.recv()


def has_starter() -> bool:
    """Returns whether this process is a worker, to whose starter `tell` sends."""
    return bool(_to_starter)


def _work(channel: int, watched: int) -> None:
    """A worker: runs the function that it is sent, and sends what it returns or the traceback of what it raises."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=_die_with_server, args=(watched,), daemon=True).start()
        to_starter = Connection(channel)
        _to_starter.append(to_starter)
        try:
            name, arguments, place = pickle.loads(to_starter.recv_bytes())
            os.chdir(place)  # the server may have been started elsewhere
            result = resolve_name(name)(*arguments)
            with _sending:
                to_starter.send(("returned", result))
            code = 0
        except BaseException:
            with _sending:
                to_starter.send(("raised", traceback.format_exc()))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _die_with_server(watched: int) -> None:
    os.read(watched, 1)
    os.kill(os.getpid(), signal.SIGKILL)
