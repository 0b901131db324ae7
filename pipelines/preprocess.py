"""Labelled corpora to training records, in three Beam pipelines that read top to bottom:

1. ingest: sources -> documents as text, one Parquet part a chunk and split; rejects beside them;
2. analyze: the train documents -> a tf.Transform graph with tokenizer, label vocabulary and length statistics;
3. transform: all documents -> token ids -> windows -> one TFRecord part for each documents' part.

Between them lie files, not collections in memory, so that memory is bounded by a part on any runner.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions

import model
from model.config import DataSettings, Settings
from model.encoder import check_budget, load_vocabulary
from model.errors import UserError
from model.folders import claim_folder, write_json
from model.schema import SPLITS, encode_training_record
from model.training_data import COMPLETED, DATA_FORMAT, STATS, TrainingData, open_training_data
from model.vocabulary import Vocabulary
from model.windowing import encode_windows
from pipelines.corpora import ReadOptions
from pipelines.counts import read_counts, sum_counts, write_counts
from pipelines.duplicates import drop_duplicates
from pipelines.ingest import ingest
from pipelines.sources import fingerprint_source, match_sources
from pipelines.storage import write_bytes
from pipelines.transform import (
    PASSED_THROUGH,
    Statistics,
    adapter_config,
    make_preprocessing_fn,
    raw_batch,
    read_statistics,
)


def preprocess(
    inputs: Sequence[str],
    output: str,
    *,
    given_splits: Mapping[str, Sequence[str]] | None = None,
    settings: Settings,
    options: ReadOptions,
    beam_options: PipelineOptions,
    overwrite: bool = False,
) -> TrainingData:
    """Makes a folder of training records (`model/training_data.py`) and returns it opened.

    A finished folder made from the same inputs with the same settings is returned as it is.

    Args:
        inputs: paths and globs of corpora whose documents are spread over the splits by a hash of their id.
        output: the folder.
        given_splits: paths and globs of corpora that are a split, or part of one, as they are.
        settings: the sections `encoder`, `window` and `data` count here.
        options: how the corpora are read.
        beam_options: for all three pipelines.
        overwrite: True to replace records that the folder holds already.

    Raises:
        UserError: inputs, settings or folder can't be used, or no document can train.
    """
    sources = _sources(inputs, given_splits or {})
    vocabulary = load_vocabulary(settings.encoder)
    check_budget(settings)
    mark = _mark(sources, settings, options, vocabulary)
    folder = Path(output)
    # What a run has left unfinished is begun anew, whatever its settings were.
    unfinished = not (folder / COMPLETED).exists()
    claim_folder(folder, "preprocess.json", mark, overwrite=overwrite or unfinished)
    if (folder / COMPLETED).exists():
        return open_training_data(folder)

    counts = ingest(sources, folder, data=settings.data, options=options, beam_options=beam_options)
    counts.update(drop_duplicates(folder))
    _check_ingested(counts)
    parts = sorted(str(path.relative_to(folder / "documents")) for path in folder.glob("documents/*/part-*.parquet"))
    statistics = _analyze(parts, folder, vocabulary=vocabulary, data=settings.data, beam_options=beam_options)
    if settings.data.target == "labels":
        _check_labels(counts, statistics)
    counts.update(_transform(parts, folder, vocabulary=vocabulary, settings=settings, beam_options=beam_options))
    write_json(folder / STATS, _stats(mark, counts, statistics, settings, vocabulary))
    (folder / COMPLETED).touch()
    return open_training_data(folder)


def _analyze(
    parts: Sequence[str], folder: Path, *, vocabulary: Vocabulary, data: DataSettings, beam_options: PipelineOptions
) -> Statistics:
    """Returns the statistics of the train documents; the transform graph is in the folder by then."""
    preprocessing_fn = make_preprocessing_fn(vocabulary, data)
    train = [part for part in parts if part.startswith("train/")]
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        tft_beam.Context(temp_dir=scratch),
        beam.Pipeline(options=beam_options) as pipeline,
    ):
        raw = pipeline | "ReadTrain" >> ReadDocuments(train, str(folder), data)
        transform = (raw, adapter_config(data)) | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
        transform | "WriteGraph" >> tft_beam.WriteTransformFn(str(folder / "transform"))
    return read_statistics(str(folder / "transform"), data)


def _transform(
    parts: Sequence[str], folder: Path, *, vocabulary: Vocabulary, settings: Settings, beam_options: PipelineOptions
) -> Counter[str]:
    """Returns the counts of the windows that it wrote."""
    summary = str(folder / "transform.json")
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        tft_beam.Context(temp_dir=scratch, passthrough_keys=set(PASSED_THROUGH)),
        beam.Pipeline(options=beam_options) as pipeline,
    ):
        transform = pipeline | "ReadGraph" >> tft_beam.ReadTransformFn(str(folder / "transform"))
        raw = pipeline | "ReadAll" >> ReadDocuments(parts, str(folder), settings.data)
        dataset = ((raw, adapter_config(settings.data)), transform)
        ids, _ = dataset | "Transform" >> tft_beam.TransformDataset(output_record_batches=True)
        (
            ids
            | "WriteWindows" >> beam.Map(write_windows, str(folder), vocabulary, settings)
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
    return raw_batch(pq.read_table(f"{folder}/documents/{part}", partitioning=None), part, data)


def write_windows(
    transformed: tuple[pa.RecordBatch, Mapping[str, Any]], folder: str, vocabulary: Vocabulary, settings: Settings
) -> Counter[str]:
    """Writes the windows of one part of documents as TFRecord and returns their counts."""
    batch, _ = transformed
    part = batch["part"][0].as_py()[0].decode()
    split = part.partition("/")[0]
    counts: Counter[str] = Counter()
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
    write_bytes(f"{folder}/windows/{part.removesuffix('.parquet')}.tfrecord", content)
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
        raise UserError(
            f"no document can train: {counts['records']} records read, rejects: {reasons or 'none'}, "
            f"sampled out {counts['sampled_out']}; give documents whose every sentence has a label, or a score"
        )


def _check_labels(counts: Counter[str], statistics: Statistics) -> None:
    for split in SPLITS[1:]:
        names = {name.removeprefix(f"labels.{split}.") for name in counts if name.startswith(f"labels.{split}.")}
        if unknown := sorted(names - set(statistics.labels)):
            raise UserError(
                f"the {split} split has labels that the train split has not: {', '.join(unknown)}; "
                "map them with --label-map or name the labels to use in data.labels"
            )


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
        "window_sentences": {split: by_key(f"window_sentences.{split}") for split in SPLITS},
    }
