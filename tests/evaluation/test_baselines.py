"""The baselines on a corpus so small that every prediction can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.bundles.training_data import TrainingData
from model.config import Settings
from model.evaluation.baselines import evaluate_baselines
from model.evaluation.metrics import Metrics
from model.evaluation.score_metrics import ScoreMetrics
from model.schema import document_schema

Sentence = tuple[str, str | float]
"""A text and its label or score."""


def records(folder: Path, *, labels: tuple[str, ...], **splits: Sequence[Sequence[Sentence]]) -> TrainingData:
    """Returns an opened folder that holds documents as text, and no windows."""
    target = "labels" if labels else "scores"
    for split, documents in splits.items():
        rows = [
            {
                "doc_id": f"{split}-{index}",
                "source": "corpus.jsonl",
                "record_index": index,
                "sentences": [text for text, _ in document],
                target: [wanted for _, wanted in document],
            }
            for index, document in enumerate(documents)
        ]
        file = folder / "documents" / split / "part-a.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=document_schema()), file)
    return TrainingData(folder, Settings(), labels, (), "", (), {}, {}, "", {})


ONE, OTHER, MARK = "one two", "two one", "?"
"""Texts that tell the labels of the train documents; the first two differ only in their pair of words."""


def test_labels(tmp_path: Path) -> None:
    data = records(
        tmp_path,
        labels=("a", "b", "c"),
        train=[
            [(ONE, "a"), (OTHER, "b"), (MARK, "c")],
            [(ONE, "a"), (MARK, "c"), (MARK, "c")],
            [(OTHER, "b"), (OTHER, "b"), (MARK, "c")],
            [(ONE, "a")],
        ],
        test=[
            [(ONE, "a"), (OTHER, "b"), (MARK, "c")],
            [(OTHER, "a"), (ONE, "a"), (ONE, "b"), (MARK, "c"), (MARK, "a")],
            [(MARK, "b")],
        ],
    )
    found = evaluate_baselines(data, "test")
    position, words = found["position"], found["tfidf"]
    assert isinstance(position, Metrics) and isinstance(words, Metrics)
    # First sentences are a (three of four), middle ones b (two of three), last ones c. Of the document of five, the
    # second and the fourth stand where no train sentence does, and get c, the most frequent label: c, of 3 a, 3 b, 4 c.
    assert position.confusion == [[2, 0, 2], [1, 2, 0], [0, 0, 2]]
    assert (position.documents, position.sentences) == (3, 9)
    assert position.accuracy == pytest.approx(6 / 9)
    # Every text gets the label that it has in the train split.
    assert words.confusion == [[2, 1, 1], [1, 1, 1], [0, 0, 2]]
    assert (words.documents, words.sentences) == (3, 9)
    assert words.accuracy == pytest.approx(5 / 9)
    assert found.keys() == {"position", "tfidf"}


def test_scores(tmp_path: Path) -> None:
    train = [[("alpha", 1.0), ("beta", 3.0)]]
    data = records(tmp_path, labels=(), train=train, test=[[("alpha", 1.0), ("beta", 3.0), ("beta", 2.0)]])
    found = evaluate_baselines(data, "test")
    position, words = found["position"], found["tfidf"]
    assert isinstance(position, ScoreMetrics) and isinstance(words, ScoreMetrics)
    # By position 1, 2 (the mean of all, in the middle), 3.
    assert position.mse == pytest.approx((0 + 1 + 1) / 3)
    assert position.spearman == pytest.approx(1 - 6 * (0 + 1 + 1) / (3 * 8))
    # Ridge regression with a penalty of 1 on two opposite words halves their distance from the mean: 1.5, 2.5, 2.5.
    assert words.mse == pytest.approx((0.25 + 0.25 + 0.25) / 3)


def test_one_label_alone(tmp_path: Path) -> None:
    data = records(tmp_path, labels=("a", "b"), train=[[(ONE, "a")]], dev=[[(ONE, "a"), (OTHER, "b")]])
    assert {name: metrics.to_json()["accuracy"] for name, metrics in evaluate_baselines(data, "dev").items()} == {
        "position": 0.5,
        "tfidf": 0.5,
    }


def test_positions_in_twenty_bins(tmp_path: Path) -> None:
    """Of 41 train sentences two share a bin, but the last three do; their mean is what stands there."""
    train = [[("x", float(index)) for index in range(41)]]
    judged = [[("x", 0.5), *[("x", 0.0)] * 38, ("x", 37.0), ("x", 39.0)]]
    data = records(tmp_path / "doc_id=1", labels=(), train=train, test=judged)
    wanted = [index // 2 * 2 + 0.5 for index in range(38)] + [39.0] * 3
    errors = [(one - score) ** 2 for one, (_, score) in zip(wanted, judged[0], strict=True)]
    position = evaluate_baselines(data, "test")["position"]
    assert isinstance(position, ScoreMetrics)
    assert position.mse == pytest.approx(sum(errors) / 41)
