"""Local worker processes: how many suit this machine, how they share it, and how they end."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any

from model.threads import limit_threads
from pipelines.runners.fork_server import GONE, ForkServer, Worker
from pipelines.runners.machine import free_memory, usable_cores

_BYTES_A_WORKER = 2 << 30  # TensorFlow, Beam, a chunk and a micro-batch, without the model
_MODEL_COPIES = 3  # memory for a model and its activations, in model sizes on disk
_CORES_A_WORKER = 4


def default_workers(model: Path, *, gpus: int = 0) -> int:
    """Returns the default number of processes: one a GPU, else one for every four cores if there is memory for them.

    Args:
        model: folder of the model that each process loads.
        gpus: how many GPUs TensorFlow can use.
    """
    if gpus:
        return gpus
    model_bytes = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    in_memory = free_memory() // (_BYTES_A_WORKER + _MODEL_COPIES * model_bytes)
    return max(1, min(usable_cores() // _CORES_A_WORKER, in_memory))


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended.

    Attributes:
        key: which worker it was, as `LocalWorkers.start` was told.
        died: what ended it, such as `signal 9`; None if it did its work.
        told: the last thing that each of its parts told, see `fork_server.tell`; the newest comes last.
        returned: what its function returned.
    """

    key: Any
    died: str | None
    told: tuple[Any, ...]
    returned: Any


@dataclass(slots=True)
class _Running:
    key: Hashable
    worker: Worker
    supply: Callable[[], Any]
    told: dict[str, Any] = field(default_factory=dict)
    returned: Any = None
    raised: str | None = None


class LocalWorkers:
    """Worker processes of this machine. A context manager, which kills those that are left when it ends."""

    def __init__(self, server: ForkServer, workers: int, *, gpus: Sequence[str] = ()) -> None:
        """Sets it up.

        Args:
            server: which starts them.
            workers: among how many the machine's cores are divided.
            gpus: the names of the GPUs, dealt out in turn.
        """
        self._server, self._gpus = server, gpus
        self._threads = max(1, usable_cores() // workers)
        self._running: dict[int, _Running] = {}
        self._ended: deque[End] = deque()
        self._started = 0

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        while self._running:
            self._reap()

    def start(
        self,
        key: Hashable,
        function: str,
        *arguments: Any,
        gpu: int = 0,
        supply: Callable[[], Any] = lambda: None,
    ) -> None:
        """Starts a worker.

        Args:
            key: what its `End` is to carry.
            function: its name, as `module:name`.
            arguments: of the function; they are pickled.
            gpu: the number of its GPU, counted on from the first again after the last.
            supply: returns what the worker gets each time that it asks, see `fork_server.ask`.

        Raises:
            JobFailure: no process can be started.
        """
        own = self._gpus[gpu % len(self._gpus)] if self._gpus else None
        worker = self._server.fork(f"{__name__}:run_with_share", self._threads, own, function, arguments)
        self._running[worker.pid] = _Running(key, worker, supply)

    def next_end(self, key: Hashable = None) -> End | None:
        """Waits for the next end of a worker, or of the one with the given key; None if none is left.

        Raises:
            JobFailure: the process that starts the workers died, and they with it.
            RuntimeError: a worker's function raised; the message has its traceback.
        """
        while True:
            for end in self._ended:
                if key is None or end.key == key:
                    self._ended.remove(end)
                    return end
            if not self._running:
                return None
            self._watch()

    def run(self, function: str, *arguments: Any) -> End:
        """Runs a function in one more worker and returns its end.

        Raises:
            JobFailure, RuntimeError: as `start` and `next_end`.
        """
        key = object()
        self.start(key, function, *arguments)
        end = self.next_end(key)
        assert end is not None
        return end

    def _watch(self) -> None:
        """Takes what the workers send, and waits for it; then takes the end of one of them, if there is one."""
        if not self._server.has_end():
            channels = {running.worker.channel: running for running in self._running.values()}
            ready = wait([self._server.control, *channels])
            for channel in ready:
                if channel in channels and not _take(channels[channel]):
                    return self._reap_into_ended()
            if self._server.control not in ready:
                return
        self._reap_into_ended()

    def _reap_into_ended(self) -> None:
        running, code = self._reap()
        if running.raised is not None:
            raise RuntimeError(f"in a worker process: {running.raised}")
        died = None if code == 0 else f"signal {-code}" if code < 0 else f"exit code {code}"
        self._ended.append(End(running.key, died, tuple(running.told.values()), running.returned))

    def _reap(self) -> tuple[_Running, int]:
        pid, code = self._server.next_end()
        running = self._running.pop(pid)
        while _take(running):
            pass
        running.worker.channel.close()
        return running, code


def _take(running: _Running) -> bool:
    """Takes a message of a worker; returns False if there can be none any more."""
    try:
        kind, content = running.worker.channel.recv()
    except GONE:
        return False
    if kind == "told":
        part, message = content
        running.told.pop(part, None)  # the newest comes last
        running.told[part] = message
    elif kind == "asked":
        with suppress(*GONE):  # one that is dead by now is told by its end
            running.worker.channel.send(running.supply())
    elif kind == "returned":
        running.returned = content
    else:
        running.raised = content
    return True


def run_with_share(threads: int, gpu: str | None, function: str, arguments: Sequence[Any]) -> Any:
    """Runs a function in a worker, with its share of the machine's cores and GPUs."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # which CUDA reads when TensorFlow first runs
    limit_threads(threads)
    return resolve_name(function)(*arguments)


def count_gpus() -> int:
    """Returns the number of GPUs that TensorFlow can use; call it in a worker."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))
