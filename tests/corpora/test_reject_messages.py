"""What each parser says of records that it cannot read: reason, message, excerpt and id, in full."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records


def read(content: bytes, source: str, **options: Any) -> list[Document | Reject]:
    return list(read_records(io.BytesIO(content), source, ReadOptions(**options)))


def test_json_lines() -> None:
    lines = [
        b'{"doc_id": "a", "text": "caf\xe9"}',
        b'{"doc_id": "b"',
        b"[1]",
        b'{"doc_id": "c", "text": "' + b"x" * 80 + b'"}',
        b'{"doc_id": "d", "text": "x"}',
    ]
    items = read(b"\n".join(lines), "a.jsonl", max_record_bytes=64)
    broken = "line 2 is not valid JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"
    assert items == [
        Reject(
            "a.jsonl",
            0,
            Reason.INVALID_ENCODING,
            "line 1 is not UTF-8 at byte 28",
            None,
            '{"doc_id": "a", "text": "caf\ufffd"}',
        ),
        Reject("a.jsonl", 1, Reason.BROKEN_RECORD, broken, None, '{"doc_id": "b"'),
        Reject("a.jsonl", 2, Reason.WRONG_TYPE, "line 3 is not a JSON object", None, "[1]"),
        Reject(
            "a.jsonl",
            3,
            Reason.TOO_LARGE,
            "line 4 is longer than 64 bytes",
            None,
            '{"doc_id": "c", "text": "' + "x" * 41,
        ),
        Document("d", "a.jsonl", 4, sections=(Section("x"),)),
    ]


def test_excerpts_of_long_lines() -> None:
    line = b'{"doc_id": "a", "x": "' + b"y" * 3000 + b'"}'
    for content, most in ((line, 1 << 20), (line, 2000), (line[:-1], 1 << 20)):
        (reject,) = read(content, "a.jsonl", max_record_bytes=most)
        assert isinstance(reject, Reject)
        assert reject.excerpt == line[:1024].decode()
    (reject,) = read(b"\xff" * 30, "a.jsonl", max_record_bytes=20)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.excerpt) == (Reason.TOO_LARGE, "\ufffd" * 22)  # with room for the line's end


def test_json_keys_of_two_kinds() -> None:
    """Our key goes first, and the other one stands in for an absent or a null one."""
    record = (
        b'{"doc_id": null, "abstract_id": 4, "sentences": ["One."], "confidences": [0.5], "confs": [1],'
        b' "scores": null, "highlight_scores": [2], "features": [[1, 2]], "abstract_scores": [3], "highlights": ["h"]}'
    )
    assert read(record, "a.jsonl") == [
        Document(
            "4",
            "a.jsonl",
            0,
            sentences=("One.",),
            confidences=(0.5,),
            scores=(2.0,),
            features=((1.0, 2.0),),
            highlights=("h",),
        )
    ]


def test_pubmed_rct() -> None:
    content = (
        b"###1\nA\tx\nno tab\nB\ty\n\n"
        b"###2\nA\tx\nB\tcaf\xe9\n\n"
        b"###3\nA\tx\nA\ty\nA\tz\n\n"
        b"###4\nA\t" + b"x" * 70 + b"\n\n"
        b"###5\nA\t" + b"x" * 30 + b"\nA\t" + b"y" * 30 + b"\n"
        b"###6\nA\tx\n"
    )
    assert read(content, "a.txt", max_sentences=2, max_record_bytes=64) == [
        Reject("a.txt", 0, Reason.BROKEN_RECORD, "line 3 has no tab between a label and a sentence", None, "###1"),
        Reject("a.txt", 1, Reason.INVALID_ENCODING, "line 8 is not UTF-8 at byte 5", None, "###2"),
        Reject("a.txt", 2, Reason.TOO_LARGE, "line 13: more than 2 sentences", None, "###3"),
        Reject("a.txt", 3, Reason.TOO_LARGE, "line 16: longer than 64 bytes", None, "###4"),
        Reject("a.txt", 4, Reason.TOO_LARGE, "line 20: longer than 64 bytes", None, "###5"),
        Document("6", "a.txt", 5, sentences=("x",), labels=("A",)),
    ]


def test_the_longest_abstract_of_pubmed_rct_is_exact() -> None:
    """The lines of an abstract, without line ends, may have as many bytes together as the limit says."""
    content = b"###1\nA\tx\nB\ty\n"
    assert isinstance(read(content, "a.txt", max_record_bytes=10)[0], Document)
    assert read(content, "a.txt", max_record_bytes=9) == [
        Reject("a.txt", 0, Reason.TOO_LARGE, "line 3: longer than 9 bytes", None, "###1")
    ]
    assert isinstance(read(content, "a.txt", max_sentences=2)[0], Document)


def test_pubmed_rct_without_an_id_and_with_odd_bytes() -> None:
    assert read(b"###1\n\nA\tx\n", "a.txt", format="pubmed_rct") == [
        Reject("a.txt", 0, Reason.NO_TEXT, "the list of sentences is empty", "1", "###1"),
        Reject("a.txt", 1, Reason.NO_ID, "the record has no id", None, "A\tx"),
    ]
    (reject,) = read(b"###\xff" + b"1" * 2000 + b"\nA\tx\n", "a.txt")
    assert isinstance(reject, Reject)
    assert reject.message == "line 1 is not UTF-8 at byte 3"
    assert reject.excerpt == "###\ufffd" + "1" * 1018  # 1,024 bytes, three of them the replacement's


@pytest.mark.parametrize(("suffix", "mark"), [("csv", b","), ("tsv", b"\t")])
def test_tables_of_text(suffix: str, mark: bytes) -> None:
    rows = [
        b"doc_id,text",
        b"1,x",
        b"2,x,y",
        b'3,"a"b',
        b"4," + b"y" * 40,
        b'5,"z\n' + b"z" * 30 + b'"',
        b"6,x",
    ]
    source = f"a.{suffix}"
    items = read(b"\n".join(rows).replace(b",", mark), source, max_record_bytes=32, quoting="csv")
    tab = mark.decode()
    assert items[0] == Document("1", source, 0, sections=(Section("x"),))
    wrong = "the row at line 3 has 3 fields; the header has 2"
    assert items[1] == Reject(source, 1, Reason.BROKEN_RECORD, wrong, None, f"2{tab}x{tab}y")
    stray = f"the row at line 4 cannot be read, perhaps for a stray quote: '{tab}' expected after '\"'"
    assert items[2] == Reject(source, 2, Reason.BROKEN_RECORD, stray, None, f'3{tab}"a"b')
    long = "the row at line 5 is longer than 32 bytes"
    assert items[3] == Reject(source, 3, Reason.TOO_LARGE, long, None, f"4{tab}{'y' * 32}")
    over = "the row at line 6 extends to line 7 (37 bytes), and rows may be lost in it: it is longer than 32 bytes"
    assert items[4] == Reject(source, 4, Reason.SWALLOWED_RECORDS, over, None, f'5{tab}"z')
    assert [item.record_index for item in items] == list(range(len(items)))
    assert items[-1].doc_id == "6"


def test_headers_that_cannot_be_used() -> None:
    missing = "there is no column 'doc_id' (id_column) and no column 'text' (text_column); the columns are "
    stray = (
        "the header cannot be read: the row at line 1 cannot be read, perhaps for a stray quote: "
        "',' expected after '\"'"
    )
    for content, message, excerpt in (
        (b"id,abstract\n", f"{missing}'id', 'abstract'", ""),
        (b"\n\n", missing, ""),
        (b'doc_id,"te"xt\n1,x\n', stray, 'doc_id,"te"xt'),
    ):
        assert read(content, "a.csv") == [Reject("a.csv", 0, Reason.UNREADABLE_SOURCE, message, None, excerpt)]


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_parquet() -> None:
    columns: dict[str, Any] = {
        "doc_id": ["1", None],
        "sentences": [["One."], ["Two."]],
        "labels": [["a"], ["b"]],
        "confidences": [[0.5], [1.0]],
        "scores": [[2.0], [3.0]],
        "features": [[[1.0, 2.0]], [[3.0, 4.0]]],
        "highlights": [["h"], []],
        "text": ["not read", "not read"],
    }
    document, reject = read(parquet(columns), "a.parquet")
    assert document == Document(
        "1",
        "a.parquet",
        0,
        sentences=("One.",),
        labels=("a",),
        confidences=(0.5,),
        scores=(2.0,),
        features=((1.0, 2.0),),
        highlights=("h",),
    )
    shown = {name: values[1] for name, values in columns.items()}
    assert reject == Reject("a.parquet", 1, Reason.NO_ID, "the record has no id", None, repr(shown))
    # Text where a row has no sentences; no text column is needed where there are sentences.
    columns = {"doc_id": ["1", "2"], "sentences": [None, ["One."]], "text": ["Read.", None]}
    assert read(parquet(columns), "a.parquet") == [
        Document("1", "a.parquet", 0, sections=(Section("Read."),)),
        Document("2", "a.parquet", 1, sentences=("One.",)),
    ]
    assert read(parquet({"doc_id": ["2"], "sentences": [["One."]]}), "a.parquet") == [
        Document("2", "a.parquet", 0, sentences=("One.",))
    ]
    missing = "there is no column 'doc_id' (id_column); the columns are 'sentences'"
    assert read(parquet({"sentences": [["One."]]}), "a.parquet") == [
        Reject("a.parquet", 0, Reason.UNREADABLE_SOURCE, missing)
    ]


def test_parquet_that_is_broken() -> None:
    (reject,) = read(b"PAR1 and no more than that", "a.parquet")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.excerpt) == (Reason.UNREADABLE_SOURCE, "")
    assert reject.message.startswith("this is not a readable Parquet file: ")
    text = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    assert read(parquet({"doc_id": ["1"], "text": text}), "a.parquet") == [
        Reject("a.parquet", 0, Reason.INVALID_ENCODING, "the row holds text that is not UTF-8: unexpected end of data")
    ]


ARTICLE = "<PubmedArticle><MedlineCitation>{}</MedlineCitation></PubmedArticle>"


def test_medline() -> None:
    records = [
        "<PubmedArticle><Other/></PubmedArticle>",
        "<PubmedBookArticle><Other/></PubmedBookArticle>",
        ARTICLE.format("<PMID>3</PMID><Article><Abstract><AbstractText>a &odd; b</AbstractText></Abstract></Article>"),
        ARTICLE.format("<Article><Abstract><AbstractText>x</AbstractText></Abstract></Article>"),
        ARTICLE.format("<PMID>5</PMID><Article><Abstract><AbstractText> </AbstractText></Abstract></Article>"),
        ARTICLE.format(
            "<PMID> 6 </PMID><Article><Abstract>"
            '<AbstractText Label="AIM" NlmCategory="OBJECTIVE">a <i>b</i><!--no-->\n <?no no?>c</AbstractText>'
            '<AbstractText Label="METHODS" NlmCategory="UNASSIGNED">d</AbstractText><AbstractText> </AbstractText>'
            "</Abstract></Article><OtherAbstract><AbstractText>no</AbstractText></OtherAbstract>"
        ),
        "<PubmedBookArticle><BookDocument><PMID>7</PMID><Abstract><AbstractText>book</AbstractText></Abstract>"
        "</BookDocument></PubmedBookArticle>",
    ]
    # Comments and processing instructions are no part of a record.
    extras = [record.replace("<Article>", "<Article><?no no?><!--no-->") for record in records]
    content = "<!DOCTYPE PubmedArticleSet [<!ENTITY odd 'x'>]><PubmedArticleSet>" + "".join(extras)
    items = read(f"{content}</PubmedArticleSet>".encode(), "a.xml")
    entity = "the text refers to the entity &odd;, which is not expanded"
    assert items == [
        Reject("a.xml", 0, Reason.BROKEN_RECORD, "the PubmedArticle has no MedlineCitation", None, records[0]),
        Reject("a.xml", 1, Reason.BROKEN_RECORD, "the PubmedBookArticle has no BookDocument", None, records[1]),
        Reject("a.xml", 2, Reason.BROKEN_RECORD, entity, None, records[2]),
        Reject("a.xml", 3, Reason.NO_ID, "the record has no id", None, records[3]),
        Reject("a.xml", 4, Reason.NO_TEXT, "the record has no text", "5", records[4]),
        Document("6", "a.xml", 5, sections=(Section("a b c", "objective", "AIM"), Section("d", "methods", "METHODS"))),
        Document("7", "a.xml", 6, sections=(Section("book", None, None),)),
    ]


def test_medline_that_breaks_off_or_holds_something_else() -> None:
    good = ARTICLE.format("<PMID>1</PMID><Article><Abstract><AbstractText>x</AbstractText></Abstract></Article>")
    document, reject = read(f"<PubmedArticleSet>{good}<PubmedArticle>".encode(), "a.xml")
    assert document == Document("1", "a.xml", 0, sections=(Section("x", None, None),))
    assert isinstance(reject, Reject)
    assert (reject.record_index, reject.reason, reject.excerpt) == (1, Reason.BROKEN_SOURCE, "")
    assert reject.message.startswith("the XML is broken or breaks off: ")
    other = "the XML holds a html, not a PubmedArticleSet"
    assert read(b"<html><p/></html>", "a.xml") == [Reject("a.xml", 0, Reason.UNREADABLE_SOURCE, other)]
    for root in ("PubmedArticleSet", "PubmedBookArticleSet"):
        assert read(f"<{root}></{root}>".encode(), "a.xml") == []
    assert len(read(good.encode(), "a.xml")) == 1
    assert [item.doc_id for item in read(f"<other>{good}</other>".encode(), "a.xml")] == ["1"]


def test_medline_limits() -> None:
    """Bytes are counted since the last record, in blocks as they are read."""
    good = ARTICLE.format("<PMID>1</PMID><Article><Abstract><AbstractText>x</AbstractText></Abstract></Article>")
    filler = f"<!--{'x' * 70_000}-->"
    content = f"<PubmedArticleSet>{good}{filler}{filler}{good}</PubmedArticleSet>".encode()
    assert [item.doc_id for item in read(content, "a.xml")] == ["1", "1"]
    document, reject = read(content, "a.xml", max_record_bytes=50_000)
    assert isinstance(document, Document)
    message = "no record ends within 50000 bytes; the rest of the file was not read"
    assert reject == Reject("a.xml", 1, Reason.BROKEN_SOURCE, message)


def test_medline_deletions() -> None:
    content = "<PubmedArticleSet><DeleteCitation><PMID>1</PMID><PMID> 2 </PMID></DeleteCitation></PubmedArticleSet>"
    assert read(content.encode(), "a.xml") == []
    assert read(content.encode(), "a.xml", deletions=True) == [
        Reject("a.xml", 0, Reason.DELETION, "the file deletes 1", "1"),
        Reject("a.xml", 1, Reason.DELETION, "the file deletes 2", "2"),
    ]


def test_sources_without_a_format() -> None:
    (reject,) = read(b"Some text.", "notes.txt")
    message = "neither the file's name nor its content tells the format; name one of "
    assert reject == Reject(
        "notes.txt",
        0,
        Reason.UNREADABLE_SOURCE,
        f"{message}jsonl, medline, pubmed_rct, csv, tsv, parquet",
    )
    assert read(b"", "notes.txt") == [Reject("notes.txt", 0, Reason.UNREADABLE_SOURCE, "the file is empty")]
