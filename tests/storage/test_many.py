"""What very many files need: few results in memory at once, and few bytes for each object."""

from __future__ import annotations

import pickle
import tracemalloc
from threading import Lock

import pytest

from pipelines.corpora.chunks import Unit
from pipelines.corpora.sources import FileState, FingerprintedSource
from pipelines.storage.packed import Packed
from pipelines.storage.parallel import map_files


def unit(number: int) -> Unit:
    state = FileState(1000 + number, 1_700_000_000_000_000_000 + 7 * number, 40_000 + number)
    return Unit(f"/data/folder/{number}.jsonl", f"part-{number}-0123456789abcdef", state=state)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("count", [0, 1, 9, 5000])
def test_results_come_in_order_and_few_are_ahead(local: bool, count: int) -> None:
    started, lock = 0, Lock()

    def double(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return 2 * item

    for number, result in enumerate(map_files(double, range(count), local=local)):
        assert result == 2 * number
        assert started - number <= 64 * 2 * 17
    assert started == count


def test_an_error_in_a_thread_is_raised_and_ends_the_rest() -> None:
    called: list[int] = []

    def fail(item: int) -> int:
        called.append(item)
        return 1 // (item - 100)

    with pytest.raises(ZeroDivisionError):
        list(map_files(fail, range(1_000_000), local=True))
    assert len(called) < 10_000


@pytest.mark.parametrize("count", [0, 1, 1000, 2500])
def test_packed_objects_are_a_sequence(count: int) -> None:
    units = [unit(number) for number in range(count)]
    packed = Packed(iter(units))
    assert len(packed) == count and list(packed) == units == list(pickle.loads(pickle.dumps(packed)))
    assert packed[::-700] == units[::-700] and packed[5:8] == units[5:8]
    for number in (0, 999, -1):
        if units and number < count:
            assert packed[number] == units[number]
    with pytest.raises(IndexError):
        packed[count]


def test_packed_objects_take_few_bytes() -> None:
    tracemalloc.start()
    packed = Packed(unit(number) for number in range(20_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 50 * len(packed)


def test_sources_and_units_are_the_same_when_they_have_been_pickled() -> None:
    source = FingerprintedSource("a", {"path": "a", "size": 1, "sha256": None}, None, failure="it is bad")
    whole = Unit(
        "a", "part-a-0", split="dev", records=4, ends=False, done=frozenset({2}), state=FileState(1, checksum="x")
    )
    for each in (source, whole, unit(3)):
        assert pickle.loads(pickle.dumps(each)) == each
