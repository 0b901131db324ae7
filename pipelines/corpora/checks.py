"""The checks that turn a record into a document. Parsers only find the fields; every check of them is here."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.labels import normalize_label
from pipelines.corpora.options import ReadOptions

MAX_NAME_BYTES = 1024
"""The longest id or label, in bytes of UTF-8."""

_SHOWN_CHARS = 40
_FLOAT32_OVERFLOW = 2.0**128 - 2.0**103  # the least number that becomes infinity when it is rounded to 32 bits
_DROPPED_CATEGORIES = frozenset(("Cc", "Cf", "Co", "Zs", "Zl", "Zp", "Mn"))


class Problem(Exception):
    """Why a record, or the rest of a source, cannot be used. Parsers yield it in a record's place; checks raise it.

    Attributes:
        reason: the code to group by.
        message: what is wrong.
        beginning: the beginning of the offending record.
        doc_id: its identifier, if the parser knows it.
    """

    def __init__(self, reason: Reason, message: str, beginning: str = "", doc_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.beginning = beginning
        self.doc_id = doc_id


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The fields of one record as a parser found them, of any type; None if absent.

    Attributes:
        beginning: returns the beginning of the record; called only for a reject, and before the next record is read.
        sections: text that the parser has already split into sections; else there is `text`.
    """

    beginning: Callable[[], str]
    doc_id: object = None
    text: object = None
    sections: tuple[Section, ...] = ()
    sentences: object = None
    labels: object = None
    confidences: object = None
    scores: object = None
    features: object = None
    highlights: object = None


def is_blank(text: str) -> bool:
    """Returns True if `text` has only characters that tokenizers drop: space, control, format, combining and such.

    A sentence of only such characters would be classified without its text.
    """
    return all(unicodedata.category(char) in _DROPPED_CATEGORIES or char == "\ufffd" for char in text)


def check_record(raw: RawRecord, source: str, record_index: int, *, options: ReadOptions) -> Document | Reject:
    """Returns the document in a raw record, or the reason why there is none."""
    doc_id = None
    try:
        doc_id = _check_id(raw.doc_id)
        if raw.sentences is None:
            return Document(doc_id, source, record_index, sections=_check_sections(raw, options))
        sentences = _check_sentences(raw.sentences, options)
        return Document(
            doc_id,
            source,
            record_index,
            sentences=sentences,
            labels=_check_labels(raw.labels, len(sentences), options),
            confidences=_check_confidences(raw.confidences, len(sentences)),
            scores=_check_numbers("scores", raw.scores, len(sentences)),
            features=_check_features(raw.features, len(sentences)),
            highlights=_check_highlights(raw.highlights),
        )
    except Problem as problem:
        return Reject(source, record_index, problem.reason, problem.message, doc_id, raw.beginning())


def reject_document(document: Document, reason: Reason, message: str, *, excerpt: str) -> Reject:
    """Returns the reject that stands for a document."""
    return Reject(document.source, document.record_index, reason, message, document.doc_id, excerpt)


def missing_columns(names: Sequence[str], needed: Mapping[str, str]) -> Problem | None:
    """Returns the problem of a table without a needed column, given with the option that names it; else None."""
    missing = [f"{column!r} ({option})" for option, column in needed.items() if column not in names]
    if not missing:
        return None
    message = f"there is no column {' and no column '.join(missing)}; the columns are {', '.join(map(repr, names))}"
    return Problem(Reason.UNREADABLE_SOURCE, message)


def wrong_features(document: Document, width: int) -> str | None:
    """Returns what is wrong with a document's features for a model that takes `width` of them; None if nothing is."""
    if not width:
        return None
    if document.features is None:
        return f"the document has no features; {width} are wanted for each sentence"
    found = {len(row) for row in document.features}
    return None if found == {width} else f"there are {max(found)} features a sentence; {width} are wanted"


def _check_id(doc_id: object) -> str:
    if doc_id is None:
        raise Problem(Reason.NO_ID, "the record has no id")
    if isinstance(doc_id, int) and not isinstance(doc_id, bool):
        return str(doc_id)
    if not isinstance(doc_id, str):
        raise Problem(Reason.WRONG_TYPE, f"the id is {_kind(doc_id)}, not text or a whole number")
    if is_blank(doc_id):
        raise Problem(Reason.NO_ID, "the id is empty")
    _check_encoding("the id", doc_id)
    return _check_name("the id", doc_id.strip())


def _check_sections(raw: RawRecord, options: ReadOptions) -> tuple[Section, ...]:
    for name in ("labels", "confidences", "scores", "features"):
        if getattr(raw, name) is not None:
            raise Problem(Reason.WRONG_LENGTH, f"{name} are given for each sentence, but no sentences")
    sections = raw.sections
    if raw.text is not None:
        if not isinstance(raw.text, str):
            raise Problem(Reason.WRONG_TYPE, f"the text is {_kind(raw.text)}, not text")
        sections = (Section(raw.text),)
    sections = tuple(section for section in sections if not is_blank(section.text))
    if not sections:
        raise Problem(Reason.NO_TEXT, "the record has no text")
    length = sum(len(section.text) for section in sections)
    if length > options.max_text_chars:
        raise Problem(Reason.TOO_LARGE, f"the text has {length} characters; at most {options.max_text_chars} are read")
    for section in sections:
        _check_encoding("the text", section.text)
    return sections


