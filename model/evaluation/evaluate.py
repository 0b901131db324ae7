"""Evaluates a model on a split of training records, next to baselines on the same documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.bundles.registry import open_model
from model.bundles.training_data import open_training_data
from model.evaluation.baselines import evaluate_baselines
from model.evaluation.held_out import (
    DocumentClassifier,
    all_labels,
    check_features,
    check_target,
    measure_labels,
    measure_score_predictions,
    read_held_out,
)
from model.evaluation.metrics import LabelledSentences, Metrics, measure
from model.evaluation.score_metrics import ScoreMetrics, measure_scores
from model.inference.kinds import Outputs
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.records import LabelledWindow


def labelled_sentences(windows: Sequence[LabelledWindow]) -> LabelledSentences:
    """Returns the sentences of the windows' documents in order, each once."""
    shown = [one.encoded.window for one in windows]
    doc_ids = [one.doc_id for one, window in zip(windows, shown, strict=True) for _ in window.owned_sentences]
    indices = np.concatenate([window.owned_sentences for window in shown])
    targets = take_owned(shown, ({"targets": one.targets} for one in windows))["targets"]
    return LabelledSentences(doc_ids, indices, targets)


def predict(predictor: Predictor, windows: Iterable[LabelledWindow]) -> tuple[LabelledSentences, Outputs]:
    """Returns the sentences of labelled windows, and the model's outputs for them, `[sentences, ...]` by name."""
    labelled = list(windows)
    outputs = predictor.run([one.encoded for one in labelled])
    return labelled_sentences(labelled), take_owned((one.encoded.window for one in labelled), outputs)


def measure_outputs(sentences: LabelledSentences, outputs: Outputs, *, labels: Sequence[str]) -> Metrics | ScoreMetrics:
    """Returns the metrics of a model's outputs, labels or scores."""
    if "scores" in outputs:
        return measure_scores(sentences.doc_ids, sentences.targets, outputs["scores"])
    return measure(sentences, outputs["label_ids"], labels=labels, probabilities=outputs["probabilities"])


@dataclass(frozen=True)
class BundleEvaluation:
    """How a bundle does on a split.

    Attributes:
        results: the bundle's metrics under the name `sepline`, and those of the baselines.
        unknown_labels: the labels of the documents that the bundle does not know, and how many sentences have each;
            the bundle's metrics count these sentences as wrong.
    """

    results: Mapping[str, Metrics | ScoreMetrics]
    unknown_labels: Mapping[str, int]


def evaluate_bundle(bundle_dir: str, data_dir: str, split: str, *, trust_model: bool = False) -> BundleEvaluation:
    """Returns the metrics of a bundle on the documents of a split, and those of baselines on the same documents.

    The bundle reads the documents as text, with its own tokenizer, windows, outlier masks and feature statistics; so
    the records may have been made for another model. Labels are matched by name.
    The model is run though its graph can do more than compute only if `trust_model` is true.

    Raises:
        UserError: bundle or data can't be used, or predict another target, or have no label in common, or the split is
            empty.
    """
    bundle, data = open_model(bundle_dir, trusted=trust_model), open_training_data(data_dir)
    check_features(bundle, data, hint="name records of documents that have them")
    held_out = read_held_out(data, split)
    unknown = check_target(bundle, data, held_out)
    classifier = DocumentClassifier(bundle)
    if not bundle.labels:
        scores = measure_score_predictions(held_out, classifier.run(held_out)["scores"])
        return BundleEvaluation({"sepline": scores, **evaluate_baselines(data, split)}, {})
    labels = all_labels(bundle.labels, data.labels)
    metrics = measure_labels(held_out, classifier.classify(held_out, labels), labels)
    return BundleEvaluation({"sepline": metrics, **evaluate_baselines(data, split, labels=labels)}, unknown)
