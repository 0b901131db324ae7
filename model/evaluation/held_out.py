"""Held-out documents as text, and what a bundle predicts for them with its own tokenizer, windows and features.

So bundles can be judged on documents that were preprocessed for another model: with another vocabulary, other windows,
other feature statistics, or another order of labels. Labels are matched by name.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.errors import DataError, UserError
from model.evaluation.metrics import LabelledSentences, Metrics, measure
from model.evaluation.score_metrics import ScoreMetrics, measure_scores
from model.inference.document_windows import encode_documents
from model.inference.kinds import TENSORFLOW, Outputs, PredictorChoice, Tokenize
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.records import EncodedWindow

_CHUNK_DOCUMENTS = 500
_TIMED_DOCUMENTS = 64
_TIMED_ROUNDS = 3


@dataclass(frozen=True)
class HeldOut:
    """Documents with labels or scores, as parallel tuples with one entry per document.

    Attributes:
        doc_ids, sources: as in `Document`.
        sentences: a tuple for each document.
        labels, scores: the targets of the sentences, a tuple for each document; empty where the corpus has none.
        features: for each document the additional numbers of each sentence; empty if it has none.
        highlights: the highlights of each document; empty if it has none.
    """

    doc_ids: tuple[str, ...]
    sources: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    features: tuple[Sequence[Sequence[float]], ...]
    highlights: tuple[Sequence[str], ...]

    def document_of_sentence(self) -> np.ndarray:
        """Returns int64 `[sentences]`, the index of each sentence's document."""
        return np.repeat(np.arange(len(self.doc_ids)), [len(sentences) for sentences in self.sentences])

    def windows(self, bundle: Bundle, tokenize: Tokenize) -> list[EncodedWindow]:
        """Returns the windows of all documents in order, as a bundle reads them."""
        documents = list(zip(self.sentences, self.features, strict=True))
        return list(chain.from_iterable(encode_documents(documents, bundle, tokenize)))

    def count_labels(self) -> Counter[str]:
        """Returns how many sentences have each label."""
        return Counter(chain.from_iterable(self.labels))

    def labelled(self, labels: Sequence[str]) -> LabelledSentences:
        """Returns the sentences with their true labels as indices into `labels`, which has every one of them."""
        ids = {label: index for index, label in enumerate(labels)}
        return self._with_targets(np.array([ids[label] for label in chain.from_iterable(self.labels)], np.int64))

    def scored(self) -> LabelledSentences:
        """Returns the sentences with their true scores."""
        return self._with_targets(np.array(list(chain.from_iterable(self.scores)), np.float32))

    def _with_targets(self, targets: np.ndarray) -> LabelledSentences:
        doc_ids = [self.doc_ids[index] for index in self.document_of_sentence()]
        indices = np.concatenate([np.arange(len(sentences)) for sentences in self.sentences])
        return LabelledSentences(doc_ids, indices, targets)


@dataclass(frozen=True)
class LabelPredictions:
    """The labels that a model gives to sentences, in an order of labels that several models share.

    Attributes:
        label_ids: int `[sentences]`.
        probabilities: float32 `[sentences, labels]`, 0 for labels that the model does not know.
    """

    label_ids: np.ndarray
    probabilities: np.ndarray


def read_held_out(
    data: TrainingData, split: str, *, max_documents: int | None = None, use: str = "evaluate a model on"
) -> HeldOut:
    """Returns a split's documents in the order of its files.

    Args:
        data: the folder of records.
        split: which of its documents.
        max_documents: take this many of them, those whose ids have the lowest hashes; None for all.
        use: what for, in the message about an empty split.

    Raises:
        DataError: the split is empty.
    """
    columns = ["doc_id", "source", "sentences", "labels", "scores", "features", "highlights"]
    parts = [pq.read_table(file, columns=columns, partitioning=None) for file in data.document_files(split)]
    if not parts:
        raise DataError(f"{data.path}: the {split} split is empty; there is nothing to {use}")
    table = pa.concat_tables(parts)
    if max_documents is not None:
        ranks = [hashlib.sha256(doc_id.encode("utf-8")).digest() for doc_id in table["doc_id"].to_pylist()]
        chosen = sorted(range(len(ranks)), key=ranks.__getitem__)[:max_documents]
        table = table.take(pa.array(sorted(chosen)))

    def column(name: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(items or ()) for items in table[name].to_pylist())

    return HeldOut(
        doc_ids=tuple(table["doc_id"].to_pylist()),
        sources=tuple(table["source"].to_pylist()),
        **{name: column(name) for name in columns[2:]},
    )


