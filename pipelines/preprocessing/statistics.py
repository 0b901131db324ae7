"""Statistics of the text of the training records: lengths of documents and use of the vocabulary, by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from model.bundles.training_data import VOCABULARY
from model.config import DataSettings
from model.schema import SPLITS, vocabulary_schema
from model.text.vocabulary import Vocabulary
from pipelines.preprocessing.counts import Count, Counts, Kind, by_value
from pipelines.preprocessing.transform import TransformedDocuments
from pipelines.storage.parquet import write_table


@dataclass(frozen=True)
class Statistics:
    """Statistics of the train split.

    Attributes:
        length_quantiles: wordpieces of a document, special tokens included, at the inner quantiles.
        mean_tokens, max_tokens: wordpieces of a document.
        mean_sentences: sentences of a document.
    """

    length_quantiles: tuple[int, ...]
    mean_tokens: float
    max_tokens: int
    mean_sentences: float


def label_vocabulary(counts: Counts, data: DataSettings) -> tuple[str, ...]:
    """Returns the labels in the order of their ids: those of the settings, or of the train split by their frequency.

    The more frequent label comes first; of equally frequent ones, that which is last in the alphabet.
    """
    if data.target != "labels":
        return ()
    if data.labels is not None:
        return data.labels
    found = by_value(counts, "labels", "train")
    return tuple(sorted(found, key=lambda label: (found[label], label), reverse=True))


def length_statistics(counts: Counts, buckets: int) -> Statistics:
    """Returns the statistics of the train split from its histograms of lengths.

    Args:
        counts: of the transformed documents.
        buckets: between how many groups of equal size the quantiles lie.
    """
    lengths = by_value(counts, "document_lengths", "train")
    up_to = np.cumsum(list(lengths.values()))
    documents = int(up_to[-1])
    ranks = [number * documents // buckets for number in range(1, buckets)]
    places = np.searchsorted(up_to, ranks, side="right")
    values = list(lengths)
    return Statistics(
        length_quantiles=tuple(values[place] for place in places),
        mean_tokens=_mean(lengths),
        max_tokens=values[-1],
        mean_sentences=_mean(by_value(counts, "document_sentences", "train")),
    )


def text_counts(documents: TransformedDocuments, split: str) -> Counts:
    """Returns the counts of one part's documents."""
    tokens_up_to = np.concatenate(([0], np.cumsum(documents.lengths + 1)))  # each sentence with its [SEP]
    counted: dict[Kind, np.ndarray] = {
        "document_lengths": 1 + np.diff(tokens_up_to[np.cumsum(documents.sentences)], prepend=0),  # and one [CLS]
        "document_sentences": documents.sentences,
        "pieces": documents.token_ids,
    }
    counts: Counts = Counter()
    for kind, values in counted.items():
        for value, count in zip(*(found.tolist() for found in np.unique(values, return_counts=True)), strict=True):
            counts[Count(kind, split, value)] = count
    return counts


def text_statistics(counts: Counts, vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns what `stats.json` has about the text: histograms of lengths, and how much of the vocabulary occurs."""
    pieces = {split: by_value(counts, "pieces", split) for split in SPLITS}
    return {
        "document_lengths": {split: by_value(counts, "document_lengths", split) for split in SPLITS},
        "document_sentences": {split: by_value(counts, "document_sentences", split) for split in SPLITS},
        "vocabulary": {
            split: {"tokens": sum(used.values()), "unknown": used.get(vocabulary.unk_id, 0), "pieces": len(used)}
            for split, used in pieces.items()
        },
    }


def write_vocabulary_use(counts: Counts, vocabulary: Vocabulary, folder: str) -> None:
    """Writes how often each wordpiece occurs in each split, one row per wordpiece that occurs."""
    pieces = {split: by_value(counts, "pieces", split) for split in SPLITS}
    used = sorted(set().union(*pieces.values()))
    columns = {"piece_id": used, "piece": [vocabulary.pieces[index] for index in used]}
    columns |= {split: [pieces[split].get(index, 0) for index in used] for split in SPLITS}
    write_table(f"{folder}/{VOCABULARY}", pa.Table.from_pydict(columns, schema=vocabulary_schema()))


def _mean(histogram: Mapping[int, int]) -> float:
    """Returns the mean in the precision of 32 bits, in which TensorFlow would count it."""
    total = sum(value * count for value, count in histogram.items())
    return float(np.float32(total / sum(histogram.values())))
