"""Drift: known distances, and the bins in which lengths and wordpieces are counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.retraining.drift import (
    Profile,
    distance,
    label_drift,
    length_drift,
    read_profile,
    sentences_drift,
    vocabulary_drift,
)


def profile(pieces: dict[str, int] | None = None, **stats: Any) -> Profile:
    return Profile(stats, pieces or {})


def jensen_shannon(first: list[float], second: list[float]) -> float:
    """Returns the distance between two lists of shares, from its definition."""
    middle = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    divergences = [
        sum(share * math.log2(share / mean) for share, mean in zip(shares, middle, strict=True) if share)
        for shares in (first, second)
    ]
    return math.sqrt(sum(divergences) / 2)


def test_known_distances() -> None:
    assert distance({"a": 3, "b": 1}, {"a": 30, "b": 10}) == 0
    assert distance({"a": 1}, {"b": 1}) == 1
    assert distance({}, {"b": 1}) == distance({"b": 1}, {}) == distance({"a": 0}, {"a": 1}) == 1
    # Half the mass of one lies where the other has none: divergence (1/2)(log2(4/3) + (1/2)log2(2/3) + 1/2).
    divergence = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5 * 1)
    assert distance({"a": 2}, {"a": 1, "b": 1}) == pytest.approx(math.sqrt(divergence))
    assert distance({"a": 1, "b": 1}, {"a": 2}) == distance({"a": 2}, {"a": 1, "b": 1})


def test_labels_are_compared_by_their_shares() -> None:
    now = profile(label_counts={"train": {"a": 60, "b": 40}, "test": {"a": 1}})
    then = profile(label_counts={"train": {"a": 10, "b": 30}, "test": {"b": 1}})
    assert now.labels == {"a": 60, "b": 40}
    assert label_drift(now, then) == pytest.approx(jensen_shannon([0.6, 0.4], [0.25, 0.75]))


@pytest.mark.parametrize(
    ("key", "drift"), [("document_lengths", length_drift), ("document_sentences", sentences_drift)]
)
def test_lengths_fall_into_half_octaves(key: str, drift: Any) -> None:
    """2^6.5 is 90.5, 2^7 is 128, 2^7.5 is 181.02."""

    def lengths(*values: int) -> Profile:
        return Profile({key: {"train": {str(value): 1 for value in values}, "test": {"1": 9}}}, {})

    assert drift(lengths(91), lengths(127)) == 0
    assert drift(lengths(128), lengths(181)) == 0
    for one, other in ((90, 91), (127, 128), (181, 182), (1, 2), (2, 3)):
        assert drift(lengths(one), lengths(other)) == 1
    assert drift(lengths(91, 127, 128), lengths(128)) == pytest.approx(jensen_shannon([2 / 3, 1 / 3], [0, 1]))


FREQUENT = {f"w{rank:04}": 60 if rank < 100 else 4 if rank < 1000 else 2 for rank in range(5005)}
"""Pieces of which the ranks 0-99 cover 6,000 of 17,610 occurrences, 100-999 3,600, 1,000-4,999 8,000, the rest 10."""


@pytest.mark.parametrize(
    ("piece", "mass"),
    [
        ("w0000", 6000),
        ("w0099", 6000),
        ("w0100", 3600),
        ("w0999", 3600),
        ("w1000", 8000),
        ("w4999", 8000),
        ("w5000", 10),
        ("w5004", 10),
        ("new", 0),
        ("[UNK]", 0),
    ],
)
def test_wordpieces_are_counted_in_bands_of_their_frequency(piece: str, mass: int) -> None:
    share = mass / 17_610
    expected = jensen_shannon([1.0, 0.0], [share, 1 - share])
    assert vocabulary_drift(profile({piece: 7}), profile(FREQUENT)) == pytest.approx(expected)


def test_unknown_pieces_are_a_band_of_their_own() -> None:
    then = profile({"a": 3, "[UNK]": 1})
    now = profile({"a": 1, "new": 2, "newer": 3, "[UNK]": 2})
    expected = jensen_shannon([1 / 8, 5 / 8, 2 / 8], [3 / 4, 0, 1 / 4])
    assert vocabulary_drift(now, then) == pytest.approx(expected)


def test_pieces_of_one_frequency_are_ranked_by_name() -> None:
    then = profile({f"w{rank:03}": 1 for rank in reversed(range(101))})
    last = jensen_shannon([1.0, 0.0], [1 / 101, 100 / 101])
    assert vocabulary_drift(profile({"w100": 1}), then) == pytest.approx(last)


def test_shares() -> None:
    found = profile(
        vocabulary={"train": {"tokens": 200, "unknown": 3}},
        counts={"records": 50, "rejects": {"no_text": 5, "no_id": 1}},
    )
    assert found.unknown_share == 3 / 200
    assert found.reject_shares == {"no_text": 0.1, "no_id": 0.02}
    empty = profile(
        vocabulary={"train": {"tokens": 0, "unknown": 0}}, counts={"records": 0, "rejects": {"broken_source": 2}}
    )
    assert empty.unknown_share == 0
    assert empty.reject_shares == {"broken_source": 2}


def test_a_profile_is_read_from_its_folder(tmp_path: Path) -> None:
    pieces = {"piece_id": [4, 5, 6], "piece": ["na\u00efve", "b", "c"], "train": [3, 0, 1], "dev": [0, 9, 9]}
    pq.write_table(pa.table(pieces), tmp_path / "vocabulary.parquet")
    stats = {"label_counts": {"train": {"r\u00e9sum\u00e9": 1}}}
    (tmp_path / "stats.json").write_text(json.dumps(stats, ensure_ascii=False), encoding="utf-8")
    assert read_profile(tmp_path) == Profile(stats, {"na\u00efve": 3, "c": 1})
