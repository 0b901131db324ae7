"""Turns transformed documents into training records: cuts token ids into windows and writes them as TFRecord parts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model.config import DataSettings, Settings
from model.records import EncodedWindow
from model.schema import encode_training_record
from model.text.vocabulary import Vocabulary
from model.text.windowing import encode_windows
from pipelines.preprocessing.counts import Count, Counts
from pipelines.preprocessing.statistics import text_counts
from pipelines.storage import objects


@dataclass(frozen=True, slots=True)
class TransformedDocument:
    """A document as the transform graph returns it.

    Attributes:
        doc_id: its identifier.
        token_ids: for each sentence, its wordpieces.
        targets: a label id or a score for each sentence.
        confidences: a number for each sentence; None if the document has none.
        features: float32 `[sentences, features]`, standardized; None if the model takes none.
    """

    doc_id: str
    token_ids: Sequence[np.ndarray]
    targets: Sequence[float]
    confidences: Sequence[float] | None
    features: np.ndarray | None


def write_windows(
    transformed: tuple[pa.RecordBatch, Mapping[str, Any]], folder: str, vocabulary: Vocabulary, settings: Settings
) -> Counts:
    """Writes the windows of one part of documents as TFRecord and returns the counts of its text and windows."""
    batch, _ = transformed
    part = batch["part"][0].as_py()[0].decode()
    split = part.partition("/")[0]
    counts = text_counts(batch["token_ids"], split)
    records = []
    for document in transformed_documents(batch, settings.data):
        for encoded in encode_windows(
            document.token_ids,
            settings.window,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            features=document.features,
        ):
            records.append(encode_training_record(training_record(document, encoded, settings.data)))
            counts.update(window_counts(encoded, split))
    objects.write_bytes(f"{folder}/windows/{part.removesuffix('.parquet')}.tfrecord", tfrecord_bytes(records))
    return counts


def transformed_documents(batch: pa.RecordBatch, data: DataSettings) -> Iterator[TransformedDocument]:
    """Yields the documents of a record batch that tf.Transform returned.

    Raises:
        ValueError: a label is not in the label vocabulary.
    """
    nothing = [None] * batch.num_rows
    for doc_id, token_ids, targets, confidences, features in zip(
        batch["doc_id"].to_pylist(),
        _nested_arrays(batch["token_ids"]),
        batch["label_ids" if data.target == "labels" else "scores"].to_pylist(),
        batch["confidences"].to_pylist(),
        batch["features"].to_pylist() if data.features else nothing,
        strict=True,
    ):
        name = doc_id[0].decode()
        if data.target == "labels" and min(targets) < 0:
            raise ValueError(f"document {name!r}: the transform graph has no id for one of its labels")
        yield TransformedDocument(
            name,
            token_ids,
            targets,
            confidences,
            features=np.array(features, np.float32).reshape(-1, data.features) if data.features else None,
        )


def training_record(document: TransformedDocument, encoded: EncodedWindow, data: DataSettings) -> dict[str, Any]:
    """Returns the values of `schema.TRAINING_RECORD` for one window of a document."""
    window = encoded.window
    shown = slice(window.start, window.end)
    record = {
        "doc_id": document.doc_id,
        "window_index": window.index,
        "token_ids": encoded.token_ids,
        "segment_ids": encoded.segment_ids,
        "sep_positions": encoded.sep_positions,
        "first_sentence": window.start,
        "owned_start": window.owned.start,
        "owned_end": window.owned.stop,
        "truncated": encoded.truncated,
        data.target: document.targets[shown],
    }
    if document.confidences is not None:
        record["confidences"] = document.confidences[shown]
    if encoded.features is not None:
        record["features"] = encoded.features.ravel()
    return record


def window_counts(encoded: EncodedWindow, split: str) -> dict[Count, int]:
    """Returns the counts of one window; a sentence counts as truncated in the window that owns it."""
    return {
        Count("windows", split): 1,
        Count("truncated", split): int(encoded.truncated[encoded.window.owned].sum()),
        Count("window_lengths", split, len(encoded.token_ids)): 1,
        Count("window_sentences", split, len(encoded.sep_positions)): 1,
    }


def tfrecord_bytes(records: Iterable[bytes]) -> bytes:
    """Returns the content of a TFRecord file of these records."""
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as scratch:
        with tf.io.TFRecordWriter(scratch.name) as writer:
            for record in records:
                writer.write(record)
        return Path(scratch.name).read_bytes()


def _nested_arrays(column: pa.Array) -> Iterator[list[np.ndarray]]:
    """Yields for each document the ids of its sentences, from a list<list<int64>> column."""
    sentences = column.flatten()
    ids = sentences.flatten().to_numpy()
    ends = np.cumsum(sentences.value_lengths().to_numpy())
    by_sentence = np.split(ids, ends[:-1])
    first = 0
    for count in column.value_lengths().to_numpy():
        yield by_sentence[first : first + count]
        first += count
