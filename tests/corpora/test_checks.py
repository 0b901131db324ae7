"""The checks of records by themselves: every message in full, and every limit at its last good value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.checks import RawRecord, check_record, is_blank, reject_document, wrong_features
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions

GOOD: dict[str, Any] = {"doc_id": "d", "sentences": ["One.", "Two."]}


def check(fields: dict[str, Any], **options: Any) -> Document | Reject:
    return check_record(RawRecord(lambda: "beginning", **fields), "a.jsonl", 3, options=ReadOptions(**options))


def test_all_fields() -> None:
    fields = {
        "labels": [" a", "b\n"],
        "confidences": [0, 1],
        "scores": [-1.5, 2],
        "features": [[1, 2.5], [0, -1]],
        "highlights": ["", "Two."],
    }
    assert check({**GOOD, "doc_id": " d\n", **fields, "text": "not read"}) == Document(
        "d",
        "a.jsonl",
        3,
        sentences=("One.", "Two."),
        labels=("a", "b"),
        confidences=(0.0, 1.0),
        scores=(-1.5, 2.0),
        features=((1.0, 2.5), (0.0, -1.0)),
        highlights=("", "Two."),
    )
    assert check({**GOOD, "features": [[], []]}) == Document(
        "d", "a.jsonl", 3, sentences=("One.", "Two."), features=((), ())
    )


def test_text() -> None:
    sections = (Section("One.", "aim", "AIM"), Section(" \n"), Section("Two."))
    assert check({"doc_id": 7, "sections": sections}) == Document(
        "7", "a.jsonl", 3, sections=(Section("One.", "aim", "AIM"), Section("Two."))
    )
    assert check({"doc_id": "d", "sections": sections, "text": "Three."}) == Document(
        "d", "a.jsonl", 3, sections=(Section("Three."),)
    )


NOT_TEXT = "holds bytes or escapes that are not Unicode text, at character"


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"doc_id": None}, Reason.NO_ID, "the record has no id"),
        ({"doc_id": "\u200b "}, Reason.NO_ID, "the id is empty"),
        ({"doc_id": False}, Reason.WRONG_TYPE, "the id is true or false, not text or a whole number"),
        ({"doc_id": 0.5}, Reason.WRONG_TYPE, "the id is 0.5, not text or a whole number"),
        ({"doc_id": ["d"]}, Reason.WRONG_TYPE, "the id is a list, not text or a whole number"),
        ({"doc_id": "a\udc80"}, Reason.INVALID_ENCODING, f"the id {NOT_TEXT} 1"),
        ({"sentences": {}}, Reason.WRONG_TYPE, "sentences: an object, not a list"),
        ({"sentences": 5}, Reason.WRONG_TYPE, "sentences: 5, not a list"),
        ({"sentences": []}, Reason.NO_TEXT, "the list of sentences is empty"),
        ({"sentences": ["One.", None]}, Reason.WRONG_TYPE, "sentence 1 is null, not text"),
        ({"sentences": [b"x" * 60]}, Reason.WRONG_TYPE, f"sentence 0 is b'{'x' * 38}..., not text"),
        ({"sentences": [b"x" * 37]}, Reason.WRONG_TYPE, f"sentence 0 is b'{'x' * 37}', not text"),
        ({"sentences": [b"x" * 38]}, Reason.WRONG_TYPE, f"sentence 0 is b'{'x' * 38}..., not text"),
        ({"sentences": ["One.", " "]}, Reason.NO_TEXT, "sentence 1 is empty"),
        ({"sentences": ["One.", "ab\ud800"]}, Reason.INVALID_ENCODING, f"sentence 1 {NOT_TEXT} 2"),
        ({"labels": ["a"]}, Reason.WRONG_LENGTH, "labels: the list has 1 entries instead of 2"),
        ({"labels": "ab"}, Reason.WRONG_TYPE, "labels: 'ab', not a list"),
        ({"labels": ["a", ""]}, Reason.WRONG_TYPE, "label 1 is '', not a name"),
        ({"labels": ["a", 1]}, Reason.WRONG_TYPE, "label 1 is 1, not a name"),
        ({"labels": ["a\x00", "a"]}, Reason.WRONG_TYPE, "label 0 is 'a\\x00', which has a control character"),
        ({"labels": ["a", "\u00e9" * 513]}, Reason.TOO_LARGE, "label 1 has 1026 bytes; at most 1024 are read"),
        ({"labels": ["\ud800", "a"]}, Reason.INVALID_ENCODING, f"label 0 {NOT_TEXT} 0"),
        (
            {"scores": [1, 3.4028235677973366e38]},
            Reason.WRONG_TYPE,
            "scores: number 1 is 3.4028235677973366e+38, too large for 32 bits",
        ),
        (
            {"features": [[1], [-1e39]]},
            Reason.WRONG_TYPE,
            "features of sentence 1: number 0 is -1e+39, too large for 32 bits",
        ),
        ({"confidences": [1, 1.01]}, Reason.WRONG_TYPE, "confidence 1 is 1.01, not between 0 and 1"),
        ({"confidences": [-0.5, 1]}, Reason.WRONG_TYPE, "confidence 0 is -0.5, not between 0 and 1"),
        ({"confidences": [1]}, Reason.WRONG_LENGTH, "confidences: the list has 1 entries instead of 2"),
        ({"scores": [1, "2"]}, Reason.WRONG_TYPE, "scores: number 1 is '2', not a finite number"),
        ({"scores": [True, 1]}, Reason.WRONG_TYPE, "scores: number 0 is true or false, not a finite number"),
        ({"scores": [math.inf, 1]}, Reason.WRONG_TYPE, "scores: number 0 is inf, not a finite number"),
        ({"scores": [1, math.nan]}, Reason.WRONG_TYPE, "scores: number 1 is nan, not a finite number"),
        (
            {"scores": [1, 10**400]},
            Reason.WRONG_TYPE,
            f"scores: number 1 is 1{'0' * 39}..., not a finite number",
        ),
        ({"scores": {}}, Reason.WRONG_TYPE, "scores: an object, not a list"),
        ({"scores": [1, 2, 3]}, Reason.WRONG_LENGTH, "scores: the list has 3 entries instead of 2"),
        ({"features": 1}, Reason.WRONG_TYPE, "features: 1, not a list"),
        ({"features": [[1]]}, Reason.WRONG_LENGTH, "features: the list has 1 entries instead of 2"),
        (
            {"features": [[1], [1, 2]]},
            Reason.WRONG_LENGTH,
            "features of sentence 1: the list has 2 entries instead of 1",
        ),
        ({"features": [1, [1]]}, Reason.WRONG_TYPE, "features of sentence 0: 1, not a list"),
        (
            {"features": [[1], [None]]},
            Reason.WRONG_TYPE,
            "features of sentence 1: number 0 is null, not a finite number",
        ),
        ({"highlights": "x"}, Reason.WRONG_TYPE, "highlights: 'x', not a list"),
        ({"highlights": ["x", 2]}, Reason.WRONG_TYPE, "highlight 1 is 2, not text"),
        ({"highlights": ["x", "\ud800"]}, Reason.INVALID_ENCODING, f"highlight 1 {NOT_TEXT} 0"),
        ({"sentences": None, "text": None}, Reason.NO_TEXT, "the record has no text"),
        ({"sentences": None, "text": "\ufffd"}, Reason.NO_TEXT, "the record has no text"),
        ({"sentences": None, "text": {"a": 1}}, Reason.WRONG_TYPE, "the text is an object, not text"),
        ({"sentences": None, "text": "abc\ud800"}, Reason.INVALID_ENCODING, f"the text {NOT_TEXT} 3"),
        *(
            (
                {"sentences": None, "text": "x", name: []},
                Reason.WRONG_LENGTH,
                f"{name} are given for each sentence, but no sentences",
            )
            for name in ("labels", "confidences", "scores", "features")
        ),
    ],
)
def test_a_record_that_cannot_be_used(fields: dict[str, Any], reason: Reason, message: str) -> None:
    doc_id = None if "doc_id" in fields else "d"
    assert check(GOOD | fields) == Reject("a.jsonl", 3, reason, message, doc_id, "beginning")


@pytest.mark.parametrize(
    ("fields", "limits", "message"),
    [
        ({"sentences": ["a"] * 3}, {"max_sentences": 2}, "there are 3 sentences; at most 2 are read"),
        (
            {"sentences": ["a", "b" * 6]},
            {"max_sentence_chars": 5},
            "sentence 1 has 6 characters; at most 5 are read",
        ),
        ({"text": "b" * 6}, {"max_text_chars": 5}, "the text has 6 characters; at most 5 are read"),
        (
            {"sections": (Section("abc"), Section("def"))},
            {"max_text_chars": 5},
            "the text has 6 characters; at most 5 are read",
        ),
    ],
)
def test_limits(fields: dict[str, Any], limits: dict[str, int], message: str) -> None:
    assert check({"doc_id": "d", **fields}, **limits) == Reject(
        "a.jsonl", 3, Reason.TOO_LARGE, message, "d", "beginning"
    )
    assert isinstance(check({"doc_id": "d", **fields}, **{name: most + 1 for name, most in limits.items()}), Document)


def test_an_id_is_bounded() -> None:
    for doc_id, size in (("x" * 1025, 1025), ("\u00e9" * 513, 1026)):
        message = f"the id has {size} bytes; at most 1024 are read"
        assert check({**GOOD, "doc_id": doc_id}) == Reject("a.jsonl", 3, Reason.TOO_LARGE, message, None, "beginning")
    for doc_id in ("x" * 1024, "\u00e9" * 512, f" {'x' * 1024} "):
        found = check({**GOOD, "doc_id": doc_id})
        assert isinstance(found, Document) and found.doc_id == doc_id.strip()


def test_numbers_up_to_the_largest_of_32_bits() -> None:
    numbers = (3.4028235677973362e38, -3.4028235677973362e38)
    found = check({**GOOD, "scores": list(numbers)})
    assert isinstance(found, Document) and found.scores == numbers
    assert np.isfinite(np.array(numbers, np.float32)).all()


def test_labels_are_normalized() -> None:
    found = check({**GOOD, "labels": ["\ta\n b\u2028c ", "e\u0301t\u00e9"]})
    assert isinstance(found, Document) and found.labels == ("a b c", "\u00e9t\u00e9")
    assert isinstance(check({**GOOD, "labels": ["a", "A" * 1024]}), Document)


def test_label_maps() -> None:
    label_map = LabelMap.parse("labels: [methods]\nmap: {Method: methods}", "m.yaml")
    found = check({**GOOD, "labels": ["METHOD:", " methods"]}, label_map=label_map)
    assert isinstance(found, Document) and found.labels == ("methods", "methods")
    message = "label 1 is 'other', which the label map does not have"
    assert check({**GOOD, "labels": ["method", "other"]}, label_map=label_map) == Reject(
        "a.jsonl", 3, Reason.UNKNOWN_LABEL, message, "d", "beginning"
    )


def test_features_that_a_model_takes() -> None:
    none = Document("d", "a", 0, sentences=("One.",))
    two = Document("d", "a", 0, sentences=("One.",), features=((1.0, 2.0),))
    assert wrong_features(none, 0) is wrong_features(two, 0) is wrong_features(two, 2) is None
    assert wrong_features(none, 2) == "the document has no features; 2 are wanted for each sentence"
    assert wrong_features(two, 3) == "there are 2 features a sentence; 3 are wanted"


@pytest.mark.parametrize("char", ["\x07", "\u200b", "\ue000", " ", "\u2028", "\u2029", "\u0301", "\ufffd"])
def test_each_kind_of_character_that_tokenizers_drop(char: str) -> None:
    assert is_blank(char)
    assert not is_blank(f"{char}a{char}")


def test_the_reject_of_a_document() -> None:
    document = Document("d", "a.jsonl", 3, sentences=("One.",))
    assert reject_document(document, Reason.UNLABELLED, "no labels", excerpt="One.") == Reject(
        "a.jsonl", 3, Reason.UNLABELLED, "no labels", "d", "One."
    )
