"""Turns documents into training records: the transform graph makes ids, which are cut into windows and written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.utils.shared import Shared

from model.config import Settings
from model.examples import encode_training_records
from model.records import EncodedWindow
from model.text.vocabulary import Vocabulary
from model.text.windowing import encode_windows
from pipelines.preprocessing.counts import Count, Counts, Kind, PackedCounts, pack_counts
from pipelines.preprocessing.statistics import text_counts
from pipelines.preprocessing.transform import TransformedDocuments, TransformGraph
from pipelines.storage import objects
from pipelines.storage.parquet import read_table


class WriteWindows(beam.DoFn):
    """Turns parts of documents, `SPLIT/NAME.parquet`, into parts of windows, and emits the counts of each.

    Unpickling it imports this module and with it the graph's operations, those of tf.text.
    """

    def __init__(self, folder: str, graph: str, vocabulary: Vocabulary, settings: Settings) -> None:
        """Sets it up.

        Args:
            folder: of the records.
            graph: where the transform graph is.
            vocabulary: the encoder's.
            settings: the sections `window` and `data` are used.
        """
        self._folder, self._graph, self._vocabulary, self._settings = folder, graph, vocabulary, settings
        self._shared = Shared()

    def setup(self) -> None:
        self._loaded = self._shared.acquire(lambda: TransformGraph(self._graph, self._settings.data))

    def process(self, part: str) -> Iterator[PackedCounts]:
        documents = self._loaded.apply(read_table(f"{self._folder}/documents/{part}"))
        split, counts = part.partition("/")[0], Counter[Count]()
        windows = list(cut_windows(documents, self._vocabulary, self._settings))
        records = encode_training_records([record for record, _ in windows])
        path = f"{self._folder}/windows/{part.removesuffix('.parquet')}.tfrecord"
        objects.write_bytes(path, tfrecord_bytes(records))
        counts.update(text_counts(documents, split))
        counts.update(window_counts([encoded for _, encoded in windows], split))
        yield pack_counts(counts)


def cut_windows(
    documents: TransformedDocuments, vocabulary: Vocabulary, settings: Settings
) -> Iterator[tuple[dict[str, Any], EncodedWindow]]:
    """Yields each window of the documents, and before it the values of `schema.TRAINING_RECORD` for it."""
    token_ids = np.split(documents.token_ids, np.cumsum(documents.lengths)[:-1])
    targets, target = documents.targets, settings.data.target
    ends = [0, *np.cumsum(documents.sentences).tolist()]
    for (first, end), doc_id, confidences in zip(pairwise(ends), documents.doc_ids, documents.confidences, strict=True):
        for encoded in encode_windows(
            token_ids[first:end],
            settings.window,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            features=None if documents.features is None else documents.features[first:end],
        ):
            window = encoded.window
            record = {
                "doc_id": doc_id,
                "window_index": window.index,
                "token_ids": encoded.token_ids,
                "segment_ids": encoded.segment_ids,
                "sep_positions": encoded.sep_positions,
                "first_sentence": window.start,
                "owned_start": window.owned.start,
                "owned_end": window.owned.stop,
                "truncated": encoded.truncated,
                target: targets[first + window.start : first + window.end],
            }
            if confidences is not None:
                record["confidences"] = confidences[window.start : window.end]
            if encoded.features is not None:
                record["features"] = encoded.features.ravel()
            yield record, encoded


def window_counts(windows: list[EncodedWindow], split: str) -> Counts:
    """Returns the counts of windows; a sentence counts as truncated in the window that owns it."""
    counts: Counts = Counter({Count("windows", split): len(windows), Count("truncated", split): 0})
    counts[Count("truncated", split)] = sum(int(one.truncated[one.window.owned].sum()) for one in windows)
    lengths: dict[Kind, Counter[int]] = {
        "window_lengths": Counter(len(one.token_ids) for one in windows),
        "window_sentences": Counter(len(one.sep_positions) for one in windows),
    }
    for kind, histogram in lengths.items():
        counts.update({Count(kind, split, value): count for value, count in histogram.items()})
    return counts


def tfrecord_bytes(records: Iterable[bytes]) -> bytes:
    """Returns the content of a TFRecord file of these records."""
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as scratch:
        with tf.io.TFRecordWriter(scratch.name) as writer:
            for record in records:
                writer.write(record)
        return Path(scratch.name).read_bytes()
