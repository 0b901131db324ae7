"""Statistics of the text and drift, against plain counts and known distances."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
from conftest import TINY_VOCABULARY

from model.bundles.training_data import open_training_data
from model.config import DataSettings
from model.schema import training_spec
from pipelines.preprocessing.counts import Count
from pipelines.preprocessing.statistics import Statistics, label_vocabulary, length_statistics
from pipelines.retraining.drift import (
    Profile,
    label_drift,
    length_drift,
    read_profile,
    sentences_drift,
    vocabulary_drift,
)


def test_statistics_are_those_of_a_plain_count(tiny_records: Path, tiny_encoder: Path) -> None:
    """Against tokens from Hugging Face's tokenizer, over the documents as text."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(tiny_encoder / "vocab.txt"), lowercase=True)
    data = open_training_data(tiny_records)
    use = {row["piece"]: row for row in pq.read_table(tiny_records / "vocabulary.parquet").to_pylist()}
    for split in ("train", "dev", "test"):
        lengths: Counter[str] = Counter()
        sentences: Counter[str] = Counter()
        pieces: Counter[str] = Counter()
        for file in data.document_files(split):
            for row in pq.read_table(file, partitioning=None).to_pylist():
                found = [tokenizer.encode(text, add_special_tokens=False).tokens for text in row["sentences"]]
                lengths[str(1 + sum(len(tokens) + 1 for tokens in found))] += 1
                sentences[str(len(found))] += 1
                pieces.update(piece for tokens in found for piece in tokens)
        assert data.stats["document_lengths"][split] == lengths
        assert data.stats["document_sentences"][split] == sentences
        assert {piece: row[split] for piece, row in use.items() if row[split]} == pieces
        assert data.stats["vocabulary"][split] == {
            "tokens": sum(pieces.values()),
            "unknown": pieces["[UNK]"],
            "pieces": len(pieces),
        }
    assert all(TINY_VOCABULARY[row["piece_id"]] == piece for piece, row in use.items())


def test_the_windows_hold_the_tokens_that_are_counted(tiny_records: Path, tiny_encoder: Path) -> None:
    """Every owned sentence's tokens, and what truncation takes, are those of the statistics."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(tiny_encoder / "vocab.txt"), lowercase=True)
    data = open_training_data(tiny_records)
    owned = 0
    for serialized in tf.data.TFRecordDataset(data.window_files("train")):
        record = tf.io.parse_single_example(serialized, training_spec())
        seps = [0, *record["sep_positions"].numpy().tolist()]
        for index in range(int(record["owned_start"]), int(record["owned_end"])):
            owned += seps[index + 1] - seps[index] - 1
    lengths = [
        len(tokenizer.encode(text, add_special_tokens=False).tokens)
        for file in data.document_files("train")
        for sentences in pq.read_table(file, partitioning=None)["sentences"].to_pylist()
        for text in sentences
    ]
    assert data.stats["vocabulary"]["train"]["tokens"] == sum(lengths)
    assert data.stats["counts"]["truncated"]["train"] == sum(length > 46 for length in lengths) > 0
    assert owned == sum(min(length, 46) for length in lengths)  # 48 less [CLS] and [SEP]


def test_statistics_of_lengths_literally() -> None:
    lengths = {5: 2, 9: 1, 20: 3}  # 5 5 9 20 20 20
    counts = Counter({Count("document_lengths", "train", length): n for length, n in lengths.items()})
    counts.update({Count("document_lengths", "dev", 99): 7})
    counts.update({Count("document_sentences", "train", 1): 4, Count("document_sentences", "train", 3): 2})
    found = length_statistics(counts, 3)
    assert found == Statistics(
        length_quantiles=(9, 20),
        mean_tokens=float(np.float32(79 / 6)),
        max_tokens=20,
        mean_sentences=float(np.float32(10 / 6)),
    )
    assert length_statistics(counts, 2).length_quantiles == (20,)
    assert length_statistics(counts, 7).length_quantiles == (5, 5, 9, 20, 20, 20)


def test_labels_are_in_the_order_of_their_frequency() -> None:
    numbers = {"b": 3, "a": 3, "z": 1, "c": 9}
    counts = Counter({Count("labels", "train", label): n for label, n in numbers.items()})
    counts[Count("labels", "dev", "z")] = 99
    assert label_vocabulary(counts, DataSettings()) == ("c", "b", "a", "z")
    assert label_vocabulary(counts, DataSettings(labels=("z", "q"))) == ("z", "q")
    assert label_vocabulary(counts, DataSettings(target="scores")) == ()


def profile(**changes: Any) -> Profile:
    stats: dict[str, Any] = {
        "label_counts": {"train": {"a": 50, "b": 50}},
        "document_lengths": {"train": {"100": 30, "200": 30}},
        "document_sentences": {"train": {"8": 30, "10": 30}},
        "vocabulary": {"train": {"tokens": 1000, "unknown": 0}},
        "counts": {"records": 100, "rejects": {"no_text": 10}},
    }
    pieces = changes.pop("pieces", {f"piece{number}": 1 + 2000 // (1 + number) for number in range(6000)})
    return Profile(stats | changes, pieces)


def test_every_drift_sees_its_own_change_and_no_other() -> None:
    then = profile()
    drifts = {"labels": label_drift, "lengths": length_drift, "sentences": sentences_drift, "words": vocabulary_drift}
    scrambled = {**then.pieces, "[UNK]": 3000, "##new": 2000}
    for changed, now in (
        (None, profile()),
        ("labels", profile(label_counts={"train": {"a": 90, "b": 10}})),
        ("lengths", profile(document_lengths={"train": {"50": 30, "100": 30}})),
        ("sentences", profile(document_sentences={"train": {"4": 30, "5": 30}})),
        ("words", profile(pieces=scrambled)),
    ):
        assert {name for name, drift in drifts.items() if drift(now, then) > 0.05} == ({changed} - {None})


def test_a_profile_is_read_from_the_records(tiny_records: Path) -> None:
    found = read_profile(tiny_records)
    assert found.stats == json.loads((tiny_records / "stats.json").read_text(encoding="utf-8"))
    assert sum(found.pieces.values()) == found.stats["vocabulary"]["train"]["tokens"]
    assert vocabulary_drift(found, found) == label_drift(found, found) == 0
