"""Sentence-level metrics of predicted labels: accuracy, precision, recall, F1, confusion, calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.evaluation.calibration import expected_calibration_error


@dataclass(frozen=True)
class LabelMetrics:
    """Precision, recall and F1 of one label, and the number of sentences that truly have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """Sentence-level figures of one model on one set of documents.

    Attributes:
        documents, sentences: how many were evaluated.
        accuracy: the share of sentences with the right label; equals micro F1, the paper's figure.
        macro_f1: the mean of the labels' F1; labels that neither occur nor are predicted are left out.
        weighted_f1: the mean weighted by support.
        calibration_error: how much the probabilities of the predicted labels differ from the share of right labels
            (`calibration.expected_calibration_error`); None for a classifier without probabilities.
        labels: the metrics by label, in the model's order.
        confusion: `[true label][predicted label]` sentence counts, in the model's order.
    """

    documents: int
    sentences: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    calibration_error: float | None
    labels: dict[str, LabelMetrics]
    confusion: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LabelledSentences:
    """The sentences of a split in document order, as parallel arrays.

    Attributes:
        doc_ids: `[sentences]`.
        sentence_indices: int64 `[sentences]`, from 0 in each document.
        targets: `[sentences]`, the true labels as int64, or the true scores as float32.
    """

    doc_ids: list[str]
    sentence_indices: np.ndarray
    targets: np.ndarray


def measure(
    sentences: LabelledSentences,
    predicted: np.ndarray,
    *,
    labels: Sequence[str],
    probabilities: np.ndarray | None = None,
) -> Metrics:
    """Returns the metrics of predicted labels against the true ones.

    Args:
        sentences: with the true labels.
        predicted: int `[sentences]`, indices into `labels`.
        labels: the model's.
        probabilities: float `[sentences, labels]`; None for a classifier without probabilities.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    confusion = confusion_matrix(sentences.targets, predicted, labels=range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        sentences.targets, predicted, labels=range(len(labels)), zero_division=0.0
    )
    seen = (confusion.sum(0) + confusion.sum(1)) > 0
    correct = sentences.targets == predicted
    calibration_error = None
    if probabilities is not None:
        confidences = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
        calibration_error = expected_calibration_error(confidences, correct)
    return Metrics(
        documents=len(set(sentences.doc_ids)),
        sentences=len(predicted),
        accuracy=float(np.mean(correct)),
        macro_f1=float(np.mean(f1[seen])),
        weighted_f1=float(np.average(f1, weights=support)),
        calibration_error=calibration_error,
        labels={
            name: LabelMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(labels)
        },
        confusion=confusion.tolist(),
    )
