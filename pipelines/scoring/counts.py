"""The counts of each part, and their forms in the part's metadata, in the manifest and in Beam's metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from model.records import Reason
from pipelines.storage.parquet import read_footer

COUNTS_KEY = "sepline.counts"
"""The key of the counts in the metadata of a part of predictions."""
_REJECTS = "rejects."


@dataclass(frozen=True, slots=True)
class PartCounts:
    """The counts of one part, or the sum over several. Every record is scored, rejected or sampled out.

    Attributes:
        records: input records.
        scored: documents with predictions.
        rejected: records without predictions.
        sampled_out: documents that `ScoreSettings.sample` leaves out.
        shared_ids: documents with the id of another one in the part, in the sample or not.
        sentences: sentences with predictions.
        truncated: how many of them were cut to fit into a window.
        windows: windows that the model read.
        tokens, padded_tokens: wordpieces in these windows, without and with padding.
        rejects: the rejected records by reason.
    """

    records: int = 0
    scored: int = 0
    rejected: int = 0
    sampled_out: int = 0
    shared_ids: int = 0
    sentences: int = 0
    truncated: int = 0
    windows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    rejects: Counter[Reason] = field(default_factory=Counter)

    def __add__(self, other: PartCounts) -> PartCounts:
        return PartCounts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def to_json(self) -> dict[str, Any]:
        """Returns the counts in the form of the manifest: the numbers, and `rejects` by reason."""
        return {**self._numbers(), "rejects": {str(reason): n for reason, n in sorted(self.rejects.items())}}

    def by_name(self) -> dict[str, int]:
        """Returns the counts in the form of metrics and metadata: the numbers, and `rejects.REASON`."""
        return {**self._numbers(), **{f"{_REJECTS}{reason}": n for reason, n in self.rejects.items()}}

    @classmethod
    def from_names(cls, counts: Mapping[str, int]) -> PartCounts:
        """Returns the counts that `by_name` returned; names that it doesn't know are ignored, missing ones are 0."""
        numbers = {name: counts.get(name, 0) for name in _numbers()}
        known = _reasons()
        rejects = {known[name]: count for name, count in counts.items() if name in known}
        return cls(**numbers, rejects=Counter(rejects))

    def _numbers(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _numbers()}


@cache
def _numbers() -> tuple[str, ...]:
    return tuple(each.name for each in fields(PartCounts) if each.name != "rejects")


@cache
def _reasons() -> Mapping[str, Reason]:
    return {f"{_REJECTS}{reason}": reason for reason in Reason}


def count_metadata(counts: PartCounts) -> dict[str, str]:
    """Returns the counts as metadata of a part of predictions."""
    return {COUNTS_KEY: json.dumps(counts.by_name(), sort_keys=True)}


def read_part_counts(path: str) -> PartCounts:
    """Returns the counts in the metadata of a part of predictions."""
    return PartCounts.from_names(json.loads(read_footer(path).metadata[COUNTS_KEY.encode()]))
