"""Turns labelled corpora into documents as text: split into sentences, assigned to splits, one Parquet part per chunk.

units | Reshuffle | ReadChunks | WriteDocuments -> counts

Beside each part, its keys are written, by which the driver finds duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from model.config import DataSettings
from model.records import Document, Reason, Reject
from model.schema import SPLITS, document_schema
from pipelines.corpora.checks import reject_document, wrong_features
from pipelines.corpora.chunks import Chunk, Unit, hash_share, ids_are_shared, part_prefix, position_id, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import FingerprintedSource, shown_path
from pipelines.preprocessing.counts import (
    Count,
    Counts,
    PackedCounts,
    by_value,
    pack_counts,
    read_counts,
    sum_counts,
    write_counts,
)
from pipelines.preprocessing.duplicates import count_shared_ids, write_duplicates
from pipelines.preprocessing.keys import PartKeys, key_files, normalized_text, remove_keys, repeated_rows
from pipelines.storage import objects
from pipelines.storage.parquet import write_rejects, write_table

_MOST_VERSIONS = 10  # of a document, on average


def ingest(
    sources: Sequence[tuple[FingerprintedSource, str | None]],
    folder: str,
    *,
    data: DataSettings,
    options: ReadOptions,
    beam_options: PipelineOptions,
) -> Counts:
    """Writes documents, rejects and the list of duplicates into the folder, and returns the counts of what was read.

    If that shows sources whose ids don't identify their documents, all is read again, with positions as their ids.
    """
    options = replace(options, deletions=data.revisions == "latest")
    write_documents = WriteDocuments(folder, data, max_sentences=options.max_sentences)
    counts, ids = _ingest(sources, folder, write_documents, options=options, beam_options=beam_options)
    paths = [source.fingerprint["path"] for source, _ in sources]
    if by_position := sources_without_ids(counts, paths, data.revisions):
        remove_keys(folder)
        for place in ("documents", "rejects"):
            objects.remove([f"{folder}/{place}/{name}" for name in objects.list_tree(f"{folder}/{place}")])
        write_documents = WriteDocuments(folder, data, max_sentences=options.max_sentences, by_position=by_position)
        counts, ids = _ingest(sources, folder, write_documents, options=options, beam_options=beam_options)
    write_duplicates(folder, ids, repeated_rows(key_files(folder), "text"), data.revisions)
    remove_keys(folder)
    return counts


def sources_without_ids(counts: Counts, sources: Sequence[str], revisions: str) -> frozenset[str]:
    """Returns the sources whose ids don't identify their documents.

    In these, more than a tenth of the records share their ids within the source. An id that several sources have
    usually stands for versions of one document, whose splits have to be the same; but if such an id has more than ten
    records on average, and more than a tenth of all records have one, the sources number their records themselves.
    """
    shared = by_value(counts, "shared_in_source")
    identified = by_value(counts, "identified")
    found = {source for source, n in shared.items() if ids_are_shared(n, identified[source])}
    across, ids = counts[Count("shared_across")], counts[Count("ids_across")]
    if revisions == "keep" and ids_are_shared(across, identified.get("", 0)) and across > _MOST_VERSIONS * ids:
        found.update(sources)
    return frozenset(found)


def _ingest(
    sources: Sequence[tuple[FingerprintedSource, str | None]],
    folder: str,
    write_documents: WriteDocuments,
    *,
    options: ReadOptions,
    beam_options: PipelineOptions,
) -> tuple[Counts, pa.Table]:
    """Writes documents, rejects and keys, and returns the counts and the keys of repeated ids."""
    summary, size = f"{folder}/ingest.json", write_documents.data.part_records
    units = [Unit(source.path, part_prefix(source.path), split=split, state=source.state) for source, split in sources]
    with beam.Pipeline(options=beam_options) as pipeline:
        (
            pipeline
            | "Units" >> beam.Create(units)
            | "SpreadUnits" >> beam.Reshuffle()
            | "ReadChunks" >> beam.FlatMap(read_chunks, options, size=size)
            | "WriteDocuments" >> beam.ParDo(write_documents)
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "WriteSummary" >> beam.Map(write_counts, summary)
        )
    counts = read_counts(summary)
    ids = repeated_rows(key_files(folder), "id")
    counts.update(count_shared_ids(ids))
    return counts, ids


class WriteDocuments(beam.DoFn):
    """Splits a chunk's documents into sentences, assigns them to splits, writes them and their keys, emits counts."""

    def __init__(
        self, folder: str, data: DataSettings, *, max_sentences: int, by_position: frozenset[str] = frozenset()
    ) -> None:
        self.data = data
        self._folder, self._max_sentences, self._by_position = folder, max_sentences, by_position

    def setup(self) -> None:
        self._splitter = SentenceSplitter()

    def process(self, chunk: Chunk) -> Iterator[PackedCounts]:
        source, data, identified = shown_path(chunk.unit.source), self.data, 0
        keys = PartKeys(chunk.name)
        by_position = source in self._by_position
        documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
        rejects: list[Reject] = []
        counts: Counts = Counter({Count("records"): len(chunk.items)})
        for item in chunk.items:
            result = item if isinstance(item, Reject) else self._trainable(item)
            if isinstance(result, Reject):
                rejects.append(result)
                counts[Count("rejects", value=result.reason)] += 1
                if data.revisions == "latest" and not (by_position and result.reason != Reason.DELETION):
                    keys.add_reject(result)
                    identified += result.doc_id is not None and result.reason != Reason.DELETION
                continue
            # The text decides, so that it does not matter where in which file the document stands.
            key = normalized_text(result) if by_position else result.doc_id
            split = assign_split(key, data, given=chunk.unit.split)
            if by_position:
                result = replace(result, doc_id=position_id(result))
                counts[Count("by_position", value=source)] += 1
            identified += 1
            keys.add_document(result, split)
            if split is None:
                counts[Count("sampled_out")] += 1
                continue
            documents[split].append(result)
            counts[Count("documents", split)] += 1
            counts[Count("sentences", split)] += len(result.sentences)
            counts.update(Count("labels", split, label) for label in result.labels or ())
        counts[Count("identified")] += identified
        if chunk.index or chunk.piece or identified > 1:  # else there may be as many counts as files
            counts[Count("identified", value=source)] += identified
        for split, members in documents.items():
            if members:
                write_table(f"{self._folder}/documents/{split}/{chunk.name}.parquet", document_table(members))
        write_rejects(f"{self._folder}/rejects/{chunk.name}.parquet", rejects, {})
        keys.write(self._folder)
        yield pack_counts(counts)

    def _trainable(self, document: Document) -> Document | Reject:
        return trainable(document, self._splitter, data=self.data, max_sentences=self._max_sentences)


