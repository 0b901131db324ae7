"""Calls a function for each of very many files, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LOCAL_THREADS = 4
# More would wait for each other's Python: a small local file takes less time to read than to ask for.
_REMOTE_THREADS = 16
_MOST_IN_CALL = 64


def map_files(function: Callable[[T], R], items: Iterable[T], *, local: bool) -> Iterator[R]:
    """Yields the results of a function in the order of the items; however many there are, few are in memory.

    Args:
        function: reads or looks at a file.
        items: one for each file.
        local: whether the files are this machine's; a store takes its time for each, so more are asked for at once.
    """
    threads = _LOCAL_THREADS if local else _REMOTE_THREADS
    left, started = iter(items), 0
    running: deque[Future[list[R]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        # A call for each item while there are few, so that all threads have work; a call has its price.
        while group := list(islice(left, max(1, min(started // (4 * threads), _MOST_IN_CALL)))):
            started += len(group)
            running.append(pool.submit(_call, function, group))
            if len(running) > 2 * threads:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _call(function: Callable[[T], R], group: Sequence[T]) -> list[R]:
    return [function(item) for item in group]
