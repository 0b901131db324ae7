"""Reading MEDLINE XML: what becomes a record, where labels come from, and what broken or hostile XML does."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records


def article(pmid: object, abstract: str, *, more: str = "") -> str:
    inner = f"<Abstract>{abstract}</Abstract>" if abstract else ""
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID>'
        f"<Article><ArticleTitle>Title</ArticleTitle>{inner}</Article>{more}</MedlineCitation></PubmedArticle>"
    )


def text(content: str, **attributes: str) -> str:
    given = "".join(f" {name}='{value}'" for name, value in attributes.items())
    return f"<AbstractText{given}>{content}</AbstractText>"


def article_set(*records: str) -> bytes:
    return f"<?xml version='1.0'?>\n<PubmedArticleSet>\n{''.join(records)}</PubmedArticleSet>".encode()


def read(content: bytes, **options: Any) -> list[Document | Reject]:
    items = list(read_records(io.BytesIO(content), "a.xml", ReadOptions(**options)))
    assert [item.record_index for item in items] == list(range(len(items)))
    return items


def outline(items: list[Document | Reject]) -> list[str | Reason]:
    return [item.reason if isinstance(item, Reject) else item.doc_id for item in items]


def sections(content: str, **options: Any) -> tuple[Section, ...]:
    (document,) = read(article_set(article(1, content)), **options)
    assert isinstance(document, Document)
    return document.sections


def test_labels_come_from_the_category_and_else_from_the_heading() -> None:
    assert sections(
        text("A.", Label="CONTEXT AND SUCH", NlmCategory="BACKGROUND")
        + text("B.", Label="Main Outcomes  and Measures:", NlmCategory="UNASSIGNED")
        + text("C.", Label="FINDINGS")
        + text("D.", Label="METHODS AND RESULTS", NlmCategory="UNASSIGNED")
        + text("E.")
        + text("F.", Label="FINDINGS", NlmCategory="METHODS")
    ) == (
        Section("A.", "background", "CONTEXT AND SUCH"),
        Section("B.", "methods", "Main Outcomes  and Measures:"),
        Section("C.", "results", "FINDINGS"),
        Section("D.", None, "METHODS AND RESULTS"),
        Section("E."),
        Section("F.", "methods", "FINDINGS"),
    )


def test_a_label_map_of_ones_own() -> None:
    label_map = LabelMap.parse("labels: [why, how]\nmap: {background: why, methods: how, FINDINGS: how}", "m.yaml")
    found = sections(
        text("A.", Label="X", NlmCategory="BACKGROUND")
        + text("B.", Label="FINDINGS", NlmCategory="RESULTS")
        + text("C.", Label="CONCLUSIONS", NlmCategory="CONCLUSIONS"),
        label_map=label_map,
    )
    assert [section.label for section in found] == ["why", "how", None]


def test_markup_comments_and_space_are_flattened() -> None:
    content = (
        " CO<sub>2</sub>\n  rose by <i>5<b>%</b></i><!-- not this --> &amp; <?nor this?>fell &#x3b1;"
        '<m:math xmlns:m="http://www.w3.org/1998/Math/MathML"><m:mi>x</m:mi></m:math>. '
    )
    assert sections(text(content)) == (Section("CO2 rose by 5% & fell \u03b1x."),)


def test_empty_sections_are_dropped_and_other_abstracts_are_not_read() -> None:
    (document,) = read(
        article_set(
            article(
                1,
                text("", Label="AIM") + text(" \n ") + text("A.") + "<CopyrightInformation>C</CopyrightInformation>",
                more="<OtherAbstract Type='plain'><AbstractText>Other.</AbstractText></OtherAbstract>",
            )
        )
    )
    assert document == Document("1", "a.xml", 0, sections=(Section("A."),))


def test_records_without_an_abstract_and_deleted_citations() -> None:
    content = article_set(
        article(1, ""),
        article(2, text("A.")),
        article(3, text(" ")),
        "<DeleteCitation><PMID>2</PMID></DeleteCitation>",
        article("", text("A.")),
        "<PubmedArticle/>",
    )
    items = read(content)
    assert outline(items) == [Reason.NO_TEXT, "2", Reason.NO_TEXT, Reason.NO_ID, Reason.BROKEN_RECORD]
    assert isinstance(items[0], Reject)
    assert items[0].doc_id == "1"
    assert items[0].excerpt.startswith("<PubmedArticle><MedlineCitation><PMID")


def test_deletions_are_records_where_they_are_asked_for() -> None:
    content = article_set(
        article(1, text("A.")), "<DeleteCitation><PMID>2</PMID><PMID Version='1'>3</PMID></DeleteCitation>"
    )
    assert outline(read(content)) == ["1"]
    items = read(content, deletions=True)
    assert outline(items) == ["1", Reason.DELETION, Reason.DELETION]
    assert [item.doc_id for item in items] == ["1", "2", "3"]


BOOK = (
    "<PubmedBookArticle><BookDocument><PMID>9</PMID><Book><BookTitle>B</BookTitle></Book>"
    "<Abstract><AbstractText Label='AIMS'>A.</AbstractText></Abstract></BookDocument>"
    "<PubmedBookData/></PubmedBookArticle>"
)


def test_books_and_single_records() -> None:
    book = Document("9", "a.xml", 0, sections=(Section("A.", "objective", "AIMS"),))
    assert read(article_set(BOOK)) == [book]
    assert read(BOOK.encode()) == [book]
    assert read(article(8, text("A.")).encode()) == [Document("8", "a.xml", 0, sections=(Section("A."),))]
    assert outline(read(article_set(BOOK, article(8, text("A."))))) == ["9", "8"]


def test_an_empty_set_holds_no_records() -> None:
    assert read(b"<PubmedArticleSet></PubmedArticleSet>") == []


def test_other_xml_is_one_reject() -> None:
    (reject,) = read(b"<html><body/></html>")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.message) == (
        Reason.UNREADABLE_SOURCE,
        "the XML holds a html, not a PubmedArticleSet",
    )


WHOLE = article_set(*(article(i, text("Some text here.")) for i in range(3)))


@pytest.mark.parametrize(
    "content",
    [
        WHOLE[: WHOLE.rindex(b"<PubmedArticle>") + 40],
        WHOLE[: WHOLE.rindex(b"<PubmedArticle>")],
        WHOLE.replace(b'<PMID Version="1">2', b"<PMID Version=1>2"),
        WHOLE.replace(b">2</PMID>", b">2</PMD>"),
        WHOLE.replace(b">2</PMID>", b">\xff</PMID>"),
        WHOLE.replace(b">2</PMID>", b">\x01</PMID>"),
    ],
)
def test_records_before_a_break_are_kept(content: bytes) -> None:
    assert outline(read(content)) == ["0", "1", Reason.BROKEN_SOURCE]


def test_what_follows_the_root_is_a_break() -> None:
    assert outline(read(WHOLE + b"<more/>")) == ["0", "1", "2", Reason.BROKEN_SOURCE]


def test_no_xml_at_all() -> None:
    assert outline(read(b"PMID- 1\nTI - Title\n")) == [Reason.BROKEN_SOURCE]


def with_entities(levels: int, *records: str, more: str = "") -> bytes:
    """A set whose entity `l1` stands for ten `lol`, and every further level for ten times the one before."""
    entities = "".join(f"<!ENTITY l{i + 1} '" + f"&l{i};" * 10 + "'>" for i in range(levels))
    declarations = f"<!DOCTYPE PubmedArticleSet [<!ENTITY l0 'lol'>{entities}{more}]>"
    return (declarations + f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>").encode()


def test_entities_are_not_expanded() -> None:
    records = article(1, text("A &l2; b.")), article(2, text("Fine.")), article("3&l0;", text("A."))
    items = read(with_entities(2, *records))
    assert outline(items) == [Reason.BROKEN_RECORD, "2", Reason.BROKEN_RECORD]
    assert isinstance(items[0], Reject)
    assert items[0].message == "the text refers to the entity &l2;, which is not expanded"
    assert "lol" not in items[0].excerpt


@pytest.mark.parametrize("hostile", [text("A &l12; b."), text("B.", Label="&l12;")])
def test_entity_bombs_break_the_source(hostile: str) -> None:
    items = read(with_entities(12, article(1, text("A.")), article(2, hostile), article(3, text("C."))))
    assert outline(items) == ["1", Reason.BROKEN_SOURCE]
    assert isinstance(items[1], Reject)
    assert "amplification" in items[1].message


def test_external_entities_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    entity = f"<!ENTITY file SYSTEM '{secret.as_uri()}'><!ENTITY web SYSTEM 'http://localhost:9/x'>"
    items = read(
        with_entities(0, article(1, text("A &file;")), article(2, text("&web;")), article(3, text("C.")), more=entity)
    )
    assert outline(items) == [Reason.BROKEN_RECORD, Reason.BROKEN_RECORD, "3"]
    assert not any("secret words" in item.excerpt for item in items if isinstance(item, Reject))


def test_a_document_type_is_not_fetched() -> None:
    declaration = b"<!DOCTYPE PubmedArticleSet PUBLIC '-//NLM//DTD' 'http://localhost:9/x.dtd'>"
    assert outline(read(declaration + WHOLE.split(b"\n", 1)[1])) == ["0", "1", "2"]


def test_a_record_over_the_limit_ends_reading() -> None:
    content = article_set(article(1, text("A.")), article(2, text("x " * 500_000)), article(3, text("A.")))
    assert outline(read(content, max_record_bytes=200_000)) == ["1", Reason.BROKEN_SOURCE]


def test_a_text_over_the_limit_is_one_reject() -> None:
    content = article_set(article(1, text("x " * 100)), article(2, text("A.")))
    assert outline(read(content, max_text_chars=100)) == [Reason.TOO_LARGE, "2"]


MEASURE = """
import io, resource, sys
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records
record = open(sys.argv[1], "rb").read()

class Records(io.RawIOBase):
    def __init__(self, count):
        self.blocks = iter([b"<PubmedArticleSet>", *[record] * count, b"</PubmedArticleSet>"])
    def readable(self):
        return True
    def readinto(self, buffer):
        block = next(self.blocks, b"")
        buffer[:len(block)] = block
        return len(block)

for count in (1_000, 20_000):
    assert sum(1 for _ in read_records(io.BufferedReader(Records(count)), "a.xml", ReadOptions())) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_constant(tmp_path: Path) -> None:
    record = tmp_path / "record.xml"
    record.write_text(article(1, text("Some words of an abstract. " * 20)))
    command = [sys.executable, "-c", MEASURE, str(record)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    few, many = map(int, run.stdout.split())
    assert many - few < 4 * 1024  # KiB; the records kept would take over 20,000
