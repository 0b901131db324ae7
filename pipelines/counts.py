"""Counts that workers make and the driver sums."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from model.folders import write_json


def sum_counts(counts: Iterable[Counter[str]]) -> Counter[str]:
    """Returns the sum of all; for `beam.CombineGlobally`."""
    return sum(counts, Counter())


def write_counts(counts: Counter[str], path: str) -> None:
    """Writes counts where the driver finds them when the pipeline is done."""
    write_json(Path(path), dict(sorted(counts.items())))


def read_counts(path: str) -> Counter[str]:
    """Returns the counts of a file that `write_counts` wrote, and removes it."""
    file = Path(path)
    counts: Counter[str] = Counter(json.loads(file.read_text(encoding="utf-8")))
    file.unlink()
    return counts