def _check_sentences(sentences: object, options: ReadOptions) -> tuple[str, ...]:
    items = _check_list("sentences", sentences)
    if not items:
        raise Problem(Reason.NO_TEXT, "the list of sentences is empty")
    if len(items) > options.max_sentences:
        raise Problem(Reason.TOO_LARGE, f"there are {len(items)} sentences; at most {options.max_sentences} are read")
    checked = []
    for index, sentence in enumerate(items):
        if not isinstance(sentence, str):
            raise Problem(Reason.WRONG_TYPE, f"sentence {index} is {_kind(sentence)}, not text")
        if len(sentence) > options.max_sentence_chars:
            message = f"sentence {index} has {len(sentence)} characters; at most {options.max_sentence_chars} are read"
            raise Problem(Reason.TOO_LARGE, message)
        if is_blank(sentence):
            raise Problem(Reason.NO_TEXT, f"sentence {index} is empty")
        _check_encoding(f"sentence {index}", sentence)
        checked.append(sentence)
    return tuple(checked)


def _check_labels(labels: object, count: int, options: ReadOptions) -> tuple[str, ...] | None:
    if labels is None:
        return None
    checked = []
    for index, label in enumerate(_check_list("labels", labels, count)):
        if not isinstance(label, str) or is_blank(label):
            raise Problem(Reason.WRONG_TYPE, f"label {index} is {_kind(label)}, not a name")
        _check_encoding(f"label {index}", label)
        target = options.label_map.find(label) if options.label_map else normalize_label(label)
        if target is None:
            raise Problem(Reason.UNKNOWN_LABEL, f"label {index} is {_kind(label)}, which the label map does not have")
        if any(unicodedata.category(char) == "Cc" for char in target):
            raise Problem(Reason.WRONG_TYPE, f"label {index} is {_kind(label)}, which has a control character")
        checked.append(_check_name(f"label {index}", target))
    return tuple(checked)


def _check_confidences(confidences: object, count: int) -> tuple[float, ...] | None:
    checked = _check_numbers("confidences", confidences, count)
    for index, confidence in enumerate(checked or ()):
        if not 0 <= confidence <= 1:
            raise Problem(Reason.WRONG_TYPE, f"confidence {index} is {confidence}, not between 0 and 1")
    return checked


def _check_features(features: object, count: int) -> tuple[tuple[float, ...], ...] | None:
    if features is None:
        return None
    rows = _check_list("features", features, count)
    width = len(rows[0]) if isinstance(rows[0], list) else None
    return tuple(_check_numbers(f"features of sentence {index}", row, width) or () for index, row in enumerate(rows))


def _check_highlights(highlights: object) -> tuple[str, ...] | None:
    if highlights is None:
        return None
    checked = []
    for index, highlight in enumerate(_check_list("highlights", highlights)):
        if not isinstance(highlight, str):
            raise Problem(Reason.WRONG_TYPE, f"highlight {index} is {_kind(highlight)}, not text")
        _check_encoding(f"highlight {index}", highlight)
        checked.append(highlight)
    return tuple(checked)


def _check_numbers(name: str, numbers: object, count: int | None) -> tuple[float, ...] | None:
    if numbers is None:
        return None
    checked = []
    for index, number in enumerate(_check_list(name, numbers, count)):
        try:
            value = math.nan if isinstance(number, bool) or not isinstance(number, int | float) else float(number)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise Problem(Reason.WRONG_TYPE, f"{name}: number {index} is {_kind(number)}, not a finite number")
        if not abs(value) < _FLOAT32_OVERFLOW:
            raise Problem(Reason.WRONG_TYPE, f"{name}: number {index} is {value}, too large for 32 bits")
        checked.append(value)
    return tuple(checked)


def _check_list(name: str, items: object, count: int | None = None) -> list[object]:
    if not isinstance(items, list):
        raise Problem(Reason.WRONG_TYPE, f"{name}: {_kind(items)}, not a list")
    if count is not None and len(items) != count:
        raise Problem(Reason.WRONG_LENGTH, f"{name}: the list has {len(items)} entries instead of {count}")
    return items


def _check_name(what: str, name: str) -> str:
    """Returns an id or a label, which is repeated in every row of its document, if it is not too long."""
    size = len(name.encode("utf-8"))
    if size > MAX_NAME_BYTES:
        raise Problem(Reason.TOO_LARGE, f"{what} has {size} bytes; at most {MAX_NAME_BYTES} are read")
    return name


def _check_encoding(what: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{what} holds bytes or escapes that are not Unicode text, at character {error.start}"
        raise Problem(Reason.INVALID_ENCODING, message) from error


def _kind(value: object) -> str:
    """Returns a description of a value of the wrong type, short enough for a message."""
    names = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
    if type(value) in names:
        return names[type(value)]
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