def trainable(
    document: Document, splitter: SentenceSplitter, *, data: DataSettings, max_sentences: int
) -> Document | Reject:
    """Returns the document with sentences and a label or score for each, or the reason why it can't be used.

    Args:
        document: from a parser.
        splitter: for documents that are running text.
        data: decides the target, the allowed labels, and the number of features of each sentence.
        max_sentences: the largest number of sentences in a document.
    """

    def reject(reason: Reason, message: str) -> Reject:
        excerpt = " ".join(section.text for section in document.sections) or " ".join(document.sentences)
        return reject_document(document, reason, message, excerpt=excerpt)

    if data.target == "labels":
        for section in document.sections:
            if section.label is None and section.heading is not None:
                return reject(Reason.UNKNOWN_LABEL, f"the label map has no label for the heading {section.heading!r}")
    split = split_document(document, splitter, max_sentences=max_sentences)
    if isinstance(split, Reject):
        return split
    problem = _target_problem(split, data)
    if problem is None and (wrong := wrong_features(split, data.features)) is not None:
        problem = Reason.WRONG_FEATURES, wrong
    return split if problem is None else reject(*problem)


def _target_problem(document: Document, data: DataSettings) -> tuple[Reason, str] | None:
    if data.target == "scores":
        return None if document.scores is not None else (Reason.UNSCORED, "the document has no scores")
    if document.labels is None:
        return Reason.UNLABELLED, "the document has no labels"
    unknown = [label for label in document.labels if data.labels is not None and label not in data.labels]
    return (Reason.UNKNOWN_LABEL, f"{unknown[0]!r} is not among data.labels") if unknown else None


def assign_split(key: str, data: DataSettings, *, given: str | None = None) -> str | None:
    """Returns the given split of a document, or one chosen by a hash of its key; None if `data.sample` leaves it out.

    The key is its id, or its text if ids don't identify documents.
    """
    if hash_share(f"sample/{key}") >= data.sample:
        return None
    if given is not None:
        return given
    place = hash_share(f"split/{key}")
    names = [split for split in SPLITS if split in data.splits]
    for split in names:
        place -= data.splits[split]
        if place < 0:
            return split
    return names[-1]  # rounding of the shares' sum


def document_table(documents: Sequence[Document]) -> pa.Table:
    """Returns labelled documents as a table of `schema.document_schema`."""
    schema = document_schema()
    columns = {name: [getattr(document, name) for document in documents] for name in schema.names}
    return pa.Table.from_pydict(columns, schema=schema)
