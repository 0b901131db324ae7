"""Measures how far a run's data have moved from the champion's, from the statistics that preprocessing writes.

Every distance is Jensen-Shannon's with base 2: 0 for equal distributions, 1 for distributions without overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.spatial.distance import jensenshannon

from model.bundles.training_data import STATS, VOCABULARY
from model.folders import read_json

# Ranks that divide the champion's wordpieces, the most frequent first, into bands; those past the last are rare.
_BANDS = (100, 1000, 5000)
_STEPS_AN_OCTAVE = 2


@dataclass(frozen=True)
class Profile:
    """The part of a run's data that is compared. All figures are of the train split.

    Attributes:
        stats: everything in `stats.json`.
        pieces: how often each wordpiece occurs.
    """

    stats: Mapping[str, Any]
    pieces: Mapping[str, int]

    @property
    def labels(self) -> dict[str, int]:
        """Sentences by label."""
        return dict(self.stats["label_counts"]["train"])

    @property
    def unknown_share(self) -> float:
        """The share of the wordpieces that are `[UNK]`."""
        use = self.stats["vocabulary"]["train"]
        return use["unknown"] / max(use["tokens"], 1)

    @property
    def reject_shares(self) -> Mapping[str, float]:
        """The share of the records that is rejected, by reason."""
        counts = self.stats["counts"]
        return {reason: count / max(counts["records"], 1) for reason, count in counts["rejects"].items()}


def read_profile(folder: Path) -> Profile:
    """Returns the profile in a folder that holds `stats.json` and `vocabulary.parquet`."""
    pieces = pq.read_table(folder / VOCABULARY, columns=["piece", "train"], partitioning=None)
    counts = zip(pieces["piece"].to_pylist(), pieces["train"].to_pylist(), strict=True)
    stats = read_json(folder / STATS, hint="restore it from a backup")
    return Profile(stats, {piece: count for piece, count in counts if count})


def label_drift(now: Profile, then: Profile) -> float:
    """Returns the distance between the labels' shares."""
    return distance(now.labels, then.labels)


def length_drift(now: Profile, then: Profile) -> float:
    """Returns the distance between the documents' lengths in wordpieces, in steps of half an octave."""
    return distance(*(_by_octave(one.stats["document_lengths"]["train"]) for one in (now, then)))


def sentences_drift(now: Profile, then: Profile) -> float:
    """Returns the distance between the documents' lengths in sentences, in steps of half an octave."""
    return distance(*(_by_octave(one.stats["document_sentences"]["train"]) for one in (now, then)))


def vocabulary_drift(now: Profile, then: Profile) -> float:
    """Returns the distance between the texts' coverage by frequent, rare, unseen and unknown wordpieces.

    `then` says which wordpieces are frequent, rare and unseen.
    """
    by_frequency = sorted(then.pieces, key=lambda piece: (-then.pieces[piece], piece))
    bands = {piece: int(np.searchsorted(_BANDS, rank, side="right")) for rank, piece in enumerate(by_frequency)}
    bands["[UNK]"] = len(_BANDS) + 2

    def coverage(pieces: Mapping[str, int]) -> dict[int, int]:
        return _sums((bands.get(piece, len(_BANDS) + 1), count) for piece, count in pieces.items())

    return distance(coverage(now.pieces), coverage(then.pieces))


def distance(first: Mapping[Any, int], second: Mapping[Any, int]) -> float:
    """Returns the Jensen-Shannon distance between two distributions given as counts; 1 if one of them is empty."""
    if not sum(first.values()) or not sum(second.values()):
        return 1.0
    keys = sorted(first.keys() | second.keys())
    counts = np.array([[one.get(key, 0) for key in keys] for one in (first, second)], float)
    return float(np.nan_to_num(jensenshannon(*counts, base=2)))


def _by_octave(histogram: Mapping[str, int]) -> dict[int, int]:
    return _sums((int(np.log2(int(value)) * _STEPS_AN_OCTAVE), count) for value, count in histogram.items())


def _sums(items: Iterable[tuple[int, int]]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for key, count in items:
        sums[key] = sums.get(key, 0) + count
    return sums
