"""`sepline preprocess`: turns labelled corpora into training records, in two or three Beam pipelines:

1. ingest: sources -> documents as text, one Parquet part per chunk and split; and rejects;
2. analyze, if there are additional features: the train documents -> mean and deviation of each feature;
3. transform: all documents -> token ids -> windows -> one TFRecord part per part of documents.

Before the last one, the driver writes the tf.Transform graph, with the tokenizer, the label vocabulary, which is known
from the counts of the first, and the features' statistics. So every text is tokenized once, by that graph.

They pass files to each other, not collections in memory, so that memory is bounded by a part on any runner. The files
may be on any filesystem that Beam knows; only the graph has to be where TensorFlow reaches it while it is made and run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from model.bundles.training_data import STATS
from model.config import Settings
from model.encoders.encoder import open_encoder
from model.errors import DataError, UserError
from model.schema import SPLITS
from model.text.vocabulary import Vocabulary
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import FingerprintedSource, fingerprint_sources, require_readable
from pipelines.preprocessing.counts import Count, Counts, by_value, read_counts, sum_counts, write_counts
from pipelines.preprocessing.duplicates import drop_duplicates
from pipelines.preprocessing.ingest import ingest
from pipelines.preprocessing.records_folder import (
    claim_records_folder,
    complete,
    document_parts,
    records_mark,
    records_stats,
)
from pipelines.preprocessing.statistics import label_vocabulary, write_vocabulary_use
from pipelines.preprocessing.transform import Analysis, scratch_folder, scratch_place, write_graph
from pipelines.preprocessing.windows import WriteWindows
from pipelines.runners.failures import one_line_failures
from pipelines.runners.options import check_paths
from pipelines.storage import objects

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
    """Makes a folder of training records (`model/bundles/training_data.py`) and returns its `stats.json`.

    A finished folder of the same inputs and settings is left unchanged.

    Args:
        inputs: paths and globs of corpora whose documents are assigned to splits by a hash of their id.
        output: the folder, on this machine or on any filesystem that Beam knows.
        given_splits: for each split, paths and globs of corpora whose documents all belong to it.
        settings: the sections `encoder`, `window` and `data` are used.
        options: how the corpora are read.
        beam_options: for all pipelines.
        overwrite: True to replace the records in the folder.

    Raises:
        UserError: inputs, settings or folder can't be used, or no document can be used for training.
        JobFailure: the job failed, or parts that it wrote are missing; a repeated job starts again.
        Interrupted: the user stopped it; a repeated job starts again.
    """
    found = _find_sources(inputs, given_splits or {})
    require_readable([source for source, _ in found])
    sources = [{**source.fingerprint, "split": split} for source, split in found]
    encoder = open_encoder(settings.encoder)
    vocabulary = encoder.vocabulary
    encoder.check_budget(settings.window)
    mark = records_mark(sources, settings, options, vocabulary)
    folder = output.rstrip("/")
    place = scratch_place(folder, beam_options)
    check_paths(beam_options, [folder, *([place] if place else []), *(source.path for source, _ in found)])
    with objects.lock_folder(folder):
        if claim_records_folder(folder, mark, overwrite=overwrite):
            return dict(objects.read_json(f"{folder}/{STATS}"))
        repeat = "repeat the command to start over"
        with one_line_failures(interrupted=lambda: repeat, failed=repeat):
            with scratch_folder(place) as scratch:
                job = RecordsJob(folder, scratch, vocabulary, settings, beam_options)
                parts = _make_records(found, mark, job, options)
            complete(folder, parts)  # when the scratch folder is gone, which lies in the folder if that is local
        return dict(objects.read_json(f"{folder}/{STATS}"))


def _make_records(
    sources: Sequence[tuple[FingerprintedSource, str | None]],
    mark: Mapping[str, Any],
    job: RecordsJob,
    options: ReadOptions,
) -> list[str]:
    """Fills the folder: documents, then the transform graph, then windows; returns the parts of documents."""
    folder, data = job.folder, job.settings.data
    counts = ingest(sources, folder, data=data, options=options, beam_options=job.beam_options)
    counts.update(drop_duplicates(folder))
    counts = +counts  # without labels that no document has any more
    _check_ingested(counts)
    parts = document_parts(folder)
    analysis = analyze(parts, counts, job)
    if data.target == "labels":
        _check_labels(counts, analysis.labels)
    write_graph(f"{job.scratch}/{GRAPH}", job.vocabulary, data, analysis)
    counts.update(transform(parts, job))
    objects.copy_tree(f"{job.scratch}/{GRAPH}", f"{folder}/{GRAPH}")
    write_vocabulary_use(counts, job.vocabulary, folder)
    objects.write_json(f"{folder}/{STATS}", records_stats(mark, counts, analysis, job.settings, job.vocabulary))
    return parts


@dataclass(frozen=True)
class RecordsJob:
    """What the steps after the ingest share.

    Attributes:
        folder: of the records.
        scratch: a folder that TensorFlow reaches, here and on the workers; it has the transform graph.
        vocabulary: the encoder's.
        settings: as for `preprocess`.
        beam_options: of the pipelines.
    """

    folder: str
    scratch: str
    vocabulary: Vocabulary
    settings: Settings
    beam_options: PipelineOptions


def analyze(parts: Sequence[str], counts: Counts, job: RecordsJob) -> Analysis:
    """Returns what the transform graph takes from the train documents.

    Args:
        parts: all parts of documents.
        counts: of the documents in them.
        job: whose scratch folder is used for the features.
    """
    data = job.settings.data
    features: tuple[tuple[float, float], ...] = ()
    if data.features:
        from pipelines.preprocessing.features import analyze_features  # loads all of tf.Transform, for seconds

        train = [part for part in parts if part.startswith("train/")]
        features = analyze_features(train, job.folder, job.scratch, data.features, beam_options=job.beam_options)
    return Analysis(label_vocabulary(counts, data), features)


def transform(parts: Sequence[str], job: RecordsJob) -> Counts:
    """Writes the windows of all parts by the transform graph in the scratch folder, and returns their counts."""
    summary = f"{job.folder}/transform.json"
    write_windows = WriteWindows(job.folder, f"{job.scratch}/{GRAPH}", job.vocabulary, job.settings)
    with beam.Pipeline(options=job.beam_options) as pipeline:
        (
            pipeline
            | "Parts" >> beam.Create(parts)
            | "SpreadParts" >> beam.Reshuffle()
            | "WriteWindows" >> beam.ParDo(write_windows)
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "WriteSummary" >> beam.Map(write_counts, summary)
        )
    return read_counts(summary)


def _check_ingested(counts: Counts) -> None:
    if not counts[Count("documents", "train")]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in by_value(counts, "rejects").items())
        records, sampled_out = counts[Count("records")], counts[Count("sampled_out")]
        raise DataError(
            f"no document can train: {records} records read, rejects: {reasons or 'none'}, "
            f"sampled out {sampled_out}; give documents whose every sentence has a label, or a score"
        )


def _check_labels(counts: Counts, labels: Sequence[str]) -> None:
    for split in SPLITS[1:]:
        if unknown := sorted(by_value(counts, "labels", split).keys() - set(labels)):
            raise DataError(
                f"the {split} split has labels that the train split has not: {', '.join(unknown)}; "
                "map them with --label-map or name the labels to use in data.labels"
            )


def _find_sources(
    inputs: Sequence[str], given_splits: Mapping[str, Sequence[str]]
) -> list[tuple[FingerprintedSource, str | None]]:
    """Returns every source with its given split, each path once."""
    groups = [(None, inputs), *given_splits.items()]
    sources = [(source, split) for split, patterns in groups if patterns for source in fingerprint_sources(patterns)]
    if not sources:
        raise UserError("no input; name the corpora with --input, or with --train, --dev and --test")
    if twice := [path for path, count in Counter(source.path for source, _ in sources).items() if count > 1]:
        raise UserError(f"{twice[0]}: is named for more than one split; a file belongs to one")
    return sources
