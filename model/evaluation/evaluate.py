"""What a model is worth: metrics over sentences, each judged once, by the window that owns it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.bundles.bundle import load_bundle
from model.bundles.training_data import open_training_data
from model.errors import UserError
from model.evaluation.calibration import expected_calibration_error
from model.evaluation.score_metrics import ScoreMetrics, measure_scores, read_highlights
from model.inference.predictor import Outputs, Predictor
from model.records import LabelledWindow


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
        calibration_error: by how much the probabilities of the predicted labels differ from the share that is right
            (`calibration.expected_calibration_error`); None for a classifier that gives none.
        labels: by label, in the model's order.
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


def predict(predictor: Predictor, windows: Iterable[LabelledWindow]) -> tuple[LabelledSentences, Outputs]:
    """Returns the sentences and what the model says of each, `[sentences, ...]`, taken from the window that owns it."""
    windows = list(windows)
    outputs = predictor.run([window.encoded for window in windows])
    doc_ids: list[str] = []
    indices, targets = [], []
    own: dict[str, list[np.ndarray]] = {name: [] for name in outputs[0]}
    for labelled, shown in zip(windows, outputs, strict=True):
        window = labelled.encoded.window
        doc_ids += [labelled.doc_id] * (window.owned_end - window.owned_start)
        indices.append(np.arange(window.owned_start, window.owned_end))
        targets.append(labelled.targets[window.owned])
        for name, values in shown.items():
            own[name].append(values[window.owned])
    sentences = LabelledSentences(doc_ids, np.concatenate(indices), np.concatenate(targets))
    return sentences, {name: np.concatenate(values) for name, values in own.items()}


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
        probabilities: float `[sentences, labels]`, where the classifier gives any.
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


def measure_outputs(
    sentences: LabelledSentences,
    outputs: Outputs,
    *,
    labels: Sequence[str],
    highlights: Sequence[tuple[Sequence[str], Sequence[str]]] = (),
) -> Metrics | ScoreMetrics:
    """Returns the metrics of what a model says of sentences, labels or scores; `highlights` as in `measure_scores`."""
    if "scores" in outputs:
        return measure_scores(sentences.doc_ids, sentences.targets, outputs["scores"], highlights=highlights)
    return measure(sentences, outputs["label_ids"], labels=labels, probabilities=outputs["probabilities"])


def evaluate_bundle(bundle_dir: str, data_dir: str, split: str) -> dict[str, Metrics | ScoreMetrics]:
    """Returns the metrics of a bundle on a split, under `sepline`, beside those of the baselines.

    Raises:
        UserError: bundle or data can't be used, don't belong together, or the split is empty.
    """
    from model.evaluation.baselines import evaluate_baselines
    from model.training.input_pipeline import read_windows

    bundle, data = load_bundle(bundle_dir), open_training_data(data_dir)
    if bundle.labels != data.labels or bundle.vocabulary.fingerprint != data.vocabulary_fingerprint:
        raise UserError(f"{data_dir}: labels or vocabulary are not those of {bundle_dir}; preprocess for this model")
    if len(bundle.features) != len(data.features):
        raise UserError(
            f"{data_dir}: has {len(data.features)} features a sentence, but {bundle_dir} takes {len(bundle.features)}"
        )
    if not data.window_lengths.get(split):
        raise UserError(f"{data_dir}: the {split} split is empty; name another --split")
    sentences, outputs = predict(Predictor.load(bundle), read_windows(data, split))
    highlights = read_highlights(data, split) if "scores" in outputs else ()
    metrics = measure_outputs(sentences, outputs, labels=bundle.labels, highlights=highlights)
    return {"sepline": metrics, **evaluate_baselines(data, split)}
