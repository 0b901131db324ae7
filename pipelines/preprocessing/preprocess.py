"""Labelled corpora to training records, in three Beam pipelines that read top to bottom:

1. ingest: sources -> documents as text, one Parquet part a chunk and split; rejects beside them;
2. analyze: the train documents -> a tf.Transform graph with tokenizer, label vocabulary and length statistics;
3. transform: all documents -> token ids -> windows -> one TFRecord part for each documents' part.

Between them lie files, not collections in memory, so that memory is bounded by a part on any runner. They may lie on
any filesystem that Beam knows; only the graph, while it is made and run, lies where TensorFlow reaches it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions

import model
from model.bundles.training_data import COMPLETED, DATA_FORMAT, STATS, check_format
from model.config import DataSettings, Settings
from model.encoders.encoder import open_encoder
from model.errors import DataError, JobFailure, UserError
from model.folders import difference
from model.schema import SPLITS, encode_training_record
from model.text.vocabulary import Vocabulary
from model.text.windowing import encode_windows
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_source, match_sources
from pipelines.preprocessing.counts import read_counts, sum_counts, write_counts
from pipelines.preprocessing.duplicates import drop_duplicates
from pipelines.preprocessing.ingest import ingest
from pipelines.preprocessing.statistics import text_counts, text_statistics, write_vocabulary_use
from pipelines.preprocessing.transform import (
    PASSED_THROUGH,
    Statistics,
    adapter_config,
    make_preprocessing_fn,
    raw_batch,
    read_statistics,
    scratch_folder,
    scratch_place,
)
from pipelines.runners.failures import one_line_failures
from pipelines.runners.options import check_paths
from pipelines.storage import objects
from pipelines.storage.parquet import read_table

MARK = "preprocess.json"
GRAPH = "transform"


def preprocess(
    inputs: Sequence[str],
    output: str,
    *,
    given_splits: Mapping[str, Sequence[str]] | None = None,
    settings: Settings,
    options: ReadOptions,
    beam_options: PipelineOptions,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Makes a folder of training records (`model/bundles/training_data.py`) and returns what its `stats.json` holds.

    A finished folder made from the same inputs with the same settings stays as it is.

    Args:
        inputs: paths and globs of corpora whose documents are spread over the splits by a hash of their id.
        output: the folder, on this machine or on any filesystem that Beam knows.
        given_splits: paths and globs of corpora that are a split, or part of one, as they are.
        settings: the sections `encoder`, `window` and `data` count here.
        options: how the corpora are read.
        beam_options: for all three pipelines.
        overwrite: True to replace records that the folder holds already.

    Raises:
        UserError: inputs, settings or folder can't be used, or no document can train.
        JobFailure: the job broke off, or what it has written isn't there; repeated, it begins anew.
        Interrupted: the user stopped it; repeated, it begins anew.
    """
    sources = _sources(inputs, given_splits or {})
    encoder = open_encoder(settings.encoder)
    vocabulary = encoder.vocabulary
    encoder.check_budget(settings.window)
    mark = _mark(sources, settings, options, vocabulary)
    folder = output.rstrip("/")
    place = scratch_place(folder, beam_options)
    check_paths(beam_options, [folder, *([place] if place else []), *(source["path"] for source in sources)])
    with objects.lock_folder(folder):
        if claim_records_folder(folder, mark, overwrite=overwrite):
            return dict(objects.read_json(f"{folder}/{STATS}"))
        anew = "repeat the command, which begins anew"
        with one_line_failures(interrupted=lambda: anew, failed=anew), scratch_folder(place) as scratch:
            job = RecordsJob(folder, scratch, vocabulary, settings, beam_options)
            _make_records(sources, mark, job, options)
        return dict(objects.read_json(f"{folder}/{STATS}"))


