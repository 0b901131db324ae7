"""Evaluates a new model and the champion on the same held-out documents, each with its own tokenizer and windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.evaluation.bootstrap import Comparison, SliceComparison, compare_slices, paired_bootstrap
from model.evaluation.held_out import (
    DocumentClassifier,
    HeldOut,
    LabelPredictions,
    all_labels,
    check_features,
    measure_labels,
    measure_speed,
    read_held_out,
)
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
        check_features(champion.bundle, data, hint="retrain under another retrain.name")
    held_out = read_held_out(data, split, max_documents=settings.max_documents)
    bundles = [candidate] if champion is None else [candidate, champion.bundle]
    classifiers = [DocumentClassifier(bundle) for bundle in bundles]
    labels = all_labels(data.labels, *(bundle.labels for bundle in bundles))
    truth = held_out.labelled(labels).targets
    predictions = [classifier.classify(held_out, labels) for classifier in classifiers]
    metrics = [measure_labels(held_out, predicted, labels) for predicted in predictions]
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


def _compare(
    held_out: HeldOut, truth: np.ndarray, predictions: Sequence[LabelPredictions], settings: GatesSection
) -> Comparison:
    return paired_bootstrap(
        truth,
        *(predicted.label_ids for predicted in predictions),
        documents=held_out.document_of_sentence(),
        samples=settings.samples,
        confidence=settings.confidence,
    )


def _compare_by_slice(
    held_out: HeldOut, truth: np.ndarray, predictions: Sequence[LabelPredictions], settings: GatesSection
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
