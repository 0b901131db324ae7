"""What an inspection finds: a summary of each source and of all together, and the counts behind it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

from model.records import Document, Reason, Reject
from pipelines.corpora.chunks import ids_are_shared


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of documents in wordpieces, including `[CLS]` and a `[SEP]` for each sentence.

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
        count: how many there are; the first document of each kind is not counted.
        example: the id of the first of them; None if there are none.
    """

    count: int
    example: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in one source, or in all of them together.

    Attributes:
        source: the file; None for all together.
        records: documents and rejected records.
        documents: records that can be read.
        rejected: records that cannot be read.
        labelled: documents with a label for every sentence.
        partly_labelled: documents with a label for only some of their sections; they can't be used for training.
        unlabelled: documents without labels.
        sentences: of all documents.
        labels: sentences by label in the labelled documents, the most frequent first.
        lengths: how long the documents are.
        over_budget: documents that are longer than a window.
        over_budget_share: the share of the documents that are longer.
        windows: of all documents.
        truncated: sentences that alone are longer than a window and would be cut off.
        rejects: the rejected records by reason.
        duplicate_ids: documents with the id of an earlier one. For all sources together: also across sources.
        shared_ids: documents that share their id within their source, the first of each id included.
        duplicate_texts: documents with the text of an earlier one, apart from case and white space. For all sources
            together: also across sources.
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
    shared_ids: int
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
    """What is in corpora, measured in the encoder's wordpieces and in windows.

    Attributes:
        max_tokens: the budget of a window.
        sources: a summary of each source, in the order in which runs read them.
        total: all sources together.
        samples: the beginnings of a few documents, from several sources if there are several.
    """

    max_tokens: int
    sources: tuple[Summary, ...]
    total: Summary
    samples: tuple[Sample, ...]

    @property
    def unreadable(self) -> list[RejectExample]:
        """The sources that could not be read at all, to their end, or without loss, with the error message of each."""
        reasons = (Reason.UNREADABLE_SOURCE, Reason.BROKEN_SOURCE, Reason.SWALLOWED_RECORDS)
        rejects = (summary.rejects.get(reason) for summary in self.sources for reason in reasons)
        return [reject for reject in rejects if reject is not None]

    @property
    def without_ids(self) -> list[Summary]:
        """The sources whose ids don't identify their documents, so that a run goes by their positions."""
        return [summary for summary in self.sources if ids_are_shared(summary.shared_ids, summary.documents)]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document with its sentences, and whether all, some or none of them have labels."""

    document: Document
    labelling: Literal["labelled", "partly_labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class Measure:
    """The size of a document: wordpieces with special tokens, windows, and sentences that would be cut off."""

    tokens: int
    over_budget: bool
    windows: int
    truncated: int


class Tally:
    """Counts what is in one source, or in all of them together."""

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

    def count_document(self, item: FoundDocument, measure: Measure, *, repeats_id: bool, repeats_text: bool) -> None:
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

    def count_shared_ids(self, count: int) -> None:
        self._counts["shared_ids"] += count

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
            shared_ids=self._counts["shared_ids"],
            duplicate_texts=Duplicates(self._counts["repeats_text"], self._first_repeats.get("text")),
        )


def _lengths(counts: Counter[int]) -> Lengths:
    if not counts:
        return Lengths(0.0, 0, 0, 0)
    lengths, documents = zip(*sorted(counts.items()), strict=True)
    up_to = list(accumulate(documents))
    median, p90 = (lengths[bisect_left(up_to, percent * up_to[-1] / 100)] for percent in (50, 90))
    mean = sum(length * count for length, count in counts.items()) / up_to[-1]
    return Lengths(mean, median, p90, lengths[-1])
