"""What a run would see, before it runs: records, labels, lengths, rejects and duplicates of corpora. No Beam pipeline.

Corpora are streamed. What stays in memory is a batch of documents, the counts, and two hashes a document.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice, zip_longest
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from model.config import Settings, WindowSettings
from model.encoders.encoder import open_encoder
from model.progress import ProgressReporter
from model.records import Document, Reason, Reject
from model.text.tokenization import Tokenizer
from model.text.windowing import plan_windows
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import match_sources, read_source
from pipelines.preprocessing.duplicates import normalized_text

_BATCH_CHARS = 300_000  # of scientific prose, about 2,000 sentences
_SAMPLES = 3
_SAMPLE_SENTENCES = 3


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of documents in wordpieces, as one window would hold them: `[CLS]` and a `[SEP]` a sentence included.

    A quantile is the smallest length that this share of the documents does not exceed. All are 0 without documents.
    """

    mean: float
    median: int
    p90: int
    max: int


@dataclass(frozen=True, slots=True)
class RejectExample:
    """The first reject for one reason, and how many there are.

    Attributes:
        count: records rejected for this reason.
        source, record_index, message: of the first of them.
    """

    count: int
    source: str
    record_index: int
    message: str


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Documents that repeat an earlier one.

    Attributes:
        count: documents, without the first of each kind.
        example: the id of the first of them; None where there are none.
    """

    count: int
    example: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What one source holds, or all of them together.

    Attributes:
        source: the file; None for all together.
        records: documents and rejected records.
        documents: records that can be read.
        rejected: records that cannot.
        labelled: documents with a label for every sentence.
        partly_labelled: documents with a label for some of their sections only; none of them can train.
        unlabelled: documents without labels.
        sentences: of all documents.
        labels: sentences by label in the labelled documents, the most frequent first.
        lengths: how long the documents are.
        over_budget: documents that are longer than a window.
        over_budget_share: the share of the documents that are.
        windows: of all documents.
        truncated: sentences that alone are longer than a window and would lose their end.
        rejects: the rejected records by reason.
        duplicate_ids: documents whose id an earlier one has. In all: across sources, too.
        duplicate_texts: documents whose text, but for case and white space, an earlier one has. In all: across sources.
    """

    source: str | None
    records: int
    documents: int
    rejected: int
    labelled: int
    partly_labelled: int
    unlabelled: int
    sentences: int
    labels: Mapping[str, int]
    lengths: Lengths
    over_budget: int
    over_budget_share: float
    windows: int
    truncated: int
    rejects: Mapping[str, RejectExample]
    duplicate_ids: Duplicates
    duplicate_texts: Duplicates


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a document, as a run would read it.

    Attributes:
        doc_id, source, record_index: which it is.
        sentences: how many it has.
        beginning: its first sentences, each with its label or None.
    """

    doc_id: str
    source: str
    record_index: int
    sentences: int
    beginning: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What corpora hold, under the encoder's wordpieces and the windows of the settings.

    Attributes:
        max_tokens: the budget of a window.
        sources: a summary a source, in the order in which runs read them.
        total: all sources together.
        samples: the beginnings of a few documents, of several sources where there are several.
    """

    max_tokens: int
    sources: tuple[Summary, ...]
    total: Summary
    samples: tuple[Sample, ...]

    @property
    def unreadable(self) -> list[RejectExample]:
        """The sources that could not be read at all, with the reason in words."""
        rejects = (summary.rejects.get(Reason.UNREADABLE_SOURCE) for summary in self.sources)
        return [reject for reject in rejects if reject is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON's own types."""
        return asdict(self)


def inspect_corpora(
    inputs: Sequence[str], *, settings: Settings, options: ReadOptions, limit: int | None = None
) -> Inspection:
    """Reads corpora as a run would and returns what it found.

    Args:
        inputs: paths and globs of the corpora.
        settings: the sections `encoder` and `window` count here.
        options: how the corpora are read.
        limit: look at the first so many records of each file only; None for all.

    Raises:
        UserError: an input names no file, or the settings can't be used.
    """
    encoder = open_encoder(settings.encoder)
    vocabulary = encoder.vocabulary
    encoder.check_budget(settings.window)
    sources = match_sources(inputs)
    tokenizer, splitter = Tokenizer(vocabulary), SentenceSplitter()
    total, summaries = _Tally(), []
    seen_ids, seen_texts = _Seen(), _Seen()
    samples: list[list[Sample]] = []
    with ProgressReporter("inspecting", total=None, unit="records") as progress:
        for number, source in enumerate(sources):
            tally = _Tally()
            samples.append([])
            records = islice(read_source(source.path, options), limit)
            items = (_split(record, splitter, max_sentences=options.max_sentences) for record in records)
            for batch in _batches(items):
                found = [item for item in batch if isinstance(item, _Found)]
                lengths = _sentence_lengths([item.document for item in found], tokenizer)
                for item, measure in zip(found, (_measure(row, settings.window) for row in lengths), strict=True):
                    document = item.document
                    text = normalized_text(document)
                    ids, texts = seen_ids.add(document.doc_id, number), seen_texts.add(text, number)
                    tally.count_document(item, measure, repeats_id=ids.in_source, repeats_text=texts.in_source)
                    total.count_document(item, measure, repeats_id=ids.anywhere, repeats_text=texts.anywhere)
                    if number < _SAMPLES and len(samples[number]) < _SAMPLES:
                        samples[number].append(_sample(document))
                for reject in (item for item in batch if isinstance(item, Reject)):
                    tally.count_reject(reject)
                    total.count_reject(reject)
                progress.update(done=total.records, note=source.path)
            summaries.append(tally.summary(source.path))
    by_turns = chain.from_iterable(zip_longest(*samples))
    return Inspection(
        max_tokens=settings.window.max_tokens,
        sources=tuple(summaries),
        total=total.summary(None),
        samples=tuple(islice((sample for sample in by_turns if sample is not None), _SAMPLES)),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A document with its sentences, and how far it is labelled."""

    document: Document
    labelling: Literal["labelled", "partly_labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a document costs: wordpieces with special tokens, windows, and sentences that lose their end."""

    tokens: int
    over_budget: bool
    windows: int
    truncated: int


class _Repeats(NamedTuple):
    in_source: bool
    anywhere: bool


class _Seen:
    """Tells what has been seen before, by 64-bit hashes; sources come one after the other."""

    def __init__(self) -> None:
        self._last_sources: dict[int, int] = {}

    def add(self, key: str, source: int) -> _Repeats:
        digest = int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big")
        last_source = self._last_sources.get(digest)
        self._last_sources[digest] = source
        return _Repeats(in_source=last_source == source, anywhere=last_source is not None)


class _Tally:
    """The counts of a source, or of all."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()  # documents by length: as many entries as there are lengths
        self._rejects: Counter[Reason] = Counter()
        self._first_rejects: dict[Reason, Reject] = {}
        self._first_repeats: dict[str, str] = {}

    @property
    def records(self) -> int:
        return self._lengths.total() + self._rejects.total()

    def count_document(self, item: _Found, measure: _Measure, *, repeats_id: bool, repeats_text: bool) -> None:
        document = item.document
        self._counts[item.labelling] += 1
        self._counts["sentences"] += len(document.sentences)
        self._counts["over_budget"] += measure.over_budget
        self._counts["windows"] += measure.windows
        self._counts["truncated"] += measure.truncated
        self._lengths[measure.tokens] += 1
        self._labels.update(document.labels or ())
        for kind, repeats in (("id", repeats_id), ("text", repeats_text)):
            if repeats:
                self._counts[f"repeats_{kind}"] += 1
                self._first_repeats.setdefault(kind, document.doc_id)

    def count_reject(self, reject: Reject) -> None:
        self._rejects[reject.reason] += 1
        self._first_rejects.setdefault(reject.reason, reject)

    def summary(self, source: str | None) -> Summary:
        documents = self._lengths.total()
        return Summary(
            source=source,
            records=self.records,
            documents=documents,
            rejected=self._rejects.total(),
            labelled=self._counts["labelled"],
            partly_labelled=self._counts["partly_labelled"],
            unlabelled=self._counts["unlabelled"],
            sentences=self._counts["sentences"],
            labels=dict(sorted(self._labels.items(), key=lambda entry: (-entry[1], entry[0]))),
            lengths=_lengths(self._lengths),
            over_budget=self._counts["over_budget"],
            over_budget_share=self._counts["over_budget"] / documents if documents else 0.0,
            windows=self._counts["windows"],
            truncated=self._counts["truncated"],
            rejects={
                str(reason): RejectExample(count, first.source, first.record_index, first.message)
                for reason, count in self._rejects.most_common()
                for first in (self._first_rejects[reason],)
            },
            duplicate_ids=Duplicates(self._counts["repeats_id"], self._first_repeats.get("id")),
            duplicate_texts=Duplicates(self._counts["repeats_text"], self._first_repeats.get("text")),
        )


def _split(record: Document | Reject, splitter: SentenceSplitter, *, max_sentences: int) -> _Found | Reject:
    if isinstance(record, Reject):
        return record
    document = split_document(record, splitter, max_sentences=max_sentences)
    if isinstance(document, Reject):
        return document
    if document.labels is not None:
        return _Found(document, "labelled")
    partly = any(section.label is not None for section in record.sections)
    return _Found(document, "partly_labelled" if partly else "unlabelled")


def _batches(items: Iterable[_Found | Reject]) -> Iterator[list[_Found | Reject]]:
    """Yields neighbouring items together, so many that tokenizing them is fast and few enough for memory."""
    batch: list[_Found | Reject] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(map(len, item.document.sentences)) if isinstance(item, _Found) else len(item.excerpt)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sentence_lengths(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yields for each document how many wordpieces each sentence has, without special tokens."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    lengths = iter(tokenizer.tokenize(tf.constant(sentences, tf.string)).row_lengths().numpy().tolist())
    return (list(islice(lengths, len(document.sentences))) for document in documents)


def _measure(lengths: Sequence[int], window: WindowSettings) -> _Measure:
    tokens = 1 + sum(lengths) + len(lengths)
    return _Measure(
        tokens=tokens,
        over_budget=tokens > window.max_tokens,
        windows=len(plan_windows(lengths, window)),
        truncated=sum(length > window.max_tokens - 2 for length in lengths),
    )


def _lengths(counts: Counter[int]) -> Lengths:
    if not counts:
        return Lengths(0.0, 0, 0, 0)
    lengths, documents = zip(*sorted(counts.items()), strict=True)
    up_to = list(accumulate(documents))
    median, p90 = (lengths[bisect_left(up_to, percent * up_to[-1] / 100)] for percent in (50, 90))
    mean = sum(length * count for length, count in counts.items()) / up_to[-1]
    return Lengths(mean, median, p90, lengths[-1])


def _sample(document: Document) -> Sample:
    labels = document.labels or (None,) * len(document.sentences)
    beginning = tuple(islice(zip(document.sentences, labels, strict=True), _SAMPLE_SENTENCES))
    return Sample(document.doc_id, document.source, document.record_index, len(document.sentences), beginning)
