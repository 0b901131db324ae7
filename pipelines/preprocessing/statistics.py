"""Statistics of the text of the training records: lengths of documents and use of the vocabulary, by split."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from model.bundles.training_data import VOCABULARY
from model.schema import SPLITS, vocabulary_schema
from model.text.vocabulary import Vocabulary
from pipelines.preprocessing.counts import Count, Counts, Kind, by_value
from pipelines.storage.parquet import write_table


def text_counts(token_ids: pa.Array, split: str) -> Counts:
    """Returns the counts of one part's documents.

    Args:
        token_ids: list<list<int64>>, the wordpieces of each sentence of each document.
        split: the part's split.
    """
    sentences = token_ids.flatten()
    first_of_next = np.cumsum(token_ids.value_lengths().to_numpy())
    tokens_up_to = np.concatenate(([0], np.cumsum(sentences.value_lengths().to_numpy() + 1)))  # each with its [SEP]
    lengths = 1 + np.diff(tokens_up_to[first_of_next], prepend=0)  # and one [CLS]
    counted: dict[Kind, np.ndarray] = {
        "document_lengths": lengths,
        "document_sentences": token_ids.value_lengths().to_numpy(),
        "pieces": sentences.flatten().to_numpy(),
    }
    counts: Counts = Counter()
    for kind, values in counted.items():
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            counts[Count(kind, split, int(value))] = int(count)
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