def _make_records(
    sources: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], job: RecordsJob, options: ReadOptions
) -> None:
    """Fills the folder: documents, then the transform graph, then windows; its mark of completion comes last."""
    folder, data = job.folder, job.settings.data
    counts = ingest(sources, folder, data=data, options=options, beam_options=job.beam_options)
    counts.update(drop_duplicates(folder))
    counts = +counts  # without the labels that have left a split
    _check_ingested(counts)
    parts = document_parts(folder)
    statistics = analyze(parts, job)
    if data.target == "labels":
        _check_labels(counts, statistics)
    counts.update(transform(parts, job))
    objects.copy_tree(f"{job.scratch}/{GRAPH}", f"{folder}/{GRAPH}")
    write_vocabulary_use(counts, job.vocabulary, folder)
    objects.write_json(f"{folder}/{STATS}", _stats(mark, counts, statistics, job.settings, job.vocabulary))
    _check_written(folder, parts)
    objects.remove_temporaries(folder)
    objects.write_bytes(f"{folder}/{COMPLETED}", b"\n")


def claim_records_folder(folder: str, mark: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Makes the folder this job's, and returns whether it holds the finished result of this job already.

    What a job has left unfinished is begun anew, whatever its settings were.

    Args:
        folder: where the records lie or will lie. Call it under `objects.lock_folder`.
        mark: JSON values that identify the job: settings, fingerprints of inputs.
        overwrite: True to replace what a finished job has left.

    Raises:
        UserError: the folder holds the finished result of another job, or anything that is not a job's.
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
        objects.remove([f"{folder}/{COMPLETED}"])  # before anything changes that readers have been promised
        objects.empty_folder(folder, keep=MARK)
    elif not objects.is_empty(folder):
        raise UserError(f"{folder}: is not empty and has no {MARK}; name another --output")
    objects.write_json(f"{folder}/{MARK}", mark)
    return False


def document_parts(folder: str) -> list[str]:
    """Returns the parts of documents in a folder of records, `SPLIT/NAME.parquet`, in order."""
    return sorted(f"{split}/{name}" for split in SPLITS for name in objects.list_names(f"{folder}/documents/{split}"))


@dataclass(frozen=True)
class RecordsJob:
    """What the pipelines with tf.Transform in them share.

    Attributes:
        folder: of the records.
        scratch: a folder that TensorFlow reaches, here and on the workers; the transform graph lies in it.
        vocabulary: the encoder's.
        settings: as for `preprocess`.
        beam_options: for both.
    """

    folder: str
    scratch: str
    vocabulary: Vocabulary
    settings: Settings
    beam_options: PipelineOptions


def analyze(parts: Sequence[str], job: RecordsJob) -> Statistics:
    """Returns the statistics of the train documents; the transform graph is in the scratch folder by then."""
    data, graph = job.settings.data, f"{job.scratch}/{GRAPH}"
    preprocessing_fn = make_preprocessing_fn(job.vocabulary, data)
    train = [part for part in parts if part.startswith("train/")]
    with tft_beam.Context(temp_dir=job.scratch), beam.Pipeline(options=job.beam_options) as pipeline:
        raw = pipeline | "ReadTrain" >> ReadDocuments(train, job.folder, data)
        transform = (raw, adapter_config(data)) | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
        transform | "WriteGraph" >> tft_beam.WriteTransformFn(graph)
    return read_statistics(graph, data)


def transform(parts: Sequence[str], job: RecordsJob) -> Counter[str]:
    """Returns the counts of the windows that it wrote, by the graph in the scratch folder."""
    summary, data = f"{job.folder}/transform.json", job.settings.data
    with (
        tft_beam.Context(temp_dir=job.scratch, passthrough_keys=set(PASSED_THROUGH)),
        beam.Pipeline(options=job.beam_options) as pipeline,
    ):
        graph = pipeline | "ReadGraph" >> tft_beam.ReadTransformFn(f"{job.scratch}/{GRAPH}")
        raw = pipeline | "ReadAll" >> ReadDocuments(parts, job.folder, data)
        dataset = ((raw, adapter_config(data)), graph)
        ids, _ = dataset | "Transform" >> tft_beam.TransformDataset(output_record_batches=True)
        (
            ids
            | "WriteWindows" >> beam.Map(write_windows, job.folder, job.vocabulary, job.settings)
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "WriteSummary" >> beam.Map(write_counts, summary)
        )
    return read_counts(summary)


class ReadDocuments(beam.PTransform):
    """Parts of documents, `SPLIT/NAME.parquet`, to record batches as tf.Transform takes them, one a part."""

    def __init__(self, parts: Sequence[str], folder: str, data: DataSettings) -> None:
        super().__init__()
        self._parts, self._folder, self._data = parts, folder, data

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        return (
            pipeline
            | "Parts" >> beam.Create(self._parts)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.Map(read_documents, self._folder, self._data)
        )


def read_documents(part: str, folder: str, data: DataSettings) -> pa.RecordBatch:
    """Returns one part of documents, `SPLIT/NAME.parquet`, as tf.Transform takes it."""
    return raw_batch(read_table(f"{folder}/documents/{part}"), part, data)


def write_windows(
    transformed: tuple[pa.RecordBatch, Mapping[str, Any]], folder: str, vocabulary: Vocabulary, settings: Settings
) -> Counter[str]:
    """Writes the windows of one part of documents as TFRecord and returns their counts."""
    batch, _ = transformed
    part = batch["part"][0].as_py()[0].decode()
    split = part.partition("/")[0]
    counts: Counter[str] = Counter()
    counts.update(text_counts(batch["token_ids"], split))
    records = []
    data = settings.data
    target, column = ("labels", "label_ids") if data.target == "labels" else ("scores", "scores")
    nothing = [None] * batch.num_rows
    for doc_id, token_ids, targets, confidences, flat_features in zip(
        batch["doc_id"].to_pylist(),
        _nested_arrays(batch["token_ids"]),
        batch[column].to_pylist(),
        batch["confidences"].to_pylist(),
        batch["features"].to_pylist() if data.features else nothing,
        strict=True,
    ):
        features = np.array(flat_features, np.float32).reshape(-1, data.features) if data.features else None
        for encoded in encode_windows(
            token_ids, settings.window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id, features=features
        ):
            shown = slice(encoded.window.start, encoded.window.end)
            record = {
                "doc_id": doc_id[0].decode(),
                "window_index": encoded.window.index,
                "token_ids": encoded.token_ids,
                "segment_ids": encoded.segment_ids,
                "sep_positions": encoded.sep_positions,
                "first_sentence": encoded.window.start,
                "owned_start": encoded.window.owned_start - encoded.window.start,
                "owned_end": encoded.window.owned_end - encoded.window.start,
                "truncated": encoded.truncated,
                target: targets[shown],
            }
            if confidences is not None:
                record["confidences"] = confidences[shown]
            if encoded.features is not None:
                record["features"] = encoded.features.ravel()
            records.append(encode_training_record(record))
            owned = slice(record["owned_start"], record["owned_end"])
            counts[f"windows.{split}"] += 1
            counts[f"truncated.{split}"] += int(encoded.truncated[owned].sum())
            counts[f"window_lengths.{split}.{len(encoded.token_ids)}"] += 1
            counts[f"window_sentences.{split}.{len(encoded.sep_positions)}"] += 1
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as scratch:
        with tf.io.TFRecordWriter(scratch.name) as writer:
            for serialized in records:
                writer.write(serialized)
        content = Path(scratch.name).read_bytes()
    objects.write_bytes(f"{folder}/windows/{part.removesuffix('.parquet')}.tfrecord", content)
    return counts


def _nested_arrays(column: pa.Array) -> Iterator[list[np.ndarray]]:
    """Yields for each document its sentences' ids, out of a list<list<int64>> column."""
    sentences = column.flatten()
    ids = sentences.flatten().to_numpy()
    ends = np.cumsum(sentences.value_lengths().to_numpy())
    by_sentence = np.split(ids, ends[:-1])
    first = 0
    for count in column.value_lengths().to_numpy():
        yield by_sentence[first : first + count]
        first += count


def _check_ingested(counts: Counter[str]) -> None:
    if not counts["documents.train"]:
        reasons = ", ".join(f"{name[8:]} {n}" for name, n in sorted(counts.items()) if name.startswith("rejects."))
        raise DataError(
            f"no document can train: {counts['records']} records read, rejects: {reasons or 'none'}, "
            f"sampled out {counts['sampled_out']}; give documents whose every sentence has a label, or a score"
        )


def _check_labels(counts: Counter[str], statistics: Statistics) -> None:
    for split in SPLITS[1:]:
        names = {name.removeprefix(f"labels.{split}.") for name in counts if name.startswith(f"labels.{split}.")}
        if unknown := sorted(names - set(statistics.labels)):
            raise DataError(
                f"the {split} split has labels that the train split has not: {', '.join(unknown)}; "
                "map them with --label-map or name the labels to use in data.labels"
            )


def _check_written(folder: str, parts: Sequence[str]) -> None:
    """Checks that every part of documents has its windows: another job may have emptied a folder that has no lock."""
    written = {name.removesuffix(".tfrecord") for name in objects.list_tree(f"{folder}/windows")}
    if document_parts(folder) != parts or written != {part.removesuffix(".parquet") for part in parts}:
        raise JobFailure(f"{folder}: parts are missing, though the job has ended; repeat the command, alone")


def _sources(inputs: Sequence[str], given_splits: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Returns path, size, hash and given split of every source, each path once."""
    groups = [(None, inputs), *given_splits.items()]
    sources = [
        {**fingerprint_source(source), "split": split}
        for split, patterns in groups
        if patterns
        for source in match_sources(patterns)
    ]
    if not sources:
        raise UserError("no input; name the corpora with --input, or with --train, --dev and --test")
    if twice := [path for path, count in Counter(source["path"] for source in sources).items() if count > 1]:
        raise UserError(f"{twice[0]}: is named for more than one split; a file belongs to one")
    return sources


def _mark(
    sources: Sequence[Mapping[str, Any]], settings: Settings, options: ReadOptions, vocabulary: Vocabulary
) -> dict[str, Any]:
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


def _stats(
    mark: Mapping[str, Any], counts: Counter[str], statistics: Statistics, settings: Settings, vocabulary: Vocabulary
) -> dict[str, Any]:
    def by_key(prefix: str) -> dict[str, int]:
        start = f"{prefix}."
        return {name.removeprefix(start): n for name, n in sorted(counts.items()) if name.startswith(start)}

    longest = settings.window.max_tokens
    boundaries = sorted({quantile for quantile in statistics.length_quantiles if 1 < quantile <= longest})
    return {
        "format": DATA_FORMAT,
        "sepline": model.__version__,
        "fingerprint": hashlib.sha256(repr(sorted(mark.items())).encode()).hexdigest(),
        "inputs": mark["inputs"],
        "settings": mark["settings"],
        "vocabulary_fingerprint": vocabulary.fingerprint,
        "labels": list(statistics.labels),
        "bucket_boundaries": boundaries,
        "counts": {
            "records": counts["records"],
            "rejected": sum(by_key("rejects").values()),
            "rejects": by_key("rejects"),
            "sampled_out": counts["sampled_out"],
            "superseded": counts["superseded"],
            "deleted": counts["deleted"],
            "duplicates_dropped": counts["duplicates_dropped"],
            "repeated_ids": counts["repeated_ids"],
            "documents": by_key("documents"),
            "sentences": by_key("sentences"),
            "windows": by_key("windows"),
            "truncated": by_key("truncated"),
        },
        "label_counts": {split: by_key(f"labels.{split}") for split in SPLITS},
        "lengths": {
            "length_quantiles": list(statistics.length_quantiles),
            "mean_tokens": statistics.mean_tokens,
            "max_tokens": statistics.max_tokens,
            "mean_sentences": statistics.mean_sentences,
        },
        "features": [{"mean": mean, "deviation": deviation} for mean, deviation in statistics.features],
        "window_lengths": {split: by_key(f"window_lengths.{split}") for split in SPLITS},
        **text_statistics(counts, vocabulary),
        "window_sentences": {split: by_key(f"window_sentences.{split}") for split in SPLITS},
    }
