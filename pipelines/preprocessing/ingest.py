"""Turns labelled corpora into documents as text: split into sentences, assigned to splits, one Parquet part per chunk.

units | Reshuffle | ReadChunks | WriteDocuments -> counts, and keys | GroupByKey | FindDuplicates
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from model.config import DataSettings
from model.records import Document, Reason, Reject
from model.schema import SPLITS, document_schema
from pipelines.corpora.checks import reject_document, wrong_features
from pipelines.corpora.chunks import Chunk, Unit, hash_share, part_prefix, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.preprocessing.counts import Count, Counts, read_counts, sum_counts, write_counts
from pipelines.preprocessing.duplicates import (
    Occurrence,
    duplicate_keys,
    find_duplicates,
    revision_keys,
    write_duplicates,
)
from pipelines.storage.parquet import write_rejects, write_table


def ingest(
    sources: Sequence[Mapping[str, Any]],
    folder: str,
    *,
    data: DataSettings,
    options: ReadOptions,
    beam_options: PipelineOptions,
) -> Counts:
    """Writes documents, rejects and the list of duplicates into the folder, and returns the counts of what was read."""
    summary = f"{folder}/ingest.json"
    splits = [(source["path"], source["split"]) for source in sources]
    options = replace(options, deletions=data.revisions == "latest")
    write_documents = WriteDocuments(folder, data, max_sentences=options.max_sentences)
    with beam.Pipeline(options=beam_options) as pipeline:
        written = (
            pipeline
            | "Units" >> beam.Create([Unit(path, part_prefix(path), split=split) for path, split in splits])
            | "SpreadUnits" >> beam.Reshuffle()
            | "ReadChunks" >> beam.FlatMap(read_chunks, options, size=data.part_records)
            | "WriteDocuments" >> beam.ParDo(write_documents).with_outputs(WriteDocuments.KEYS, main="counts")
        )
        (
            written["counts"]
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "WriteSummary" >> beam.Map(write_counts, summary)
        )
        (
            written[WriteDocuments.KEYS]
            | "GroupAlike" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.FlatMapTuple(find_duplicates)
            | "Gather" >> beam.combiners.ToList()
            | "WriteDuplicates" >> beam.Map(write_duplicates, folder)
        )
    return read_counts(summary)


class WriteDocuments(beam.DoFn):
    """Splits a chunk's documents into sentences, assigns them to splits, writes them, and emits the counts.

    A second output has the keys to find duplicates by.
    """

    KEYS = "keys"

    def __init__(self, folder: str, data: DataSettings, *, max_sentences: int) -> None:
        self._folder, self._data, self._max_sentences = folder, data, max_sentences

    def setup(self) -> None:
        self._splitter = SentenceSplitter()

    def process(self, chunk: Chunk) -> Iterator[Any]:
        documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
        rejects: list[Reject] = []
        counts: Counts = Counter({Count("records"): len(chunk.items)})
        for item in chunk.items:
            result = item if isinstance(item, Reject) else self._trainable(item)
            if isinstance(result, Reject):
                rejects.append(result)
                counts[Count("rejects", value=result.reason)] += 1
                if self._data.revisions == "latest":
                    yield from self._tagged(revision_keys(result, part=chunk.name))
            elif (split := assign_split(result.doc_id, self._data, given=chunk.unit.split)) is None:
                counts[Count("sampled_out")] += 1
            else:
                documents[split].append(result)
                counts[Count("documents", split)] += 1
                counts[Count("sentences", split)] += len(result.sentences)
                counts.update(Count("labels", split, label) for label in result.labels or ())
                revisions = self._data.revisions
                yield from self._tagged(duplicate_keys(result, split=split, part=chunk.name, revisions=revisions))
        for split, members in documents.items():
            if members:
                write_table(f"{self._folder}/documents/{split}/{chunk.name}.parquet", document_table(members))
        write_rejects(f"{self._folder}/rejects/{chunk.name}.parquet", rejects, {})
        yield counts

    def _tagged(self, keys: Iterator[tuple[str, Occurrence]]) -> Iterator[beam.pvalue.TaggedOutput]:
        return (beam.pvalue.TaggedOutput(self.KEYS, keyed) for keyed in keys)

    def _trainable(self, document: Document) -> Document | Reject:
        return trainable(document, self._splitter, data=self._data, max_sentences=self._max_sentences)


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


def assign_split(doc_id: str, data: DataSettings, *, given: str | None = None) -> str | None:
    """Returns the given split of a document, or one chosen by a hash of its id; None if `data.sample` leaves it out."""
    if hash_share(f"sample/{doc_id}") >= data.sample:
        return None
    if given is not None:
        return given
    place = hash_share(f"split/{doc_id}")
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
