"""The records that are passed between the steps, from a corpus file to a prediction.

Standard library and numpy only: parsers, Beam workers and the trainer all import this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

MAX_EXCERPT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of running text; no sentence extends across its borders.

    Attributes:
        text: the text, without its heading.
        label: the rhetorical role that the authors gave the section; None if unknown.
        heading: the heading as it was printed, for messages and label maps; None for plain text.
    """

    text: str
    label: str | None = None
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One abstract, labelled or not, with sentences or with text that is still to be split into sentences.

    A parser fills exactly one of `sentences` and `sections`; splitting turns sections into sentences (and their
    labels). Everything that is given per sentence has as many entries as there are sentences.

    Attributes:
        doc_id: its identifier in the corpus.
        source: the file it was read from.
        record_index: its position among all records of that file, from 0, rejects included.
        sentences: its sentences in order.
        sections: text to be split into sentences.
        labels: one label per sentence.
        confidences: how sure the annotators were of each label, 0 to 1; they weight the loss.
        scores: one target score per sentence, for regression.
        features: additional numbers for each sentence, the same count for all sentences.
        highlights: sentences that summarize the document; ROUGE compares chosen sentences with them.
    """

    doc_id: str
    source: str
    record_index: int
    sentences: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    labels: tuple[str, ...] | None = None
    confidences: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    features: tuple[tuple[float, ...], ...] | None = None
    highlights: tuple[str, ...] | None = None


class Reason(StrEnum):
    """Why a record was rejected; the values are written to the files of rejects and counted in the manifest."""

    NO_ID = "no_id"
    NO_TEXT = "no_text"
    BROKEN_RECORD = "broken_record"
    BROKEN_SOURCE = "broken_source"
    UNREADABLE_SOURCE = "unreadable_source"
    WRONG_TYPE = "wrong_type"
    WRONG_LENGTH = "wrong_length"
    INVALID_ENCODING = "invalid_encoding"
    TOO_LARGE = "too_large"
    SWALLOWED_RECORDS = "swallowed_records"
    UNLABELLED = "unlabelled"
    UNSCORED = "unscored"
    WRONG_FEATURES = "wrong_features"
    UNKNOWN_LABEL = "unknown_label"
    LABELLED = "labelled"
    FAILED_WINDOW = "failed_window"
    KILLED_WORKER = "killed_worker"
    DELETION = "deletion"


@dataclass(frozen=True, slots=True)
class Reject:
    """An input record that could not be used, and why.

    Attributes:
        source: the file it was read from.
        record_index: its position among the records of that file, from 0. A truncated source has one reject at the
            position where the next record would have been.
        doc_id: its identifier, if one could be read.
        reason: a fixed code to group by.
        message: what is wrong and, where that helps, the place in the file.
        excerpt: the beginning of the offending record, at most 1 KiB of UTF-8.
    """

    source: str
    record_index: int
    reason: Reason
    message: str
    doc_id: str | None = None
    excerpt: str = ""

    def __post_init__(self) -> None:
        clipped = self.excerpt.encode("utf-8", "replace")[:MAX_EXCERPT_BYTES].decode("utf-8", "ignore")
        object.__setattr__(self, "excerpt", clipped)


@dataclass(frozen=True, slots=True)
class Window:
    """A run of neighbouring sentences of one document that the encoder reads in one pass.

    All positions are sentence indices within the document; ranges are half open.

    Attributes:
        index: the window's number within its document, from 0.
        start, end: the sentences that the window shows.
        owned_start, owned_end: the sentences whose predictions are taken from this window; the rest is context.
    """

    index: int
    start: int
    end: int
    owned_start: int
    owned_end: int

    @property
    def owned(self) -> slice:
        """Where the owned sentences stand among those that the window shows."""
        return slice(self.owned_start - self.start, self.owned_end - self.start)

    @property
    def owned_sentences(self) -> range:
        """The indices of the owned sentences within the document."""
        return range(self.owned_start, self.owned_end)


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """A window in the encoder's ids: `[CLS] s1 [SEP] s2 [SEP] ... sN [SEP]`, without padding.

    Attributes:
        window: which sentences these are.
        token_ids: int32 `[tokens]`.
        segment_ids: int32 `[tokens]`.
        sep_positions: int32 `[sentences]`, the index of each sentence's `[SEP]` in `token_ids`.
        truncated: bool `[sentences]`, True if a sentence alone was longer than the budget and its end was cut off.
        features: float32 `[sentences, features]`, standardized; None for a model that takes none.
    """

    window: Window
    token_ids: np.ndarray
    segment_ids: np.ndarray
    sep_positions: np.ndarray
    truncated: np.ndarray
    features: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """A window read back from the training records.

    Attributes:
        doc_id: the document it was cut from.
        encoded: the window itself.
        targets: `[sentences]`, context included: int64 labels as indices into the label vocabulary, or float32 scores.
        confidences: float32 `[sentences]`.
    """

    doc_id: str
    encoded: EncodedWindow
    targets: np.ndarray
    confidences: np.ndarray
