"""Reads corpora as a run would, without a Beam pipeline, and counts what is in them.

Corpora are streamed. Only a batch of documents, the counts, and two hashes per document stay in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import NamedTuple

import tensorflow as tf

from model.config import Settings, WindowSettings
from model.encoders.encoder import open_encoder
from model.progress import ProgressReporter
from model.records import Document, Reason, Reject
from model.text.tokenization import Tokenizer
from model.text.windowing import plan_windows
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import SourceFailure, match_sources, read_source, shown_path
from pipelines.inspection.findings import FoundDocument, Inspection, Measure, Sample, Tally
from pipelines.preprocessing.keys import normalized_text

_BATCH_CHARS = 300_000  # of scientific prose, about 2,000 sentences
_SAMPLES = 3
_SAMPLE_SENTENCES = 3


def inspect_corpora(
    inputs: Sequence[str], *, settings: Settings, options: ReadOptions, limit: int | None = None
) -> Inspection:
    """Reads corpora as a run would and returns what it found.

    Args:
        inputs: paths and globs of the corpora.
        settings: only the sections `encoder` and `window` are used.
        options: how the corpora are read.
        limit: how many records of each file to read, from its beginning; None for all.

    Raises:
        UserError: an input matches no file, or the settings can't be used.
    """
    encoder = open_encoder(settings.encoder)
    encoder.check_budget(settings.window)
    sources = match_sources(inputs)
    tokenizer, splitter = Tokenizer(encoder.vocabulary), SentenceSplitter()
    total, summaries = Tally(), []
    seen_ids, seen_texts = _Seen(), _Seen()
    samples: list[list[Sample]] = []
    with ProgressReporter("inspecting", total=None, unit="records") as progress:
        for number, source in enumerate(sources):
            tally = Tally()
            samples.append([])
            records = islice(_readable_records(source.path, options), limit)
            items = (_split(record, splitter, max_sentences=options.max_sentences) for record in records)
            for batch in _batches(items):
                found = [item for item in batch if isinstance(item, FoundDocument)]
                lengths = _sentence_lengths([item.document for item in found], tokenizer)
                for item, row in zip(found, lengths, strict=True):
                    document, measure = item.document, _measure(row, settings.window)
                    ids = seen_ids.add(document.doc_id, number)
                    texts = seen_texts.add(normalized_text(document), number)
                    tally.count_document(item, measure, repeats_id=ids.in_source, repeats_text=texts.in_source)
                    total.count_document(item, measure, repeats_id=ids.anywhere, repeats_text=texts.anywhere)
                    tally.count_shared_ids(ids.sharing)
                    total.count_shared_ids(ids.sharing)
                    if number < _SAMPLES and len(samples[number]) < _SAMPLES:
                        samples[number].append(_sample(document))
                for reject in (item for item in batch if isinstance(item, Reject)):
                    tally.count_reject(reject)
                    total.count_reject(reject)
                progress.update(done=total.records, note=shown_path(source.path))
            summaries.append(tally.summary(shown_path(source.path)))
    by_turns = chain.from_iterable(zip_longest(*samples))
    return Inspection(
        max_tokens=settings.window.max_tokens,
        sources=tuple(summaries),
        total=total.summary(None),
        samples=tuple(islice((sample for sample in by_turns if sample is not None), _SAMPLES)),
    )


def _readable_records(path: str, options: ReadOptions) -> Iterator[Document | Reject]:
    """Yields the records of a source; one that can't be read ends with a reject, since the others are of interest."""
    count = 0
    try:
        for record in read_source(path, options):
            yield record
            count += 1
    except SourceFailure as failure:
        yield Reject(shown_path(path), count, Reason.UNREADABLE_SOURCE, str(failure))


class _Repeats(NamedTuple):
    """Whether a key was seen before, in its source or anywhere, and how many in the source are now known to share one.

    The second with a key stands for the first one, too.
    """

    in_source: bool
    anywhere: bool
    sharing: int


class _Seen:
    """Remembers what it has seen, as 64-bit hashes. Sources have to come one after the other."""

    def __init__(self) -> None:
        self._last_sources: dict[int, int] = {}
        self._last_repeats: dict[int, int] = {}

    def add(self, key: str, source: int) -> _Repeats:
        digest = int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big")
        last_source = self._last_sources.get(digest)
        self._last_sources[digest] = source
        in_source, sharing = last_source == source, 0
        if in_source:
            sharing = 1 if self._last_repeats.get(digest) == source else 2
            self._last_repeats[digest] = source
        return _Repeats(in_source, last_source is not None, sharing)


def _split(record: Document | Reject, splitter: SentenceSplitter, *, max_sentences: int) -> FoundDocument | Reject:
    if isinstance(record, Reject):
        return record
    document = split_document(record, splitter, max_sentences=max_sentences)
    if isinstance(document, Reject):
        return document
    if document.labels is not None:
        return FoundDocument(document, "labelled")
    partly = any(section.label is not None for section in record.sections)
    return FoundDocument(document, "partly_labelled" if partly else "unlabelled")


def _batches(items: Iterable[FoundDocument | Reject]) -> Iterator[list[FoundDocument | Reject]]:
    """Yields the items in batches: large enough to be tokenized fast, small enough for memory."""
    batch: list[FoundDocument | Reject] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(map(len, item.document.sentences)) if isinstance(item, FoundDocument) else len(item.excerpt)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sentence_lengths(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Returns for each document the number of wordpieces of each sentence, without special tokens."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    lengths = iter(tokenizer.tokenize(tf.constant(sentences, tf.string)).row_lengths().numpy().tolist())
    return (list(islice(lengths, len(document.sentences))) for document in documents)


def _measure(lengths: Sequence[int], window: WindowSettings) -> Measure:
    tokens = 1 + sum(lengths) + len(lengths)
    return Measure(
        tokens=tokens,
        over_budget=tokens > window.max_tokens,
        windows=len(plan_windows(lengths, window)),
        truncated=sum(length > window.max_tokens - 2 for length in lengths),
    )


def _sample(document: Document) -> Sample:
    labels = document.labels or (None,) * len(document.sentences)
    beginning = tuple(islice(zip(document.sentences, labels, strict=True), _SAMPLE_SENTENCES))
    return Sample(document.doc_id, document.source, document.record_index, len(document.sentences), beginning)
