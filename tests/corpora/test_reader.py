"""Reading JSON lines and PubMed-RCT text, telling formats apart, and the checks that every format shares."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import UserError
from model.records import Document, Reason, Reject, Section
from pipelines.corpora.checks import is_blank
from pipelines.corpora.formats import FORMATS
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import detect_format, read_records


def read(content: bytes, source: str = "a.jsonl", **options: Any) -> list[Document | Reject]:
    items = list(read_records(io.BytesIO(content), source, ReadOptions(**options)))
    assert [item.record_index for item in items] == list(range(len(items)))
    assert {item.source for item in items} <= {source}
    return items


def read_json(*records: object, **options: Any) -> list[Document | Reject]:
    return read("".join(json.dumps(record) + "\n" for record in records).encode(), **options)


def only_reject(items: list[Document | Reject]) -> Reject:
    (item,) = items
    assert isinstance(item, Reject)
    return item


class Breaking(io.RawIOBase):
    """A stream that fails after its content, as a compressed file does that breaks off."""

    def __init__(self, content: bytes, error: Exception) -> None:
        self._content = io.BytesIO(content)
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._content.readinto(buffer)
        if not size:
            raise self._error
        return size


def test_our_keys() -> None:
    record = {
        "doc_id": "d1",
        "sentences": ["One.", "Two."],
        "labels": ["a", " b "],
        "confidences": [1, 0.5],
        "scores": [0.25, -2],
        "features": [[1, 2.5], [3, 4]],
    }
    assert read_json(record) == [
        Document(
            "d1",
            "a.jsonl",
            0,
            sentences=("One.", "Two."),
            labels=("a", "b"),
            confidences=(1.0, 0.5),
            scores=(0.25, -2.0),
            features=((1.0, 2.5), (3.0, 4.0)),
        )
    ]


def test_allenai_keys() -> None:
    record = {
        "abstract_id": 0,
        "sentences": ["One.", "Two."],
        "labels": ["a", "b"],
        "confs": [0.5, 1],
        "highlight_scores": [0.1, 0.2],
        "abstract_scores": [0.3, 0.4],
    }
    assert read_json(record) == [
        Document(
            "0",
            "a.jsonl",
            0,
            sentences=("One.", "Two."),
            labels=("a", "b"),
            confidences=(0.5, 1.0),
            scores=(0.1, 0.2),
            features=((0.3,), (0.4,)),
        )
    ]


def test_text_becomes_one_section_as_it_stands() -> None:
    assert read_json({"doc_id": 7, "text": " One. Two.\n"}) == [
        Document("7", "a.jsonl", 0, sections=(Section(" One. Two.\n"),))
    ]


def test_named_keys_and_sentences_before_text() -> None:
    record = {"id": "x", "abstract": "Other.", "sents": ["One."], "roles": ["a"], "labels": ["ignored", "too"]}
    options = {
        "id_column": "id",
        "text_column": "abstract",
        "sentences_column": "sents",
        "labels_column": "roles",
    }
    assert read_json(record, **options) == [Document("x", "a.jsonl", 0, sentences=("One.",), labels=("a",))]


def test_blank_lines_byte_order_mark_and_missing_last_newline() -> None:
    content = b'\xef\xbb\xbf{"doc_id": "a", "text": "x"}\r\n\n  \n{"doc_id": "b", "text": "y"}'
    assert [(item.doc_id, item.record_index) for item in read(content)] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("record", "reason", "words"),
    [
        ({"text": "x"}, Reason.NO_ID, "no id"),
        ({"doc_id": "", "text": "x"}, Reason.NO_ID, "id is empty"),
        ({"doc_id": " \t", "text": "x"}, Reason.NO_ID, "id is empty"),
        ({"doc_id": 1.5, "text": "x"}, Reason.WRONG_TYPE, "id is 1.5"),
        ({"doc_id": True, "text": "x"}, Reason.WRONG_TYPE, "id is true or false"),
        ({"doc_id": "d"}, Reason.NO_TEXT, "no text"),
        ({"doc_id": "d", "text": None}, Reason.NO_TEXT, "no text"),
        ({"doc_id": "d", "text": ""}, Reason.NO_TEXT, "no text"),
        ({"doc_id": "d", "text": " \n\u00a0\u3000"}, Reason.NO_TEXT, "no text"),
        ({"doc_id": "d", "text": "\u0000\u200b\u0007\ufeff\ufffd"}, Reason.NO_TEXT, "no text"),
        ({"doc_id": "d", "text": 5}, Reason.WRONG_TYPE, "text is 5"),
        ({"doc_id": "d", "text": ["x"]}, Reason.WRONG_TYPE, "text is a list"),
        ({"doc_id": "d", "text": "x", "labels": ["a"]}, Reason.WRONG_LENGTH, "labels are given"),
        ({"doc_id": "d", "sentences": []}, Reason.NO_TEXT, "list of sentences is empty"),
        ({"doc_id": "d", "sentences": "One."}, Reason.WRONG_TYPE, "not a list"),
        ({"doc_id": "d", "sentences": {"0": "One."}}, Reason.WRONG_TYPE, "an object, not a list"),
        ({"doc_id": "d", "sentences": ["a", None]}, Reason.WRONG_TYPE, "sentence 1 is null"),
        ({"doc_id": "d", "sentences": ["a", ""]}, Reason.NO_TEXT, "sentence 1 is empty"),
        ({"doc_id": "d", "sentences": ["a", " \u200b"]}, Reason.NO_TEXT, "sentence 1 is empty"),
        ({"doc_id": "d", "sentences": ["a", "b"], "labels": ["x"]}, Reason.WRONG_LENGTH, "1 entries instead of 2"),
        ({"doc_id": "d", "sentences": ["a"], "labels": []}, Reason.WRONG_LENGTH, "0 entries instead of 1"),
        ({"doc_id": "d", "sentences": ["a"], "labels": [""]}, Reason.WRONG_TYPE, "label 0"),
        ({"doc_id": "d", "sentences": ["a"], "labels": [3]}, Reason.WRONG_TYPE, "label 0 is 3"),
        ({"doc_id": "d", "sentences": ["a"], "labels": "x"}, Reason.WRONG_TYPE, "labels: 'x', not a list"),
        ({"doc_id": "d", "sentences": ["a"], "confidences": [1, 1]}, Reason.WRONG_LENGTH, "confidences"),
        ({"doc_id": "d", "sentences": ["a"], "confs": [1.5]}, Reason.WRONG_TYPE, "between 0 and 1"),
        ({"doc_id": "d", "sentences": ["a"], "confs": [True]}, Reason.WRONG_TYPE, "not a finite number"),
        ({"doc_id": "d", "sentences": ["a"], "scores": [float("nan")]}, Reason.WRONG_TYPE, "not a finite number"),
        ({"doc_id": "d", "sentences": ["a"], "scores": [10**400]}, Reason.WRONG_TYPE, "not a finite number"),
        ({"doc_id": "d", "sentences": ["a"], "scores": []}, Reason.WRONG_LENGTH, "scores"),
        ({"doc_id": "d", "sentences": ["a"], "features": [[1], [2]]}, Reason.WRONG_LENGTH, "features"),
        ({"doc_id": "d", "sentences": ["a", "b"], "features": [[1], [2, 3]]}, Reason.WRONG_LENGTH, "sentence 1"),
        ({"doc_id": "d", "sentences": ["a"], "features": [1]}, Reason.WRONG_TYPE, "sentence 0"),
        ({"doc_id": "d", "text": "a\ud800b"}, Reason.INVALID_ENCODING, "at character 1"),
        ({"doc_id": "d", "sentences": ["a", "\udfff"]}, Reason.INVALID_ENCODING, "sentence 1"),
        ({"doc_id": "\ud800", "text": "a"}, Reason.INVALID_ENCODING, "the id"),
        ({"doc_id": "d", "sentences": ["a"], "labels": ["\ud800"]}, Reason.INVALID_ENCODING, "label 0"),
        ([1], Reason.WRONG_TYPE, "not a JSON object"),
        ("text", Reason.WRONG_TYPE, "not a JSON object"),
        (None, Reason.WRONG_TYPE, "not a JSON object"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_reject(record: object, reason: Reason, words: str) -> None:
    before, reject, after = read_json({"doc_id": "a", "text": "x"}, record, {"doc_id": "z", "text": "y"})
    assert isinstance(before, Document) and isinstance(after, Document)
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert words in reject.message
    assert reject.excerpt == json.dumps(record)
    assert reject.doc_id == ("d" if isinstance(record, dict) and record.get("doc_id") == "d" else None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"doc_id": "d", "text": "x"', Reason.BROKEN_RECORD),
        (b'{"doc_id": "d", "text": "x"} {}', Reason.BROKEN_RECORD),
        (b"nonsense", Reason.BROKEN_RECORD),
        (b'{"doc_id": ' + b"9" * 5000 + b"}", Reason.BROKEN_RECORD),
        (b'{"doc_id": ' + b"[" * 100_000, Reason.BROKEN_RECORD),
        (b'{"doc_id": "d", "text": "\xff\xfe"}', Reason.INVALID_ENCODING),
        (b'{"doc_id": "d", "text": "caf\xe9"}', Reason.INVALID_ENCODING),
        (b"\x00\x00\x00", Reason.BROKEN_RECORD),
    ],
)
def test_a_broken_line_is_one_reject_with_its_line_number(line: bytes, reason: Reason) -> None:
    good = b'{"doc_id": "d", "text": "x"}\n'
    first, reject, last = read(good + line + b"\n" + good)
    assert isinstance(first, Document) and isinstance(last, Document)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.record_index) == (reason, 1)
    assert "line 2" in reject.message
    assert len(reject.excerpt.encode()) <= 1024


def test_odd_control_characters_do_not_cost_a_document() -> None:
    (document,) = read_json({"doc_id": "d", "sentences": ["a\u0000b\u0007"]})
    assert isinstance(document, Document)
    assert document.sentences == ("a\u0000b\u0007",)


def test_a_line_of_50_mb_is_never_held_whole() -> None:
    class Endless(io.RawIOBase):
        left = 50_000_000
        longest_read = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            size = min(len(buffer), self.left)
            self.longest_read = max(self.longest_read, size)
            buffer[:size] = b"x" * size
            self.left -= size
            return size

    stream = Endless()
    reject = only_reject(list(read_records(io.BufferedReader(stream), "a.jsonl", ReadOptions(max_record_bytes=1000))))
    assert (reject.reason, reject.excerpt) == (Reason.TOO_LARGE, "x" * 1000 + "xx")
    assert stream.left == 0
    assert stream.longest_read <= 1024 * 1024


def test_the_longest_line_is_exact() -> None:
    line = b'{"doc_id": "d", "text": "xyz"}'
    for end in (b"\n", b"\r\n", b""):
        assert isinstance(read(line + end, max_record_bytes=len(line))[0], Document)
        assert only_reject(read(line + end, max_record_bytes=len(line) - 1)).reason == Reason.TOO_LARGE
    follower = b'{"doc_id": "e", "text": "x"}'
    items = read(line + b"\n" + follower, max_record_bytes=len(line) - 1)
    assert [type(item) for item in items] == [Reject, Document]


def test_limits_on_sentences_and_text() -> None:
    assert isinstance(read_json({"doc_id": "d", "sentences": ["a"] * 10_000})[0], Document)
    for record in (
        {"doc_id": "d", "sentences": ["a"] * 100_000},
        {"doc_id": "d", "sentences": ["a", "b" * 1_000_000]},
        {"doc_id": "d", "text": "a" * 200_001},
    ):
        reject = only_reject(read_json(record))
        assert (reject.reason, reject.doc_id) == (Reason.TOO_LARGE, "d")


def test_a_label_map_renames_labels_and_rejects_unknown_ones() -> None:
    label_map = LabelMap.parse("labels: [methods]\nmap: {Method: methods}", "m.yaml")
    good, bad = read_json(
        {"doc_id": "a", "sentences": ["x", "y"], "labels": ["METHOD:", "methods"]},
        {"doc_id": "b", "sentences": ["x"], "labels": ["other"]},
        label_map=label_map,
    )
    assert isinstance(good, Document) and good.labels == ("methods", "methods")
    assert isinstance(bad, Reject) and bad.reason == Reason.UNKNOWN_LABEL and "'other'" in bad.message


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_source_is_one_reject(format: str) -> None:
    reject = only_reject(read(b"", format=format))
    assert (reject.reason, reject.message) == (Reason.UNREADABLE_SOURCE, "the file is empty")


@pytest.mark.parametrize("error", [EOFError("ended early"), OSError("gone")])
def test_what_came_before_a_break_is_kept(error: Exception) -> None:
    stream = io.BufferedReader(Breaking(b'{"doc_id": "a", "text": "x"}\n{"doc_id": "b", "te', error))
    document, reject = read_records(stream, "a.jsonl", ReadOptions())
    assert isinstance(document, Document) and document.doc_id == "a"
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.record_index) == (Reason.BROKEN_SOURCE, 1)
    assert str(error) in reject.message


def test_a_source_that_breaks_at_once_is_one_reject() -> None:
    stream = io.BufferedReader(Breaking(b"", EOFError("ended early")))
    assert only_reject(list(read_records(stream, "a", ReadOptions()))).reason == Reason.BROKEN_SOURCE


def test_the_stream_stays_open() -> None:
    stream = io.BytesIO(b'{"doc_id": "a", "text": "x"}')
    list(read_records(stream, "a.jsonl", ReadOptions()))
    assert not stream.closed


RCT = b"###1\nBACKGROUND\tWhy .\nMETHODS\tHow .\n\n###2\nRESULTS\tWhat\tthen .\n"


def test_pubmed_rct() -> None:
    assert read(RCT, "dev.txt") == [
        Document("1", "dev.txt", 0, sentences=("Why .", "How ."), labels=("BACKGROUND", "METHODS")),
        Document("2", "dev.txt", 1, sentences=("What\tthen .",), labels=("RESULTS",)),
    ]


def test_pubmed_rct_abstracts_that_cannot_be_used() -> None:
    content = (
        b"###1\r\nA\tx\r\n###2\n###3\nno tab\nA\tx\n\nA\twithout id\n\n\n"
        b"###4\nA\t\xff\n\n###5\nA\t \n\n###6\n\ty\n\n###\nA\tx\n\n###7\nA\tx"
    )
    assert [
        (item.record_index, item.reason if isinstance(item, Reject) else item.doc_id)
        for item in read(content, format="pubmed_rct")
    ] == [
        (0, "1"),
        (1, Reason.NO_TEXT),
        (2, Reason.BROKEN_RECORD),
        (3, Reason.NO_ID),
        (4, Reason.INVALID_ENCODING),
        (5, Reason.NO_TEXT),
        (6, Reason.WRONG_TYPE),
        (7, Reason.NO_ID),
        (8, "7"),
    ]


def test_pubmed_rct_limits() -> None:
    content = b"###1\n" + b"A\tx\n" * 50 + b"\n###2\nA\t" + b"y" * 200 + b"\n\n###3\nA\tx\n"
    items = read(content, format="pubmed_rct", max_sentences=40, max_record_bytes=100)
    assert [item.reason if isinstance(item, Reject) else item.doc_id for item in items] == [
        Reason.TOO_LARGE,
        Reason.TOO_LARGE,
        "3",
    ]


@pytest.mark.parametrize(
    ("path", "head", "format"),
    [
        ("a.jsonl", b"", "jsonl"),
        ("a.jsonl.gz", b"", "jsonl"),
        ("gs://b/A.XML.GZ", b"", "medline"),
        ("a.csv.bz2", b"", "csv"),
        ("a.tsv.zst", b"", "tsv"),
        ("a.parquet", b"", "parquet"),
        ("a.b.txt", b"###12\nA\tx", "pubmed_rct"),
        ("a.txt", b' \n{"doc_id": 1}', "jsonl"),
        ("a.gz", b'\xef\xbb\xbf{"doc_id": 1}', "jsonl"),
        ("a", b"PAR1\x15", "parquet"),
        ("a", b'<?xml version="1.0"?>\n<!DOCTYPE PubmedArticleSet>\n<PubmedArticleSet>', "medline"),
        ("a", b"<PubmedBookArticle>", "medline"),
        ("a.html", b"<html><p>PubmedArticle</p></html>", None),
        ("a.txt", b"Some text.", None),
        ("a", b"", None),
    ],
)
def test_detect_format(path: str, head: bytes, format: str | None) -> None:
    assert detect_format(path, head) == format


def test_an_unknown_format_is_one_reject_that_says_what_to_do() -> None:
    reject = only_reject(read(b"Some text.", "notes.txt"))
    assert reject.reason == Reason.UNREADABLE_SOURCE
    assert "name one of jsonl, medline" in reject.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "xls"}, "format is 'xls'; use one of jsonl"),
        ({"id_column": ""}, "id_column is empty"),
        ({"max_sentences": 0}, "max_sentences is 0; it must be at least 1"),
    ],
)
def test_wrong_options_say_what_to_mend(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ReadOptions(**options)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b\u0000", "\u0301", "\ufffd", "\ue000", "\u2028"])
def test_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " .", "\u4e2d", "\U0001fae8", "-", "\u200bx"])
def test_not_blank(text: str) -> None:
    assert not is_blank(text)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(FORMATS))
def test_no_content_raises(content: bytes, format: str) -> None:
    read(content, format=format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["doc_id", "abstract_id", "text", "sentences", "labels", "confs", "scores", "features"])


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, JSON) | JSON, max_size=5))
def test_records_in_are_items_out(records: list[object]) -> None:
    items = read_json(*records, format="jsonl")
    assert len(items) == max(len(records), 1)  # an empty file is one reject
    for item in items:
        if isinstance(item, Document):
            assert bool(item.sentences) != bool(item.sections)
            assert "".join((item.doc_id, *item.sentences)).encode("utf-8")
