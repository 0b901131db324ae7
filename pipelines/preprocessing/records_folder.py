"""A folder of training records: which job it belongs to, whether it is complete, and its `stats.json`.

preprocess.json           inputs and settings, from the start
documents/SPLIT/*.parquet documents as text
windows/SPLIT/*.tfrecord  training records, one part per part of documents
rejects/*.parquet         records that can't be used for training, and why
duplicates.parquet        documents with the text or the id of another
vocabulary.parquet        how often each wordpiece occurs
transform/                the graph of tf.Transform
stats.json                counts and lengths
files.json                the SHA-256 of every file
COMPLETED                 that of files.json; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import model
from model.bundles.training_data import COMPLETED, DATA_FORMAT, STATS, check_format
from model.config import Settings
from model.errors import JobFailure, UserError
from model.folders import difference, json_bytes
from model.schema import SPLITS
from model.text.vocabulary import Vocabulary
from pipelines.corpora.chunks import ids_are_shared
from pipelines.corpora.options import ReadOptions
from pipelines.preprocessing.counts import Count, Counts, by_split, by_value
from pipelines.preprocessing.statistics import length_statistics, text_statistics
from pipelines.preprocessing.transform import Analysis
from pipelines.storage import objects
from pipelines.storage.checksums import checksums

MARK = "preprocess.json"
FILES = "files.json"


def records_mark(
    sources: Sequence[Mapping[str, Any]], settings: Settings, options: ReadOptions, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Returns the JSON values that identify a job: two jobs with the same mark write the same records."""
    return {
        "inputs": list(sources),
        "settings": {
            "encoder": {"handle": settings.encoder.handle},
            "window": settings.window.model_dump(mode="json"),
            "data": settings.data.model_dump(mode="json"),
        },
        "options": asdict(options),
        "vocabulary": vocabulary.fingerprint,
    }


