"""A new model and the champion on the same held-out documents, each with its own tokenizer and windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.errors import UserError
from model.evaluation.bootstrap import compare_slices, paired_bootstrap
from model.evaluation.evaluate import LabelledSentences, measure
from model.evaluation.held_out import DocumentClassifier, HeldOut, measure_speed, read_held_out
from pipelines.retraining.settings import GatesSection


def evaluate_candidate(
    candidate: Bundle,
    champion: Bundle | None,
    data: TrainingData,
    split: str,
    *,
    settings: GatesSection,
    champion_facts: dict[str, Any],
) -> dict[str, Any]:
    """Returns the figures of both models and of their difference, as JSON values.

    Args:
        candidate, champion: the new model and the one in use, if there is one.
        data: the folder whose documents they are judged on.
        split: which of them.
        settings: the gates that the figures are for.
        champion_facts: what else to say of the champion.

    Raises:
        DataError: the split is empty.
        UserError: the champion takes other features than the documents have.
    """
    if champion is not None and len(champion.features) not in (0, data.settings.data.features):
        raise UserError(
            f"{champion.path}: takes {len(champion.features)} features a sentence, and data.features is "
            f"{data.settings.data.features}; retrain under another retrain.name"
        )
    held_out = read_held_out(data, split, max_documents=settings.max_documents)
    classifiers = [DocumentClassifier(bundle) for bundle in (candidate, champion) if bundle is not None]
    labels = list(
        dict.fromkeys([*data.labels, *(label for classifier in classifiers for label in classifier.bundle.labels)])
    )
    truth = np.array([labels.index(label) for document in held_out.labels for label in document])
    readings = [_read(classifier, held_out, labels) for classifier in classifiers]
    speeds = measure_speed(classifiers, held_out)
    figures = [
        {
            "fingerprint": classifier.bundle.fingerprint,
            "metrics": _measure(held_out, truth, *reading, labels=labels),
            "size_mb": round(_size(classifier.bundle) / 1e6, 3),
            "speed": round(speed, 1),
        }
        for classifier, reading, speed in zip(classifiers, readings, speeds, strict=True)
    ]
    evaluation: dict[str, Any] = {
        "split": split,
        "documents": len(held_out.doc_ids),
        "sentences": len(truth),
        "candidate": figures[0],
        "champion": None,
        "comparison": None,
        "slices": [],
    }
    if champion is not None:
        (first, _), (second, _) = readings
        documents = held_out.document_of_sentence()
        comparison = paired_bootstrap(
            truth, first, second, documents=documents, samples=settings.samples, confidence=settings.confidence
        )
        evaluation |= {"champion": figures[1] | champion_facts, "comparison": comparison.to_json()}
        if settings.slice_pattern is not None:
            slices = _slices(held_out.sources, settings.slice_pattern)
            hits = first == truth, second == truth
            compared = compare_slices(*hits, documents=documents, slices=slices)
            evaluation["slices"] = [asdict(one) for one in compared]
    return evaluation


def _read(classifier: DocumentClassifier, held_out: HeldOut, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns label ids and probabilities in the order of `labels`: 0 for those that the model does not know."""
    label_ids, probabilities = classifier.classify(held_out)
    places = np.array([labels.index(label) for label in classifier.bundle.labels])
    placed = np.zeros((len(probabilities), len(labels)), np.float32)
    placed[:, places] = probabilities
    return places[label_ids], placed


def _measure(
    held_out: HeldOut, truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, *, labels: Sequence[str]
) -> dict[str, Any]:
    doc_ids = [held_out.doc_ids[index] for index in held_out.document_of_sentence()]
    indices = np.concatenate([np.arange(len(sentences)) for sentences in held_out.sentences])
    sentences = LabelledSentences(doc_ids, indices, truth)
    return measure(sentences, predicted, labels=labels, probabilities=probabilities).to_json()


def _slices(sources: Sequence[str], pattern: str) -> list[str]:
    """Returns the slice of each source: what the pattern's first group, or all of it, matches."""
    found = [re.search(pattern, source) for source in sources]
    return ["other" if match is None else (match[1] if match.re.groups else match[0]) or "" for match in found]


def _size(bundle: Bundle) -> int:
    return sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
