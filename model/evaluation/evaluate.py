"""Evaluates a model on a split of training records, next to baselines on the same documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from model.bundles.registry import open_model
from model.bundles.training_data import open_training_data
from model.errors import UserError
from model.evaluation.baselines import evaluate_baselines
from model.evaluation.metrics import LabelledSentences, Metrics, measure
from model.evaluation.score_metrics import ScoreMetrics, measure_scores, read_highlights
from model.inference.labelled_windows import read_windows
from model.inference.owned import take_owned
from model.inference.predictor import Outputs, Predictor
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


def measure_outputs(
    sentences: LabelledSentences,
    outputs: Outputs,
    *,
    labels: Sequence[str],
    highlights: Sequence[tuple[Sequence[str], Sequence[str]]] = (),
) -> Metrics | ScoreMetrics:
    """Returns the metrics of a model's outputs, labels or scores; `highlights` as in `measure_scores`."""
    if "scores" in outputs:
        return measure_scores(sentences.doc_ids, sentences.targets, outputs["scores"], highlights=highlights)
    return measure(sentences, outputs["label_ids"], labels=labels, probabilities=outputs["probabilities"])


def evaluate_bundle(bundle_dir: str, data_dir: str, split: str) -> dict[str, Metrics | ScoreMetrics]:
    """Returns the metrics of a bundle on a split, under the name `sepline`, and those of the baselines.

    Raises:
        UserError: bundle or data can't be used, or don't belong together, or the split is empty.
    """
    bundle, data = open_model(bundle_dir), open_training_data(data_dir)
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
