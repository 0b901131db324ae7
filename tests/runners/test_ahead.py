"""Items made ahead in a thread: their order, their bound, errors, and ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.runners.ahead import Ahead

SECONDS = 30.0


class Made:
    """Makes numbers, and notes how many there are already."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0
        self.changed = threading.Condition()
        self.closed = threading.Event()

    def numbers(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                with self.changed:
                    self.made += 1
                    self.changed.notify_all()
                yield number
        finally:
            self.closed.set()

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.made >= count, SECONDS)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_items_come_in_order_and_at_most_so_many_exist(most: int) -> None:
    made = Made(20)
    used: list[int] = []
    for number in Ahead[int](most=most).run(made.numbers()):
        made.wait(min(20, number + most))  # the others are made while this one is in use
        assert made.made - len(used) <= most
        used.append(number)
    assert used == list(range(20))
    assert made.closed.is_set()


def test_an_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    used: list[int] = []
    with pytest.raises(KeyError, match="three"):
        used.extend(Ahead[int]().run(broken()))
    assert used == [1, 2]


def test_who_stops_early_ends_the_thread_and_closes_what_it_reads() -> None:
    made = Made(1000)
    running = Ahead[int]().run(made.numbers())
    assert next(running) == 0
    running.close()
    assert made.closed.wait(SECONDS)
    assert made.made <= 3


def test_nothing_is_made_while_the_maker_waits_until_all_is_used() -> None:
    ahead = Ahead[int](most=3)
    in_use: list[int] = []

    def alone() -> Iterator[int]:
        for number in range(5):
            ahead.wait_until_used()
            assert in_use == []
            yield number

    used = []
    for number in ahead.run(alone()):
        in_use.append(number)
        threading.Event().wait(0.05)
        used.append(in_use.pop())
    assert used == [0, 1, 2, 3, 4]