def check_features(bundle: Bundle, data: TrainingData, *, hint: str) -> None:
    """Checks that the documents of a folder of records have the additional features that a bundle takes.

    Raises:
        UserError: they have another number of them; the message ends with the hint.
    """
    there, wanted = data.settings.data.features, len(bundle.features)
    if wanted not in (0, there):
        raise UserError(f"{bundle.path}: takes {wanted} features a sentence, and {data.path} has {there}; {hint}")


def check_target(bundle: Bundle, data: TrainingData, held_out: HeldOut) -> dict[str, int]:
    """Returns the documents' labels that a bundle of labels does not know, and how many sentences have each.

    Raises:
        UserError: bundle and documents have another target, or no label in common.
    """
    if bool(bundle.labels) != bool(data.labels):
        kinds = ("labels", "scores") if bundle.labels else ("scores", "labels")
        raise UserError(f"{bundle.path}: predicts {kinds[0]}, and the documents of {data.path} have {kinds[1]}")
    if not bundle.labels:
        return {}
    there = held_out.count_labels()
    unknown = {label: count for label, count in sorted(there.items()) if label not in bundle.labels}
    if there and len(unknown) == len(there):
        raise UserError(
            f"{data.path}: has none of the labels of {bundle.path}, but {', '.join(unknown)}; "
            "preprocess it with a --label-map"
        )
    return unknown


class DocumentClassifier:
    """A loaded bundle that classifies documents given as text, or gives them scores."""

    def __init__(self, bundle: Bundle, choice: PredictorChoice = TENSORFLOW) -> None:
        self.bundle = bundle
        self._predictor = Predictor.load(bundle, choice)
        self._tokenize = choice.kind().open_tokenizer(bundle)

    def run(self, held_out: HeldOut, *, first: int | None = None) -> Outputs:
        """Returns the outputs for the documents' sentences in order, `[sentences, ...]` by name.

        Label ids and probabilities follow the bundle's order of labels.

        Args:
            held_out: the documents.
            first: how many of them to classify, from the first; all when None.
        """
        documents = list(zip(held_out.sentences, held_out.features, strict=True))[:first]
        outputs: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(documents), _CHUNK_DOCUMENTS):
            chunk = encode_documents(documents[start : start + _CHUNK_DOCUMENTS], self.bundle, self._tokenize)
            windows = list(chain.from_iterable(chunk))
            owned = take_owned((encoded.window for encoded in windows), self._predictor.run(windows))
            for name, values in owned.items():
                outputs.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in outputs.items()}

    def classify(self, held_out: HeldOut, labels: Sequence[str]) -> LabelPredictions:
        """Returns what the model predicts for the documents' sentences in order.

        Args:
            held_out: the documents.
            labels: all labels of the bundle and perhaps others, in any order.
        """
        outputs = self.run(held_out)
        positions = np.array([labels.index(label) for label in self.bundle.labels])
        probabilities = np.zeros((len(outputs["label_ids"]), len(labels)), np.float32)
        probabilities[:, positions] = outputs["probabilities"]
        return LabelPredictions(positions[outputs["label_ids"]], probabilities)


def measure_labels(held_out: HeldOut, predicted: LabelPredictions, labels: Sequence[str]) -> Metrics:
    """Returns the metrics of predicted labels; a true label that the model does not know counts as missed."""
    sentences = held_out.labelled(labels)
    return measure(sentences, predicted.label_ids, labels=labels, probabilities=predicted.probabilities)


def measure_score_predictions(held_out: HeldOut, predicted: np.ndarray) -> ScoreMetrics:
    """Returns the metrics of predicted scores `[sentences]` against those of the corpus, outliers included."""
    sentences = held_out.scored()
    highlights = list(zip(held_out.sentences, held_out.highlights, strict=True))
    return measure_scores(sentences.doc_ids, sentences.targets, predicted, highlights=highlights)


def all_labels(*orders: Iterable[str]) -> list[str]:
    """Returns the labels of several models or corpora, each once, in the order in which they come first."""
    return list(dict.fromkeys(chain.from_iterable(orders)))


def measure_speed(classifiers: Sequence[DocumentClassifier], held_out: HeldOut) -> list[float]:
    """Returns each classifier's sentences a second on the same documents: its best of a few rounds, taken in turns."""
    sentences = sum(len(one) for one in held_out.sentences[:_TIMED_DOCUMENTS])
    best = [float("inf")] * len(classifiers)
    for timed in [False] + [True] * _TIMED_ROUNDS:  # the first round compiles
        for index, classifier in enumerate(classifiers):
            started = time.perf_counter()
            classifier.run(held_out, first=_TIMED_DOCUMENTS)
            if timed:
                best[index] = min(best[index], time.perf_counter() - started)
    return [sentences / seconds for seconds in best]
