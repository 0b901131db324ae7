"""Which windows make a batch together, from their lengths alone, so that an epoch's batches are known before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_MOST_BUCKETS = 32
_MOST_LENGTHS = 512  # as candidates for the longest of a bucket


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Buckets of windows of similar length, each cut into batches.

    A bucket's windows rarely fill its batches. The rest, its first windows, makes batches together with the rests of
    the neighbouring buckets.

    Attributes:
        longest: of each bucket, the length of its longest window, ascending.
        sizes: of each bucket, the number of windows in a batch.
        rests: of each bucket, the batches of rests that its first windows belong to, one number a window.
        rest_sizes: the number of windows in each batch of rests.
        rest_buckets: the bucket of the longest windows in each of them.
        batches: the number of batches of both kinds.
    """

    longest: tuple[int, ...]
    sizes: tuple[int, ...]
    rests: tuple[tuple[int, ...], ...]
    rest_sizes: tuple[int, ...]
    rest_buckets: tuple[int, ...]
    batches: int


def plan_batches(lengths: Mapping[int, int], *, batch_tokens: int, longest: Sequence[int] | None = None) -> BatchPlan:
    """Returns the plan for a split.

    Args:
        lengths: how many windows of each length there are.
        batch_tokens: the most padded wordpieces in a batch; a window that is longer makes a batch of its own.
        longest: of each bucket, ascending; the last one is at least as long as any window. None for the buckets with
            which there is the least padding.
    """
    if longest is None:  # no more buckets than batches, or a window would always meet the same ones
        batches = sum(length * count for length, count in lengths.items()) // batch_tokens
        longest = _least_padding(lengths, max(1, min(_MOST_BUCKETS, batches)))
    longest = tuple(longest)
    sizes = tuple(max(1, batch_tokens // length) for length in longest)
    counts = [0] * len(longest)
    for length, count in lengths.items():
        counts[int(np.searchsorted(longest, length))] += count
    rests: list[tuple[int, ...]] = [()] * len(longest)
    rest_sizes: list[int] = []
    rest_buckets: list[int] = []
    room = 0
    for bucket in reversed(range(len(longest))):
        mine: list[int] = []
        for _ in range(counts[bucket] % sizes[bucket]):
            if not room:
                rest_buckets.append(bucket)
                rest_sizes.append(0)
                room = sizes[bucket]
            mine.append(len(rest_sizes) - 1)
            rest_sizes[-1] += 1
            room -= 1
        rests[bucket] = tuple(mine)
    full = sum(count // size for count, size in zip(counts, sizes, strict=True))
    return BatchPlan(longest, sizes, tuple(rests), tuple(rest_sizes), tuple(rest_buckets), full + len(rest_sizes))


def _least_padding(lengths: Mapping[int, int], buckets: int) -> tuple[int, ...]:
    """Returns the longest windows of at most so many buckets, such that padding to them is least."""
    step = -(-max(lengths, default=1) // _MOST_LENGTHS)
    rounded: dict[int, int] = {}
    for length, count in lengths.items():
        candidate = max(-(-length // step) * step, 1)
        rounded[candidate] = rounded.get(candidate, 0) + count
    ends = np.array(sorted(rounded) or [1])
    before = np.concatenate([[0], np.cumsum([rounded.get(int(end), 0) for end in ends])])
    # cost[i, j]: wordpieces, padded, of a bucket of the candidates i to j - 1
    cost = (before[None, :] - before[:, None]) * np.concatenate([[0], ends])[None, :].astype(float)
    cost[np.tril_indices(len(before))] = np.inf
    least = np.where(np.arange(len(before)) == 0, 0.0, np.inf)  # of the first j candidates in some buckets
    starts = []
    for _ in range(min(buckets, len(ends))):
        total = least[:, None] + cost
        starts.append(total.argmin(axis=0))
        least = total.min(axis=0)
    longest, end = [], len(ends)
    for start in reversed(starts):
        longest.append(int(ends[end - 1]))
        end = int(start[end])
    return tuple(reversed(longest))
