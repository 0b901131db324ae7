"""What the text of the training records is like: lengths of documents and use of the vocabulary, by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from model.bundles.training_data import VOCABULARY
from model.schema import SPLITS, vocabulary_schema
from model.text.vocabulary import Vocabulary
from pipelines.storage.parquet import write_table

_LENGTHS, _SENTENCES, _PIECES = "document_lengths", "document_sentences", "pieces"


def text_counts(token_ids: pa.Array, split: str) -> Counter[str]:
    """Returns the counts of one part's documents.

    Args:
        token_ids: list<list<int64>>, the wordpieces of each sentence of each document.
        split: of the part.
    """
    sentences = token_ids.flatten()
    first_of_next = np.cumsum(token_ids.value_lengths().to_numpy())
    tokens_up_to = np.concatenate(([0], np.cumsum(sentences.value_lengths().to_numpy() + 1)))  # each with its [SEP]
    lengths = 1 + np.diff(tokens_up_to[first_of_next], prepend=0)  # and one [CLS]
    counts: Counter[str] = Counter()
    for name, values in (
        (_LENGTHS, lengths),
        (_SENTENCES, token_ids.value_lengths().to_numpy()),
        (_PIECES, sentences.flatten().to_numpy()),
    ):
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            counts[f"{name}.{split}.{value}"] = int(count)
    return counts


def text_statistics(counts: Mapping[str, int], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns what `stats.json` says of the text: histograms of lengths, and how much of the vocabulary occurs."""
    pieces = {split: _histogram(counts, _PIECES, split) for split in SPLITS}
    return {
        _LENGTHS: {split: _histogram(counts, _LENGTHS, split) for split in SPLITS},
        _SENTENCES: {split: _histogram(counts, _SENTENCES, split) for split in SPLITS},
        "vocabulary": {
            split: {"tokens": sum(used.values()), "unknown": used.get(vocabulary.unk_id, 0), "pieces": len(used)}
            for split, used in pieces.items()
        },
    }


def write_vocabulary_use(counts: Mapping[str, int], vocabulary: Vocabulary, folder: str) -> None:
    """Writes how often each wordpiece that occurs does so in each split, one row a wordpiece."""
    pieces = {split: _histogram(counts, _PIECES, split) for split in SPLITS}
    used = sorted(set().union(*pieces.values()))
    columns = {"piece_id": used, "piece": [vocabulary.pieces[index] for index in used]}
    columns |= {split: [pieces[split].get(index, 0) for index in used] for split in SPLITS}
    write_table(f"{folder}/{VOCABULARY}", pa.Table.from_pydict(columns, schema=vocabulary_schema()))


def _histogram(counts: Mapping[str, int], name: str, split: str) -> dict[int, int]:
    start = f"{name}.{split}."
    found = {int(key.removeprefix(start)): count for key, count in counts.items() if key.startswith(start)}
    return dict(sorted(found.items()))
