"""The counts of preprocessing. Workers count, the pipelines sum, and `stats.json` is made from the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pipelines.storage import objects

Kind = Literal[
    # while documents are read; `rejects` by reason, `labels` by label
    "records",
    "rejects",
    "sampled_out",
    "documents",
    "sentences",
    "labels",
    # of ids: records with one, those that share it within their source (both also by source), records and ids that
    # occur in several sources, and documents whose id is their position, by source
    "identified",
    "shared_in_source",
    "shared_across",
    "ids_across",
    "by_position",
    # of duplicates
    "duplicates_dropped",
    "superseded",
    "deleted",
    "repeated_ids",
    # while windows are written; histograms of lengths, and `pieces` by the id of the wordpiece
    "windows",
    "truncated",
    "window_lengths",
    "window_sentences",
    "document_lengths",
    "document_sentences",
    "pieces",
]


class Count(NamedTuple):
    """What one number counts.

    Attributes:
        kind: what is counted.
        split: the split that it is counted in; empty if it has none.
        value: the entry of a histogram: a reason, a label, a length or an id; empty for a plain number.
    """

    kind: Kind
    split: str = ""
    value: str | int = ""


Counts = Counter[Count]
PackedCounts = dict[tuple[str, str], dict[str | int, int]]
"""Counts on their way between workers, by kind and split and then by value: plain numbers, which are pickled fast."""


def pack_counts(counts: Counts) -> PackedCounts:
    """Returns counts as workers send them."""
    packed: PackedCounts = {}
    for (kind, split, value), number in counts.items():
        packed.setdefault((kind, split), {})[value] = number
    return packed


def sum_counts(counts: Iterable[PackedCounts]) -> PackedCounts:
    """Returns the sum of all counts; for `beam.CombineGlobally`."""
    total: PackedCounts = {}
    for packed in counts:
        for key, numbers in packed.items():
            summed = total.setdefault(key, {})
            for value, number in numbers.items():
                summed[value] = summed.get(value, 0) + number
    return total


def by_split(counts: Counts, kind: Kind) -> dict[str, int]:
    """Returns the numbers of one kind by split, in alphabetical order."""
    return dict(sorted((count.split, n) for count, n in counts.items() if count.kind == kind))


def by_value(counts: Counts, kind: Kind, split: str = "") -> dict[Any, int]:
    """Returns the histogram of one kind in a split, in the order of its values."""
    # Vocabularies make tens of thousands of counts, so the fields are looked up by position.
    return dict(sorted((count[2], n) for count, n in counts.items() if count[0] == kind and count[1] == split))


def write_counts(counts: PackedCounts, path: str) -> None:
    """Writes counts to an object, which the driver reads when the pipeline is done."""
    objects.write_json(path, [[*key, list(numbers), list(numbers.values())] for key, numbers in counts.items()])


def read_counts(path: str) -> Counts:
    """Returns the counts in an object that `write_counts` wrote, and removes the object."""
    counts = Counter(
        {
            Count(kind, split, value): number
            for kind, split, values, numbers in objects.read_json(path)
            for value, number in zip(values, numbers, strict=True)
        }
    )
    objects.remove([path])
    return counts
