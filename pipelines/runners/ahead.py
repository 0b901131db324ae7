"""Makes items in a thread of their own, a bounded number of them ahead of the one who uses them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST = 2  # one that is used and one that is next


class Ahead(Generic[T]):
    """Items that a thread makes while earlier ones are used. They come in order, and so does what making one raises."""

    def __init__(self, *, most: int = _MOST) -> None:
        """Sets it up; at most `most` items exist at a time, with the one in use and the one that is being made."""
        self._most = most
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._unused = 0  # items that are made, being made, or in use
        self._error: BaseException | None = None
        self._ended = self._stopped = False

    def run(self, items: Iterator[T]) -> Generator[T]:
        """Yields the items. Each is in use until the next one is asked for; closing the generator stops the thread."""
        threading.Thread(target=self._make, args=(items,), daemon=True).start()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ready or self._ended)
                    if not self._ready:
                        break
                    item = self._ready.popleft()
                yield item
                del item
                with self._changed:
                    self._unused -= 1
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def wait_until_used(self) -> None:
        """Waits, where items are made, until nobody uses one any more; called between two of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._unused == 1 or self._stopped)  # the one that comes next

    def _make(self, items: Iterator[T]) -> None:
        try:
            while self._may_make():
                item = next(items)
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                del item
        except StopIteration:
            pass
        except BaseException as error:
            self._error = error
        finally:
            if isinstance(items, Generator):
                items.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _may_make(self) -> bool:
        """Waits for room for one more item, and takes it; returns False if no more items are wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._unused < self._most or self._stopped)
            self._unused += 1
            return not self._stopped
