"""Splitting text into sentences, and documents with it."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.checks import is_blank
from pipelines.corpora.sentences import SentenceSplitter, split_document


@pytest.fixture(scope="module")
def splitter() -> SentenceSplitter:
    return SentenceSplitter()


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence."],
        ["No full stop"],
        ["We gave 5 mg.", "Then we waited."],
        ["Patients (n = 12; 3.5% vs. 4.1%) improved.", "P was 0.05."],
        ["Doses were given i.v. and s.c. in rats, e.g. Wistar rats.", "They were fed."],
        ["As in Smith et al. 2019, see Fig. 3 and Eq. 4.", "It held."],
        ["Was it so?", "It was!", "(Indeed.)", "Good."],
        ["Escherichia coli and Salmonella sp. were grown.", "Both grew."],
        ['He said "stop."', "We stopped."],
        ["It worked.", "RESULTS: It did."],
        ["It rose by 5%.", "MATERIALS AND METHODS: We looked."],
        ["Text from p.RESULT and a.BC stays."],
        ["Those of the dept. Medicine helped."],
    ],
)
def test_splitting(splitter: SentenceSplitter, sentences: list[str]) -> None:
    glued = any(sentence.split(":")[0].isupper() for sentence in sentences)
    assert splitter.split(("" if glued else " ").join(sentences)) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n\t", []),
        ("\u200b", []),
        ("  One.  Two. \n", ["One.", "Two."]),
        ("A title\n\nSome text\n \t\r\n\r\nmore", ["A title", "Some text", "more"]),
        ("A title\r\n\r\nSome text", ["A title", "Some text"]),
        ("a line\r\nthat goes on", ["a line\r\nthat goes on"]),
        ("A\u2029B", ["A", "B"]),
        ("We found:\n- one thing\n- another\n", ["We found:", "- one thing", "- another"]),
        ("Aims\n1. to look\n2) to see\n(3) to win", ["Aims", "1. to look", "2) to see", "(3) to win"]),
        ("doses of 5\n-10 mg", ["doses of 5\n-10 mg"]),
        (
            "\u65b9\u6cd5\u3002\u7ed3\u679c\uff01\u300d\u4e3a",
            ["\u65b9\u6cd5\u3002", "\u7ed3\u679c\uff01\u300d", "\u4e3a"],
        ),
        ("One.\n\n\u200b\n\nTwo.", ["One.\n\n\u200b", "Two."]),
        ("\ufeff\n\nOne.", ["\ufeff\n\nOne."]),
        ("Tab\there\x00and there. Next.", ["Tab\there\x00and there.", "Next."]),
    ],
)
def test_splitting_layout(splitter: SentenceSplitter, text: str, sentences: list[str]) -> None:
    assert splitter.split(text) == sentences


PIECES = st.sampled_from(
    [
        "One",
        " ",
        ".",
        "!",
        "?",
        "\n",
        "\r\n",
        "\u3002",
        "\u200b",
        "\x00",
        "A.",
        "e.g.",
        "RESULTS:",
        "- ",
        "1. ",
        ")",
        '"',
    ]
)


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(PIECES, max_size=40).map("".join))
@example("\x1c.\x85\u200b")
def test_nothing_is_lost(splitter: SentenceSplitter, text: str) -> None:
    spans = splitter.spans(text)
    sentences = splitter.split(text)
    assert all(sentence == sentence.strip() and not is_blank(sentence) for sentence in sentences)
    ends = [0, *(end for _, end in spans)]
    assert all(end <= start < next_end for end, (start, next_end) in zip(ends, spans, strict=False))
    if is_blank(text):
        assert spans == []
    else:
        assert "".join("".join(sentences).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", [".1", "A. B. ", "!", "... ", '." ', "a.\t\n", "\n", "word ", "x", ").", "a?B"])
def test_hostile_text_takes_seconds_at_most(splitter: SentenceSplitter, unit: str) -> None:
    text = unit * (200_000 // len(unit))
    splitter.spans("Load the model.")
    start = time.process_time()
    sentences = splitter.split(text)
    assert time.process_time() - start < 10
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(len(sentence) <= 20_000 for sentence in sentences)


def test_long_text_splits_as_its_parts_do(splitter: SentenceSplitter) -> None:
    sentences = [f"Sentence {i} says that e.g. {i} mg are enough (p < 0.05)." for i in range(2000)]
    assert splitter.split(" ".join(sentences)) == sentences


def test_a_splitter_pickles_small(splitter: SentenceSplitter) -> None:
    assert splitter.split("One. Two.") == ["One.", "Two."]
    pickled = pickle.dumps(splitter)
    assert len(pickled) < 200
    assert pickle.loads(pickled).split("One. Two.") == ["One.", "Two."]


def test_sections_become_sentences_with_their_labels(splitter: SentenceSplitter) -> None:
    document = Document("d", "a.xml", 3, sections=(Section("One. Two.", "methods"), Section("Three", "results", "R")))
    assert split_document(document, splitter) == Document(
        "d", "a.xml", 3, sentences=("One.", "Two.", "Three"), labels=("methods", "methods", "results")
    )


def test_labels_need_every_section(splitter: SentenceSplitter) -> None:
    document = Document("d", "a.xml", 3, sections=(Section("One.", "methods"), Section("Two.")))
    assert split_document(document, splitter) == Document("d", "a.xml", 3, sentences=("One.", "Two."))


def test_given_sentences_stay(splitter: SentenceSplitter) -> None:
    document = Document("d", "a.jsonl", 0, sentences=("One. Two.",), labels=("a",))
    assert split_document(document, splitter) is document


def test_too_many_sentences_or_none_are_a_reject(splitter: SentenceSplitter) -> None:
    many = Document("d", "a.jsonl", 5, sections=(Section("One. Two. Three."),))
    assert split_document(many, splitter, max_sentences=2) == Reject(
        "a.jsonl", 5, Reason.TOO_LARGE, "the text has 3 sentences; from 1 to 2 can be used", "d", "One. Two. Three."
    )
    none = split_document(Document("d", "a.jsonl", 5), splitter)
    assert isinstance(none, Reject) and none.reason == Reason.NO_TEXT