def claim_records_folder(folder: str, mark: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Claims the folder for a job; returns True if it already has the finished result of this job.

    The unfinished work of an earlier job is removed, whatever its settings were.

    Args:
        folder: of the records. It must be locked, see `objects.lock_folder`.
        mark: of the job, from `records_mark`.
        overwrite: True to replace the result of a finished job.

    Raises:
        UserError: the folder has the finished result of another job, or files that are not from a job.
    """
    names = objects.list_names(folder)
    if MARK in names:
        if COMPLETED in names and not overwrite:
            there = objects.read_json(f"{folder}/{MARK}")
            if there != json.loads(json.dumps(mark)):
                what = difference(there, mark)
                raise UserError(f"{folder}: was made with {what}; name another --output, or --overwrite this one")
            check_format(objects.read_json(f"{folder}/{STATS}"), folder)
            return True
        objects.remove([f"{folder}/{COMPLETED}"])  # first, since it promises readers that all is there
        objects.empty_folder(folder, keep=MARK)
    elif not objects.is_empty(folder):
        raise UserError(f"{folder}: is not empty and has no {MARK}; name another --output")
    objects.write_json(f"{folder}/{MARK}", mark)
    return False


def document_parts(folder: str) -> list[str]:
    """Returns the parts of documents in a folder of records, `SPLIT/NAME.parquet`, in order."""
    return sorted(f"{split}/{name}" for split in SPLITS for name in objects.list_names(f"{folder}/documents/{split}"))


def complete(folder: str, parts: Sequence[str]) -> None:
    """Marks the folder as complete.

    Args:
        folder: with everything that the job has written.
        parts: the parts of documents from which the windows were made.

    Raises:
        JobFailure: documents or windows are missing. Another job may have emptied a folder that has no lock.
    """
    written = {name.removesuffix(".tfrecord") for name in objects.list_tree(f"{folder}/windows")}
    if document_parts(folder) != parts or written != {part.removesuffix(".parquet") for part in parts}:
        raise JobFailure(f"{folder}: parts are missing, though the job has ended; repeat the command, alone")
    objects.remove_temporaries(folder)
    content = json_bytes(checksums(folder, objects.list_tree(folder)))
    objects.write_bytes(f"{folder}/{FILES}", content)
    objects.write_json(f"{folder}/{COMPLETED}", {FILES: hashlib.sha256(content).hexdigest()})


def read_files(folder: str) -> dict[str, str]:
    """Returns the SHA-256 of each file of a finished folder by name, of the list itself, too.

    Raises:
        ValueError: the list can't be read, or `COMPLETED` names another one.
    """
    try:
        content = objects.read_bytes(f"{folder}/{FILES}")
        digest = hashlib.sha256(content).hexdigest()
        if json.loads(objects.read_bytes(f"{folder}/{COMPLETED}")) != {FILES: digest}:
            raise ValueError(f"{FILES} is not the one that {COMPLETED} names")
        return {**json.loads(content), FILES: digest}
    except (OSError, TypeError) as error:
        raise ValueError(f"{FILES} or {COMPLETED} can't be read: {' '.join(str(error).split())}") from error


def records_stats(
    mark: Mapping[str, Any], counts: Counts, analysis: Analysis, settings: Settings, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Returns the content of `stats.json`."""
    longest = settings.window.max_tokens
    statistics = length_statistics(counts, settings.data.buckets)
    rejects = by_value(counts, "rejects")
    return {
        "format": DATA_FORMAT,
        "sepline": model.__version__,
        "fingerprint": hashlib.sha256(repr(sorted(mark.items())).encode()).hexdigest(),
        "inputs": mark["inputs"],
        "settings": mark["settings"],
        "vocabulary_fingerprint": vocabulary.fingerprint,
        "labels": list(analysis.labels),
        "bucket_boundaries": sorted({length for length in statistics.length_quantiles if 1 < length <= longest}),
        "counts": {
            "records": counts[Count("records")],
            "rejected": sum(rejects.values()),
            "rejects": rejects,
            "sampled_out": counts[Count("sampled_out")],
            "superseded": counts[Count("superseded")],
            "deleted": counts[Count("deleted")],
            "duplicates_dropped": counts[Count("duplicates_dropped")],
            "repeated_ids": counts[Count("repeated_ids")],
            "documents": by_split(counts, "documents"),
            "sentences": by_split(counts, "sentences"),
            "windows": by_split(counts, "windows"),
            "truncated": by_split(counts, "truncated"),
        },
        "ids": {
            "identified": counts[Count("identified")],
            "shared_across_sources": counts[Count("shared_across")],
            "by_position": by_value(counts, "by_position"),
        },
        "label_counts": {split: by_value(counts, "labels", split) for split in SPLITS},
        "lengths": {
            "length_quantiles": list(statistics.length_quantiles),
            "mean_tokens": statistics.mean_tokens,
            "max_tokens": statistics.max_tokens,
            "mean_sentences": statistics.mean_sentences,
        },
        "features": [{"mean": mean, "deviation": deviation} for mean, deviation in analysis.features],
        "window_lengths": {split: by_value(counts, "window_lengths", split) for split in SPLITS},
        **text_statistics(counts, vocabulary),
        "window_sentences": {split: by_value(counts, "window_sentences", split) for split in SPLITS},
    }


def notes_on_ids(stats: Mapping[str, Any]) -> list[str]:
    """Returns what has to be said about the ids of a folder's documents, from its `stats.json`; mostly nothing."""
    ids = stats.get("ids")
    if ids is None:  # of an earlier format
        return []
    notes = []
    if by_position := ids["by_position"]:
        first, several = next(iter(by_position)), f" and {len(by_position) - 1} more" if len(by_position) > 1 else ""
        notes.append(
            f"{first}{several}: more than a tenth of the records share their ids, so source and "
            f"position identify their {sum(by_position.values())} documents, and the text decides the split"
        )
    shared = ids["shared_across_sources"]
    if ids_are_shared(shared, ids["identified"]):
        notes.append(
            f"{shared} of {ids['identified']} records have the id of a record in another file; they are taken for "
            "versions of the same documents: all are used unless data.revisions is latest, each id in one split"
        )
    return notes
