"""What a model is worth: metrics over sentences, each judged once, by the window that owns it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.bundle import load_bundle
from model.engine import Engine
from model.errors import UserError
from model.records import LabelledWindow
from model.training_data import open_training_data


@dataclass(frozen=True)
class LabelMetrics:
    """Precision, recall and F1 of one label, and how many sentences truly have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """Sentence-level figures of one model on one set of documents.

    Attributes:
        documents, sentences: how many were judged.
        accuracy: the share of sentences with the right label; equals micro F1, the paper's figure.
        macro_f1: the mean of the labels' F1; labels that neither occur nor are predicted are left out.
        weighted_f1: the mean weighted by support.
        labels: by label, in the model's order.
        confusion: `[true label][predicted label]` sentence counts, in the model's order.
    """

    documents: int
    sentences: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
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
        labels: int64 `[sentences]`, the true labels.
    """

    doc_ids: list[str]
    sentence_indices: np.ndarray
    labels: np.ndarray


def predict(engine: Engine, windows: Iterable[LabelledWindow]) -> tuple[LabelledSentences, np.ndarray]:
    """Returns the sentences and their probabilities, float32 `[sentences, labels]`, each taken from its own window."""
    windows = list(windows)
    probabilities = engine.probabilities([window.encoded for window in windows])
    doc_ids: list[str] = []
    indices, labels, rows = [], [], []
    for labelled, shown in zip(windows, probabilities, strict=True):
        window = labelled.encoded.window
        owned = slice(window.owned_start - window.start, window.owned_end - window.start)
        doc_ids += [labelled.doc_id] * (window.owned_end - window.owned_start)
        indices.append(np.arange(window.owned_start, window.owned_end))
        labels.append(labelled.labels[owned])
        rows.append(shown[owned])
    return LabelledSentences(doc_ids, np.concatenate(indices), np.concatenate(labels)), np.concatenate(rows)


def measure(sentences: LabelledSentences, predicted: np.ndarray, *, labels: Sequence[str]) -> Metrics:
    """Returns the metrics of predicted labels, int `[sentences]`, against the true ones."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    confusion = confusion_matrix(sentences.labels, predicted, labels=range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        sentences.labels, predicted, labels=range(len(labels)), zero_division=0.0
    )
    seen = (confusion.sum(0) + confusion.sum(1)) > 0
    return Metrics(
        documents=len(set(sentences.doc_ids)),
        sentences=len(predicted),
        accuracy=float(np.mean(sentences.labels == predicted)),
        macro_f1=float(np.mean(f1[seen])),
        weighted_f1=float(np.average(f1, weights=support)),
        labels={
            name: LabelMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(labels)
        },
        confusion=confusion.tolist(),
    )


def evaluate_bundle(bundle_dir: str, data_dir: str, split: str) -> dict[str, Metrics]:
    """Returns the metrics of a bundle on a split, under `sepline`, beside those of the baselines.

    Raises:
        UserError: bundle or data can't be used, don't belong together, or the split is empty.
    """
    from model.baselines import evaluate_baselines
    from model.input_pipeline import read_windows

    bundle, data = load_bundle(bundle_dir), open_training_data(data_dir)
    if bundle.labels != data.labels or bundle.vocabulary.fingerprint != data.vocabulary_fingerprint:
        raise UserError(f"{data_dir}: labels or vocabulary are not those of {bundle_dir}; preprocess for this model")
    if not data.window_lengths.get(split):
        raise UserError(f"{data_dir}: the {split} split is empty; name another --split")
    sentences, probabilities = predict(Engine.load(bundle), read_windows(data, split))
    metrics = measure(sentences, probabilities.argmax(axis=1), labels=bundle.labels)
    return {"sepline": metrics, **evaluate_baselines(data, split)}
