"""Held-out documents as text, and what a bundle predicts for them with its own tokenizer and windows.

So bundles with different vocabularies, windows or orders of labels can be compared on the same documents; labels are
matched by name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.errors import DataError
from model.inference.document_windows import encode_documents
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.text.tokenization import Tokenizer

_CHUNK_DOCUMENTS = 500
_TIMED_DOCUMENTS = 64
_TIMED_ROUNDS = 3


@dataclass(frozen=True)
class HeldOut:
    """Labelled documents, as parallel tuples with one entry per document.

    Attributes:
        doc_ids, sources: as in `Document`.
        sentences, labels: a tuple for each document.
        features: for each document the additional numbers of each sentence; empty if it has none.
    """

    doc_ids: tuple[str, ...]
    sources: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    features: tuple[Sequence[Sequence[float]], ...]

    def document_of_sentence(self) -> np.ndarray:
        """Returns int64 `[sentences]`, the index of each sentence's document."""
        return np.repeat(np.arange(len(self.doc_ids)), [len(sentences) for sentences in self.sentences])


def read_held_out(data: TrainingData, split: str, *, max_documents: int) -> HeldOut:
    """Returns a split's documents, at most `max_documents` of them: those whose ids have the lowest hashes.

    Raises:
        DataError: the split is empty.
    """
    columns = ["doc_id", "source", "sentences", "labels", "features"]
    parts = [pq.read_table(file, columns=columns, partitioning=None) for file in data.document_files(split)]
    if not parts:
        raise DataError(f"{data.path}: the {split} split is empty; there is nothing to evaluate a model on")
    table = pa.concat_tables(parts)
    ranks = [hashlib.sha256(doc_id.encode("utf-8")).digest() for doc_id in table["doc_id"].to_pylist()]
    chosen = sorted(range(len(ranks)), key=ranks.__getitem__)[:max_documents]
    table = table.take(pa.array(sorted(chosen)))
    return HeldOut(
        doc_ids=tuple(table["doc_id"].to_pylist()),
        sources=tuple(table["source"].to_pylist()),
        sentences=tuple(map(tuple, table["sentences"].to_pylist())),
        labels=tuple(map(tuple, table["labels"].to_pylist())),
        features=tuple(features or () for features in table["features"].to_pylist()),
    )


class DocumentClassifier:
    """A loaded bundle that classifies documents given as text."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._predictor = Predictor.load(bundle)
        self._tokenizer = Tokenizer(bundle.vocabulary, mask_outliers=bundle.mask_outliers)

    def classify(self, held_out: HeldOut, *, first: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns label ids `[sentences]` and probabilities `[sentences, labels]` of the documents' sentences in order.

        Both follow the bundle's order of labels.

        Args:
            held_out: the documents.
            first: how many of them to classify, from the first; all when None.
        """
        documents = list(zip(held_out.sentences, held_out.features, strict=True))[:first]
        label_ids, probabilities = [], []
        for start in range(0, len(documents), _CHUNK_DOCUMENTS):
            chunk = encode_documents(documents[start : start + _CHUNK_DOCUMENTS], self.bundle, self._tokenizer)
            windows = list(chain.from_iterable(chunk))
            owned = take_owned((encoded.window for encoded in windows), self._predictor.run(windows))
            label_ids.append(owned["label_ids"])
            probabilities.append(owned["probabilities"])
        return np.concatenate(label_ids), np.concatenate(probabilities)


def measure_speed(classifiers: Sequence[DocumentClassifier], held_out: HeldOut) -> list[float]:
    """Returns each classifier's sentences a second on the same documents: its best of a few rounds, taken in turns."""
    sentences = sum(len(one) for one in held_out.sentences[:_TIMED_DOCUMENTS])
    best = [float("inf")] * len(classifiers)
    for timed in [False] + [True] * _TIMED_ROUNDS:  # the first round compiles
        for index, classifier in enumerate(classifiers):
            started = time.perf_counter()
            classifier.classify(held_out, first=_TIMED_DOCUMENTS)
            if timed:
                best[index] = min(best[index], time.perf_counter() - started)
    return [sentences / seconds for seconds in best]
