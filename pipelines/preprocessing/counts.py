"""Counts that workers make and the driver sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipelines.storage import objects


def sum_counts(counts: Iterable[Counter[str]]) -> Counter[str]:
    """Returns the sum of all; for `beam.CombineGlobally`."""
    return sum(counts, Counter())


def write_counts(counts: Counter[str], path: str) -> None:
    """Writes counts where the driver finds them when the pipeline is done."""
    objects.write_json(path, dict(sorted(counts.items())))


def read_counts(path: str) -> Counter[str]:
    """Returns the counts of an object that `write_counts` wrote, and removes it."""
    counts: Counter[str] = Counter(objects.read_json(path))
    objects.remove([path])
    return counts
