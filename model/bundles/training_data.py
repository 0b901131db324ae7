"""The folder of training records that preprocessing writes: what is in it, and how to open it.

documents/SPLIT/part-*.parquet    the labelled documents as text
windows/SPLIT/part-*.tfrecord     their windows (`schema.TRAINING_RECORD`), one file per part of documents
transform/                        the tf.Transform graph that made the ids, with the tokenizer
rejects/part-*.parquet            records that could not be used for training, and why
duplicates.parquet                documents that occur in several splits, and ids that appear more than once
vocabulary.parquet                how often each wordpiece occurs in each split
stats.json                        labels, lengths, counts, settings, fingerprints
files.json                        the SHA-256 of every file
COMPLETED                         that of files.json; written last; a folder without it is refused
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import Settings, settings_from_dict
from model.errors import UserError
from model.folders import read_json

DATA_FORMAT = 3
READABLE_FORMATS = (2, 3)
"""Format 2 had no list of files."""
STATS = "stats.json"
VOCABULARY = "vocabulary.parquet"
COMPLETED = "COMPLETED"


@dataclass(frozen=True)
class TrainingData:
    """An opened folder of training records.

    Attributes:
        path: the folder.
        settings: the settings that it was made with.
        labels: the label vocabulary; a record's label is an index into it. Empty for scores.
        features: mean and standard deviation of each additional feature; the records have them standardized.
        vocabulary_fingerprint: of the encoder's vocabulary that made the ids.
        bucket_boundaries: window lengths at which the input pipeline separates its length buckets, ascending.
        window_lengths, window_sentences: for each split, the number of windows by wordpieces, or by sentences.
        fingerprint: of the inputs and settings that it was made from.
        stats: the whole content of `stats.json`.
    """

    path: Path
    settings: Settings
    labels: tuple[str, ...]
    features: tuple[tuple[float, float], ...]
    vocabulary_fingerprint: str
    bucket_boundaries: tuple[int, ...]
    window_lengths: Mapping[str, Mapping[int, int]]
    window_sentences: Mapping[str, Mapping[int, int]]
    fingerprint: str
    stats: Mapping[str, Any]

    def window_files(self, split: str) -> list[str]:
        """Returns the split's TFRecord files in order; none if the split is empty."""
        return sorted(glob.glob(glob.escape(str(self.path)) + f"/windows/{split}/part-*.tfrecord"))

    def document_files(self, split: str) -> list[str]:
        """Returns the split's Parquet files in order; none if the split is empty."""
        return sorted(glob.glob(glob.escape(str(self.path)) + f"/documents/{split}/part-*.parquet"))


def open_training_data(path: str | Path) -> TrainingData:
    """Returns the folder's description.

    Raises:
        DamagedFileError: its description is not JSON.
        UserError: there is no such folder, or it has no finished training records.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --output of `sepline preprocess`")
    if not (folder / COMPLETED).exists() or not (folder / STATS).exists():
        raise UserError(f"{folder}: no finished training records ({COMPLETED} is missing); run `sepline preprocess`")
    stats = read_json(folder / STATS, hint="remove the folder and preprocess again")
    check_format(stats, str(folder))
    return TrainingData(
        path=folder,
        settings=settings_from_dict(stats["settings"], origin=str(folder / STATS)),
        labels=tuple(stats["labels"]),
        features=tuple((feature["mean"], feature["deviation"]) for feature in stats["features"]),
        vocabulary_fingerprint=stats["vocabulary_fingerprint"],
        bucket_boundaries=tuple(stats["bucket_boundaries"]),
        window_lengths=_by_number(stats["window_lengths"]),
        window_sentences=_by_number(stats["window_sentences"]),
        fingerprint=stats["fingerprint"],
        stats=stats,
    )


def check_format(stats: Mapping[str, Any], folder: str) -> None:
    """Checks that this version can read the records in a folder, from the content of its `stats.json`.

    Raises:
        UserError: the records have another format.
    """
    if stats["format"] not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise UserError(f"{folder}: format {stats['format']}, this sepline reads {known}; preprocess it again")


def _by_number(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[int, int]]:
    return {split: {int(number): count for number, count in numbers.items()} for split, numbers in counts.items()}
