"""Local worker processes: each runs the same pipeline over its share of the units, with its share of the cores.

They are spawned, not forked, since TensorFlow does not survive a fork. They end with the process that started them,
however it ends, so that a killed job writes nothing more.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from model.errors import JobFailure
from pipelines.runners.quiet_imports import keep_imports_quiet

T = TypeVar("T")

_BYTES_A_WORKER = 2 << 30  # TensorFlow, Beam, a chunk and a micro-batch, without the model
_MODEL_COPIES = 3  # memory for a model and its activations, in model sizes on disk
_CORES_A_WORKER = 4


def default_workers(model: Path) -> int:
    """Returns the default number of processes: one for every four cores, if there is memory for them.

    Args:
        model: folder of the model that each process loads.
    """
    model_bytes = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // _CORES_A_WORKER, _free_bytes() // (_BYTES_A_WORKER + _MODEL_COPIES * model_bytes)))


def _free_bytes() -> int:
    """Returns the available memory, reclaimable caches included; 0 if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def share_out(items: Sequence[T], workers: int) -> list[list[T]]:
    """Returns each worker's share of the items, dealt out in turn; with fewer items than workers, fewer shares."""
    return [list(items[start::workers]) for start in range(min(workers, len(items)))]


def run_in_processes(function: Callable[..., object], calls: Sequence[Sequence[Any]]) -> None:
    """Runs a function in several processes at once, one for each of `calls`, and waits for all.

    TensorFlow's threads are divided among them. If one fails, or on Ctrl-C, all are killed.

    Args:
        function: at the top level of a module; it and its arguments are pickled.
        calls: the arguments of each call.

    Raises:
        JobFailure: a process was killed.
        RuntimeError: the function raised in a process; the message has its traceback.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // len(calls))
    running: dict[Any, tuple[SpawnProcess, Connection]] = {}
    # Ctrl-C in the terminal signals every process of the group; only this one must react.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for arguments in calls:
            receiver, sender = context.Pipe(duplex=False)
            work = pickle.dumps((function, arguments))
            process = context.Process(target=_work, args=(work, threads, sender), daemon=True)
            process.start()
            sender.close()
            running[process.sentinel] = (process, receiver)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        while running:
            for sentinel in wait(list(running)):
                process, receiver = running.pop(sentinel)
                process.join()
                _check_end(process, receiver)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for process, _ in running.values():
            process.kill()
        for process, _ in running.values():
            process.join()


def _check_end(process: SpawnProcess, receiver: Connection) -> None:
    if process.exitcode == 0:
        return
    try:
        raised = receiver.recv()
    except EOFError:
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = "; if memory ran out, take fewer --workers or a smaller --batch-tokens" if how == "signal 9" else ""
        raise JobFailure(f"a worker process ended with {how}{hint}") from None
    raise RuntimeError(f"in a worker process: {raised}")


def _work(work: bytes, threads: int, sender: Connection) -> None:
    """The main function of a process: watches its parent, imports quietly, and does the work."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        keep_imports_quiet()
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        function, arguments = pickle.loads(work)
        function(*arguments)
    except BaseException:
        sender.send(traceback.format_exc())
        raise SystemExit(1) from None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
