"""Batches from lengths: everything in one batch, within the budget, and little padding, also on real lengths."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from model.training import batch_plan
from model.training.batch_plan import BatchPlan, plan_batches


def check(plan: BatchPlan, lengths: Counter[int], budget: int) -> None:
    """Checks that the plan has room for all windows once, within the budget."""
    assert list(plan.longest) == sorted(set(plan.longest))
    counts = [0] * len(plan.longest)
    for length, count in lengths.items():
        counts[next(k for k, longest in enumerate(plan.longest) if length <= longest)] += count
    full = 0
    for count, size, longest, rest in zip(counts, plan.sizes, plan.longest, plan.rests, strict=True):
        assert size == max(1, budget // longest)
        assert len(rest) == count % size
        full += count // size
    assert plan.batches == full + len(plan.rest_sizes)
    assert Counter(itertools.chain.from_iterable(plan.rests)) == dict(enumerate(plan.rest_sizes))
    for number, (size, bucket) in enumerate(zip(plan.rest_sizes, plan.rest_buckets, strict=True)):
        assert size <= plan.sizes[bucket]
        assert max(k for k, rest in enumerate(plan.rests) if number in rest) == bucket


@pytest.mark.parametrize("budget", [8, 100, 8192])
def test_a_plan_has_room_for_every_window(budget: int) -> None:
    draw = np.random.default_rng(1)
    for count in (1, 3, 40, 2000):
        lengths = Counter(draw.integers(3, 512, count).tolist())
        check(plan_batches(lengths, batch_tokens=budget), lengths, budget)
        check(plan_batches(lengths, batch_tokens=budget, longest=[100, 512]), lengths, budget)


def test_a_plan_literally() -> None:
    plan = plan_batches({10: 5, 20: 3}, batch_tokens=40)  # 110 wordpieces, so at most two buckets
    assert plan == BatchPlan(
        longest=(10, 20), sizes=(4, 2), rests=((0,), (0,)), rest_sizes=(2,), rest_buckets=(1,), batches=3
    )


def test_a_plan_of_one_batch_is_one_bucket() -> None:
    plan = plan_batches({10: 5, 20: 3}, batch_tokens=400)
    assert plan == BatchPlan((20,), (20,), ((0,) * 8,), (8,), (0,), 1)


def test_buckets_have_the_least_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all ways to choose three of them."""
    monkeypatch.setattr(batch_plan, "_MOST_BUCKETS", 3)
    lengths = {3: 7, 5: 1, 8: 4, 9: 9, 15: 2, 16: 5, 30: 1}

    def padded(longest: tuple[int, ...]) -> int:
        return sum(next(end for end in longest if end >= length) * count for length, count in lengths.items())

    ways = [(*some, 30) for some in itertools.combinations(sorted(lengths)[:-1], 2)]
    assert padded(plan_batches(lengths, batch_tokens=40).longest) == min(map(padded, ways))


def test_little_padding_for_abstracts() -> None:
    """Lengths spread like those of abstracts: 80 to 512, two in ten full."""
    draw = np.random.default_rng(2)
    found = np.minimum(draw.gamma(8, 30, 3000).astype(int) + 80, 512)
    lengths = Counter(found.tolist())
    plan = plan_batches(lengths, batch_tokens=8192)
    buckets = np.searchsorted(plan.longest, found)
    assert np.array(plan.longest)[buckets].sum() / found.sum() < 1.03
    assert plan.batches < 1.06 * found.sum() / 8192


def test_very_long_windows_are_planned_in_steps() -> None:
    lengths = Counter(range(3, 8000, 7))
    plan = plan_batches(lengths, batch_tokens=16384)
    check(plan, lengths, 16384)
    assert plan.longest[-1] >= max(lengths)


def test_no_windows() -> None:
    assert plan_batches({}, batch_tokens=100).batches == 0
