"""Metrics of scores against sums by hand and an own longest common subsequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.bundles.training_data import TrainingData
from model.config import Settings
from model.evaluation.score_metrics import choose_sentences, measure_scores, read_highlights
from model.schema import document_schema

SENTENCES = [f"word{number} is said of thing{number}" for number in range(14)]


def common(one: list[str], other: list[str]) -> int:
    lengths = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            lengths[i + 1, j + 1] = lengths[i, j] + 1 if a == b else max(lengths[i, j + 1], lengths[i + 1, j])
    return int(lengths[-1, -1])


def f_measure(chosen: str, wanted: str) -> float:
    shared = common(chosen.split(), wanted.split())
    precision, recall = shared / len(chosen.split()), shared / len(wanted.split())
    return 2 * precision * recall / (precision + recall)


def test_scores_by_hand() -> None:
    true, predicted = np.array([1.0, 2.0, 3.0, 5.0], np.float32), np.array([1.0, 4.0, 3.0, 6.0], np.float32)
    metrics = measure_scores(["a", "a", "b", "b"], true, predicted)
    assert (metrics.documents, metrics.sentences) == (2, 4)
    assert metrics.mse == pytest.approx((0 + 4 + 0 + 1) / 4)
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert metrics.spearman == pytest.approx(0.8)
    assert metrics.rouge_l is None
    assert measure_scores(["a", "a"], np.zeros(2), np.array([1.0, 2.0])).spearman == 0.0


def test_rouge_is_of_the_ten_best_in_their_order() -> None:
    scores = np.array([0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.33, 0.32, 0.31, 0.3, 0.2, 0.95])
    chosen = choose_sentences(scores)
    assert chosen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 13]
    wanted = [SENTENCES[3], SENTENCES[13]]
    documents = [(SENTENCES, wanted), (["no highlights here"], []), (["word1 is known"], ["word1 is known"])]
    metrics = measure_scores(
        ["a"] * 14 + ["b", "c"], np.zeros(16, np.float32), np.append(scores, [0.0, 0.0]), highlights=documents
    )
    expected = f_measure(" ".join(SENTENCES[index] for index in chosen), " ".join(wanted))
    assert metrics.rouge_l == pytest.approx((expected + 1.0) / 2, abs=1e-6)


def test_equal_scores_take_the_earlier_sentence() -> None:
    assert choose_sentences(np.array([1.0, 2.0, 1.0, 1.0]), 2) == [0, 1]


@pytest.mark.parametrize(("true", "predicted"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_a_constant_side_has_no_rank_correlation(true: list[float], predicted: list[float]) -> None:
    assert measure_scores(["a", "a"], np.array(true), np.array(predicted)).spearman == 0.0


def test_highlights_are_read_in_the_order_of_the_parts(tmp_path: Path) -> None:
    """Whatever the folders are called: Arrow would take "sentences=1" for a column."""
    folder = tmp_path / "sentences=1"
    parts: dict[str, list[Any]] = {
        "part-b": [(["Three."], None)],
        "part-a": [(["One.", "Two."], ["Two."]), (["Only."], [])],
    }
    for name, documents in parts.items():
        rows = [
            {"doc_id": "d", "source": "s", "record_index": 0, "sentences": sentences, "highlights": highlights}
            for sentences, highlights in documents
        ]
        path = folder / "documents" / "dev" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=document_schema()), path)
    data = TrainingData(folder, Settings(), (), (), "", (), {}, {}, "", {})
    assert read_highlights(data, "dev") == [(["One.", "Two."], ["Two."]), (["Only."], []), (["Three."], [])]
    assert read_highlights(data, "test") == []
