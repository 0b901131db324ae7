"""Counts of parts: their sum, and the names that metadata, metrics and manifest know them by."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from model.records import Reason
from pipelines.scoring.counts import PartCounts

COUNTS = PartCounts(
    records=9,
    scored=5,
    rejected=3,
    sampled_out=1,
    shared_ids=4,
    sentences=40,
    truncated=2,
    windows=6,
    tokens=800,
    padded_tokens=1024,
    rejects=Counter({Reason.NO_TEXT: 2, Reason.NO_ID: 1}),
)
NUMBERS = {
    "records": 9,
    "scored": 5,
    "rejected": 3,
    "sampled_out": 1,
    "shared_ids": 4,
    "sentences": 40,
    "truncated": 2,
    "windows": 6,
    "tokens": 800,
    "padded_tokens": 1024,
}


def test_metadata_and_metrics_name_rejects_by_reason() -> None:
    names = {**NUMBERS, "rejects.no_text": 2, "rejects.no_id": 1}
    assert COUNTS.by_name() == names
    assert PartCounts.from_names(names) == COUNTS
    assert PartCounts.from_names({"records": 3, "rejects.no_id": 3, "of_another_version": 1}) == PartCounts(
        records=3, rejects=Counter({Reason.NO_ID: 3})
    )


def test_the_manifest_has_the_numbers_in_order_and_the_reasons_by_name() -> None:
    written = COUNTS.to_json()
    assert list(written) == [*NUMBERS, "rejects"]
    assert written == {**NUMBERS, "rejects": {"no_id": 1, "no_text": 2}}
    assert list(written["rejects"]) == ["no_id", "no_text"]


def test_counts_add_up() -> None:
    other = PartCounts(records=2, rejected=2, rejects=Counter({Reason.NO_ID: 1, Reason.TOO_LARGE: 1}))
    expected = Counter({Reason.NO_ID: 2, Reason.NO_TEXT: 2, Reason.TOO_LARGE: 1})
    assert sum([COUNTS, other], PartCounts()) == replace(COUNTS, records=11, rejected=5, rejects=expected)
