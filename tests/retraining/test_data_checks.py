"""The whole table of the data's checks: names, figures, limits and words, with and without a champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.bundles.training_data import TrainingData
from model.config import Settings
from model.schema import document_schema
from pipelines.retraining.data_checks import check_data, compare_profiles
from pipelines.retraining.drift import Profile
from pipelines.retraining.settings import ChecksSection, RetrainSettings
from pipelines.retraining.verdicts import FAIL, PASS, SKIPPED, Verdict


def statistics(**changes: Any) -> dict[str, Any]:
    counts = {
        "records": 1000,
        "rejects": {"no_text": 80, "wrong_type": 5, "no_id": 3, "broken_source": 1, "unreadable_source": 1},
        "documents": {"train": 1200, "dev": 31, "test": 64},
        "duplicates_dropped": 50,
    }
    return {
        "label_counts": {"train": {"b": 400, "a": 600}},
        "document_lengths": {"train": {"100": 100, "200": 100}},
        "document_sentences": {"train": {"5": 200}},
        "lengths": {"mean_tokens": 150.25, "mean_sentences": 5.0},
        "vocabulary": {"train": {"tokens": 30_000, "unknown": 30}},
        "counts": counts | changes.pop("counts", {}),
    } | changes


def table(now: Profile, champion: Profile | None, **options: Any) -> dict[str, Verdict]:
    given: dict[str, Any] = {"settings": ChecksSection(), "held_out": "test", "expected_labels": None} | options
    found = compare_profiles(now, champion, **given)
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found)
    return by_name


NOW = Profile(
    statistics(
        label_counts={"train": {"c": 100, "a": 450, "b": 450}},
        lengths={"mean_tokens": 130.0, "mean_sentences": 7.04},
        document_lengths={"train": {"100": 100}},
        document_sentences={"train": {"5": 100, "20": 100}},
        vocabulary={"train": {"tokens": 20_000, "unknown": 300}},
    ),
    {"the": 19_700, "[UNK]": 300},
)
CHAMPION = Profile(
    statistics(counts={"records": 2000, "rejects": {"no_text": 20, "no_id": 10}}),
    {"the": 29_970, "[UNK]": 30},
)
HALF: Any = pytest.approx(0.557923, abs=1e-6)  # of {1} and {1/2, 1/2}: sqrt of half of log2(4/3) + (log2(2/3) + 1) / 2


def test_every_row_beside_a_champion() -> None:
    found = table(NOW, CHAMPION)
    drift = found["label_drift"].measured
    words = found["vocabulary_drift"].measured
    assert list(found.values()) == [
        Verdict("labels", 1, 0, FAIL, "c new"),
        Verdict("train_documents", 1200, 100, PASS, "1,200 documents to train on, 100 wanted"),
        Verdict("held_out_documents", 64, 30, PASS, "64 documents to judge models on, 30 wanted"),
        Verdict("broken_sources", 2, 0, FAIL, "2 files can't be read to their end"),
        Verdict(
            "damaged_records",
            0.008,
            0.01,
            PASS,
            "0.80% of the records are damaged (no_id 0.30%, wrong_type 0.50%)",
        ),
        Verdict("reject_rise", 0.07, 0.1, PASS, "no_text: 8.00% of the records, +7.00% against the champion's"),
        Verdict("duplicates", 0.04, 0.1, PASS, "50 train documents (4.00%) are held out too and were dropped"),
        Verdict("unknown_wordpieces", 0.015, 0.02, PASS, "1.50% of the wordpieces are [UNK]"),
        Verdict(
            "label_drift",
            drift,
            0.1,
            FAIL,
            f"distance {drift:.4f} from the champion's data: a -15.0%, c +10.0%, b +5.0%",
        ),
        Verdict(
            "length_drift",
            HALF,
            0.15,
            FAIL,
            "distance 0.5579 from the champion's data; on average 130.0 tokens a document, was 150.2",
        ),
        Verdict(
            "sentences_drift",
            HALF,
            0.15,
            FAIL,
            "distance 0.5579 from the champion's data; on average 7.0 sentences a document, was 5.0",
        ),
        Verdict(
            "vocabulary_drift",
            words,
            0.1,
            PASS,
            f"distance {words:.4f} from the champion's data; [UNK] 1.50%, was 0.10%",
        ),
    ]
    assert drift == pytest.approx(0.2425214, abs=1e-6)
    assert words == pytest.approx(0.0730569, abs=1e-6)


def test_every_row_without_a_champion() -> None:
    found = table(NOW, None, held_out="dev")
    assert found["held_out_documents"] == Verdict(
        "held_out_documents", 31, 30, PASS, "31 documents to judge models on, 30 wanted"
    )
    assert found["labels"] == Verdict("labels", None, None, SKIPPED, "the labels are a, b, c")
    for name, limit in (
        ("reject_rise", 0.1),
        ("label_drift", 0.1),
        ("length_drift", 0.15),
        ("sentences_drift", 0.15),
        ("vocabulary_drift", 0.1),
    ):
        assert found[name] == Verdict(name, None, limit, SKIPPED, "no champion to compare with")


@pytest.mark.parametrize(
    ("now", "expected", "measured", "words"),
    [
        (["b", "a"], ["a", "b"], 0, "the labels are a, b, as expected"),
        (["a"], ["c", "b", "a"], 2, "b, c missing"),
        (["d", "a", "c"], ["a"], 2, "c, d new"),
        (["a", "c"], ["a", "b"], 2, "b missing; c new"),
    ],
)
def test_labels_that_the_settings_name(now: list[str], expected: list[str], measured: int, words: str) -> None:
    profile = Profile(statistics(label_counts={"train": dict.fromkeys(now, 10)}), {})
    found = table(profile, None, expected_labels=expected)
    assert found["labels"] == Verdict("labels", measured, 0, FAIL if measured else PASS, words)
    others = table(profile, None, expected_labels=expected, settings=ChecksSection(same_labels=False))
    assert others["labels"] == Verdict("labels", None, None, SKIPPED, f"the labels are {', '.join(sorted(now))}")
    # The champion's labels go before those of the settings.
    champion = Profile(statistics(label_counts={"train": dict.fromkeys(expected, 1)}), {})
    assert table(profile, champion, expected_labels=["other"])["labels"] == found["labels"]


def test_nothing_rejected_and_nothing_left() -> None:
    counts = {"records": 0, "rejects": {}, "documents": {}, "duplicates_dropped": 0}
    found = table(Profile(statistics(counts=counts), {}), CHAMPION)
    assert found["train_documents"] == Verdict("train_documents", 0, 100, FAIL, "0 documents to train on, 100 wanted")
    assert found["held_out_documents"] == Verdict(
        "held_out_documents", 0, 30, FAIL, "0 documents to judge models on, 30 wanted"
    )
    assert found["broken_sources"] == Verdict("broken_sources", 0, 0, PASS, "0 files can't be read to their end")
    assert found["damaged_records"] == Verdict("damaged_records", 0, 0.01, PASS, "0.00% of the records are damaged")
    assert found["reject_rise"] == Verdict(
        "reject_rise", 0.0, 0.1, PASS, "rejects: 0.00% of the records, +0.00% against the champion's"
    )
    assert found["duplicates"] == Verdict(
        "duplicates", 0, 0.1, PASS, "0 train documents (0.00%) are held out too and were dropped"
    )


@pytest.mark.parametrize("reason", ["no_id", "broken_record", "wrong_type", "wrong_length", "invalid_encoding"])
def test_what_counts_as_damage(reason: str) -> None:
    found = table(Profile(statistics(counts={"rejects": {"no_text": 500, reason: 20}}), {}), None)
    assert found["damaged_records"] == Verdict(
        "damaged_records", 0.02, 0.01, FAIL, f"2.00% of the records are damaged ({reason} 2.00%)"
    )
    assert found["broken_sources"].measured == 0


def test_the_three_labels_that_changed_most_are_shown() -> None:
    now = Profile(statistics(label_counts={"train": {"a": 10, "b": 30, "c": 35, "d": 25}}), {})
    then = Profile(statistics(label_counts={"train": {"a": 20, "b": 20, "c": 30, "d": 28, "e": 2}}), {})
    words = table(now, then)["label_drift"].words
    assert words.partition(": ")[2] == "a -10.0%, b +10.0%, c +5.0%"


def test_new_documents_are_those_of_files_with_other_content(tmp_path: Path) -> None:
    """The champion's run has read one file as it is, and another one before it changed."""
    data, recorded = tmp_path / "data", tmp_path / "recorded"
    for split, sources in {"train": ["old", "new", "changed", "new"], "dev": ["new"], "test": ["old"]}.items():
        rows = [
            {"doc_id": f"{split}-{index}", "source": source, "record_index": index, "sentences": ["One."]}
            for index, source in enumerate(sources)
        ]
        (data / "documents" / split).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows, schema=document_schema()), data / "documents" / split / "part-a.parquet"
        )
    inputs = {"old": "1", "new": "2", "changed": "3"}
    stats = statistics(inputs=[{"path": path, "sha256": content} for path, content in inputs.items()])
    before = statistics(inputs=[{"path": "elsewhere", "sha256": "1"}, {"path": "changed", "sha256": "0"}])
    recorded.mkdir()
    for folder, content in ((data, stats), (recorded, before)):
        (folder / "stats.json").write_text(json.dumps(content), encoding="utf-8")
        pq.write_table(pa.table({"piece": ["the"], "train": [100]}), folder / "vocabulary.parquet")
    opened = TrainingData(data, Settings(), ("a", "b"), (), "", (), {}, {}, "", stats)
    settings = RetrainSettings.model_validate(
        {
            "retrain": {"name": "n", "registry": "r", "workspace": "w", "input": ["i"], "held_out": "dev"},
            "data": {"labels": ["a", "b"]},
            "checks": {"min_held_out_documents": 31, "max_broken_sources": 2},
        }
    )
    found = check_data(opened, recorded, settings)
    assert (found.new_documents, found.counts, found.failures) == (4, stats["counts"], "")
    by_name = {one.name: one for one in found.verdicts}
    assert (by_name["held_out_documents"].measured, by_name["held_out_documents"].limit) == (31, 31)
    assert by_name["labels"].words == "the labels are a, b, as expected"
    assert {one.verdict for one in found.verdicts} == {PASS}
    for none in (None, tmp_path / "none"):
        first = check_data(opened, none, settings)
        assert first.new_documents == 6
        assert {one.name for one in first.verdicts if one.verdict == SKIPPED} == {
            "reject_rise",
            "label_drift",
            "length_drift",
            "sentences_drift",
            "vocabulary_drift",
        }
