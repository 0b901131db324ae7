"""Metrics against figures worked out by hand, and predictions taken from the window that owns the sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from model.evaluation.evaluate import predict
from model.evaluation.metrics import LabelledSentences, LabelMetrics, measure
from model.inference.kinds import Outputs
from model.inference.predictor import Predictor
from model.records import EncodedWindow, LabelledWindow, Window


def sentences(labels: list[int], doc_ids: list[str] | None = None) -> LabelledSentences:
    doc_ids = doc_ids or ["d"] * len(labels)
    indices = [doc_ids[:i].count(doc_id) for i, doc_id in enumerate(doc_ids)]
    return LabelledSentences(doc_ids, np.array(indices), np.array(labels))


def test_metrics_worked_out_by_hand() -> None:
    true = [0, 0, 0, 0, 1, 1, 1, 2]
    predicted = [0, 0, 0, 1, 1, 1, 0, 1]
    metrics = measure(
        sentences(true, ["a"] * 5 + ["b"] * 3), np.array(predicted), labels=("goal", "method", "result", "unused")
    )
    assert (metrics.documents, metrics.sentences) == (2, 8)
    assert metrics.accuracy == 5 / 8
    # goal: 3 of 4 found, 3 of 4 right. method: 2 of 3 found, 2 of 4 right. result: never predicted.
    assert metrics.labels == {
        "goal": LabelMetrics(0.75, 0.75, 0.75, 4),
        "method": LabelMetrics(0.5, 2 / 3, 4 / 7, 3),
        "result": LabelMetrics(0.0, 0.0, 0.0, 1),
        "unused": LabelMetrics(0.0, 0.0, 0.0, 0),
    }
    assert metrics.macro_f1 == pytest.approx((0.75 + 4 / 7 + 0) / 3)  # without the label that nobody uses
    assert metrics.weighted_f1 == pytest.approx((4 * 0.75 + 3 * 4 / 7 + 0) / 8)
    assert metrics.confusion == [[3, 1, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_all_right() -> None:
    metrics = measure(sentences([1, 0, 1]), np.array([1, 0, 1]), labels=("a", "b"))
    assert (metrics.accuracy, metrics.macro_f1, metrics.weighted_f1) == (1.0, 1.0, 1.0)
    assert metrics.calibration_error is None
    assert metrics.confusion == [[1, 0], [0, 2]]


def test_all_wrong() -> None:
    metrics = measure(sentences([0, 0]), np.array([1, 1]), labels=("a", "b"))
    assert (metrics.accuracy, metrics.macro_f1, metrics.weighted_f1) == (0.0, 0.0, 0.0)
    assert metrics.confusion == [[0, 2], [0, 0]]


def test_metrics_are_plain_json_values() -> None:
    metrics = measure(sentences([0, 1]), np.array([0, 0]), labels=("a", "b"))
    assert json.loads(json.dumps(metrics.to_json())) == metrics.to_json()
    assert list(metrics.to_json()["labels"]["a"]) == ["precision", "recall", "f1", "support"]


def test_each_sentence_is_judged_by_its_own_window() -> None:
    """The classifier here answers with the window's first id, so that its answers say which window they are from."""

    def window(first_id: int, shown: tuple[int, int], owned: tuple[int, int], labels: list[int]) -> LabelledWindow:
        count = shown[1] - shown[0]
        index = 0 if shown[0] == 0 else 1
        encoded = EncodedWindow(
            Window(index, *shown, *owned),
            np.full(count + 1, first_id, np.int32),
            np.zeros(count + 1, np.int32),
            np.arange(1, count + 1, dtype=np.int32),
            np.zeros(count, bool),
        )
        doc_id = "long" if first_id < 30 else "short"
        return LabelledWindow(doc_id, encoded, np.array(labels), np.ones(count, np.float32))

    def classify(batch: Mapping[str, np.ndarray]) -> Outputs:
        first_ids = np.broadcast_to(batch["token_ids"][:, :1], batch["sep_positions"].shape)
        answers = np.stack([first_ids, batch["sep_positions"]], axis=-1).astype(np.float32)
        return {"probabilities": answers, "label_ids": batch["sep_positions"]}

    windows = [
        window(10, (0, 5), (0, 3), [0, 1, 2, 9, 9]),
        window(20, (2, 7), (3, 7), [9, 3, 4, 5, 6]),
        window(30, (0, 2), (0, 2), [7, 8]),
    ]
    labelled, outputs = predict(Predictor(classify, pad_id=0), windows)
    probabilities = outputs["probabilities"]
    assert labelled.doc_ids == ["long"] * 7 + ["short"] * 2
    assert labelled.sentence_indices.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert labelled.targets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    # Which window answered, and for which of its [SEP]s.
    assert probabilities[:, 0].tolist() == [10] * 3 + [20] * 4 + [30] * 2
    assert probabilities[:, 1].tolist() == outputs["label_ids"].tolist() == [1, 2, 3, 2, 3, 4, 5, 1, 2]


def test_the_calibration_error_is_of_the_predicted_labels() -> None:
    """Two sentences a bin: sure of 0.9 twice and right once, sure of 0.6 twice and right twice."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    metrics = measure(
        sentences([0, 0, 0, 1]), probabilities.argmax(axis=1), labels=("a", "b"), probabilities=probabilities
    )
    assert metrics.calibration_error == pytest.approx((abs(1.8 - 1) + abs(1.2 - 2)) / 4)
