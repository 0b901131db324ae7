"""Evaluates a new model and the champion on the same held-out documents, each with its own tokenizer and windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.errors import UserError
from model.evaluation.bootstrap import Comparison, SliceComparison, compare_slices, paired_bootstrap
from model.evaluation.held_out import DocumentClassifier, HeldOut, measure_speed, read_held_out
from model.evaluation.metrics import LabelledSentences, Metrics, measure
from pipelines.retraining.figures import ChampionFigures, Evaluation, ModelFigures
from pipelines.retraining.settings import GatesSection


@dataclass(frozen=True)
class Champion:
    """The model in use.

    Attributes:
        bundle: the model.
        version: its number in the registry.
        accuracy_when_published: its accuracy in the run that published it; None if nothing is recorded.
    """

    bundle: Bundle
    version: int
    accuracy_when_published: float | None


@dataclass(frozen=True)
class _Predictions:
    """What one model predicts for the held-out sentences, in an order of labels that holds for both models.

    Attributes:
        label_ids: int `[sentences]`.
        probabilities: float32 `[sentences, labels]`, 0 for labels that the model does not know.
    """

    label_ids: np.ndarray
    probabilities: np.ndarray


def evaluate_candidate(
    candidate: Bundle, champion: Champion | None, data: TrainingData, split: str, *, settings: GatesSection
) -> Evaluation:
    """Returns the figures of both models and of their difference.

    Args:
        candidate: the new model.
        champion: the one in use, if there is one.
        data: the folder whose documents both models read.
        split: which of the documents.
        settings: the gates that the figures are for.

    Raises:
        DataError: the split is empty.
        UserError: the champion takes another number of features than the documents have.
    """
    if champion is not None:
        _check_features(champion.bundle, data)
    held_out = read_held_out(data, split, max_documents=settings.max_documents)
    bundles = [candidate] if champion is None else [candidate, champion.bundle]
    classifiers = [DocumentClassifier(bundle) for bundle in bundles]
    labels = list(dict.fromkeys([*data.labels, *(label for bundle in bundles for label in bundle.labels)]))
    truth = np.array([labels.index(label) for document in held_out.labels for label in document])
    predictions = [_predict(classifier, held_out, labels) for classifier in classifiers]
    metrics = [_measure(held_out, truth, predicted, labels) for predicted in predictions]
    speeds = [round(speed, 1) for speed in measure_speed(classifiers, held_out)]
    sizes = [round(_size(bundle) / 1e6, 3) for bundle in bundles]
    figures: ChampionFigures | None = None
    comparison: Comparison | None = None
    slices: tuple[SliceComparison, ...] = ()
    if champion is not None:
        figures = ChampionFigures(
            champion.bundle.fingerprint,
            metrics[1],
            sizes[1],
            speeds[1],
            version=champion.version,
            accuracy_when_published=champion.accuracy_when_published,
        )
        comparison = _compare(held_out, truth, predictions, settings)
        slices = _compare_by_slice(held_out, truth, predictions, settings)
    return Evaluation(
        split=split,
        documents=len(held_out.doc_ids),
        sentences=len(truth),
        candidate=ModelFigures(candidate.fingerprint, metrics[0], sizes[0], speeds[0]),
        champion=figures,
        comparison=comparison,
        slices=slices,
    )


def _check_features(champion: Bundle, data: TrainingData) -> None:
    if len(champion.features) not in (0, data.settings.data.features):
        raise UserError(
            f"{champion.path}: takes {len(champion.features)} features a sentence, and data.features is "
            f"{data.settings.data.features}; retrain under another retrain.name"
        )


def _predict(classifier: DocumentClassifier, held_out: HeldOut, labels: Sequence[str]) -> _Predictions:
    label_ids, probabilities = classifier.classify(held_out)
    positions = np.array([labels.index(label) for label in classifier.bundle.labels])
    rearranged = np.zeros((len(probabilities), len(labels)), np.float32)
    rearranged[:, positions] = probabilities
    return _Predictions(positions[label_ids], rearranged)


def _measure(held_out: HeldOut, truth: np.ndarray, predicted: _Predictions, labels: Sequence[str]) -> Metrics:
    doc_ids = [held_out.doc_ids[index] for index in held_out.document_of_sentence()]
    indices = np.concatenate([np.arange(len(sentences)) for sentences in held_out.sentences])
    sentences = LabelledSentences(doc_ids, indices, truth)
    return measure(sentences, predicted.label_ids, labels=labels, probabilities=predicted.probabilities)


def _compare(
    held_out: HeldOut, truth: np.ndarray, predictions: Sequence[_Predictions], settings: GatesSection
) -> Comparison:
    return paired_bootstrap(
        truth,
        *(predicted.label_ids for predicted in predictions),
        documents=held_out.document_of_sentence(),
        samples=settings.samples,
        confidence=settings.confidence,
    )


def _compare_by_slice(
    held_out: HeldOut, truth: np.ndarray, predictions: Sequence[_Predictions], settings: GatesSection
) -> tuple[SliceComparison, ...]:
    if settings.slice_pattern is None:
        return ()
    return compare_slices(
        *(predicted.label_ids == truth for predicted in predictions),
        documents=held_out.document_of_sentence(),
        slices=_slices(held_out.sources, settings.slice_pattern),
    )


def _slices(sources: Sequence[str], pattern: str) -> list[str]:
    """Returns the slice of each source: what the pattern's first group matches, or all of the pattern."""
    found = [re.search(pattern, source) for source in sources]
    return ["other" if match is None else (match[1] if match.re.groups else match[0]) or "" for match in found]


def _size(bundle: Bundle) -> int:
    return sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
