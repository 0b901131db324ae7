"""Reading CSV, TSV and Parquet."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT

from model.records import Document, Reason, Reject, Section
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import find_positions, read_records


def read(content: bytes, source: str = "a.csv", **options: Any) -> list[Document | Reject]:
    items = list(read_records(io.BytesIO(content), source, ReadOptions(**options)))
    assert [item.record_index for item in items] == list(range(len(items)))
    return items


def outline(items: list[Document | Reject]) -> list[str | Reason]:
    return [item.reason if isinstance(item, Reject) else item.doc_id for item in items]


def test_csv() -> None:
    content = b'\xef\xbb\xbfid,year,abstract\r\n1,2020,"One, ""two"".\nThree."\r\n\r\n2,2021,caf\xc3\xa9\r\n'
    assert read(content, id_column="id", text_column="abstract") == [
        Document("1", "a.csv", 0, sections=(Section('One, "two".\nThree.'),)),
        Document("2", "a.csv", 1, sections=(Section("caf\u00e9"),)),
    ]


def test_tsv() -> None:
    assert read(b"text\tdoc_id\nOne, two.\t1\n", "a.tsv") == [
        Document("1", "a.tsv", 0, sections=(Section("One, two."),))
    ]


def test_a_missing_column_is_one_reject_that_names_the_columns() -> None:
    (reject,) = read(b"id,abstract\n1,x\n2,y\n", text_column="abstract")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.message) == (
        Reason.UNREADABLE_SOURCE,
        "there is no column 'doc_id' (id_column); the columns are 'id', 'abstract'",
    )


def test_rows_that_cannot_be_used() -> None:
    rows = [b"1,x", b"2", b"3,x,y", b",x", b"5,", b"6,\xff", b'7,"a"b"', b"8,x"]
    items = read(b"doc_id,text\n" + b"\n".join(rows))
    assert outline(items) == [
        "1",
        Reason.BROKEN_RECORD,
        Reason.BROKEN_RECORD,
        Reason.NO_ID,
        Reason.NO_TEXT,
        Reason.INVALID_ENCODING,
        Reason.BROKEN_RECORD,
        "8",
    ]
    assert isinstance(items[1], Reject)
    assert items[1].message == "the row at line 3 has 1 fields; the header has 2"
    assert items[1].excerpt == "2"


def test_bytes_that_are_not_utf8_matter_only_in_columns_in_use() -> None:
    assert outline(read(b"doc_id,text,journal\n1,x,Caf\xe9\n")) == ["1"]


def test_an_unclosed_quote_costs_its_own_row_alone() -> None:
    lines = b"".join(b"%d,some text\n" % i for i in range(20_000))
    items = read(b'doc_id,text\na1,x\nb2,"never closed\n' + lines)
    assert outline(items) == ["a1", Reason.BROKEN_RECORD, *map(str, range(20_000))]
    assert isinstance(items[1], Reject)
    assert "line 3 " in items[1].message and "stray quote" in items[1].message
    assert items[1].excerpt == 'b2,"never closed'


def test_lines_that_an_unclosed_quote_swallows_are_counted() -> None:
    """None of them looks like a row: too few fields, an id with a space, an id without the digit of the row's own."""
    swallowed = b"and more\nIn short, this\nHowever, that\n"
    items = read(b'doc_id,text\na1,x\nb2,"never closed\n' + swallowed + b'c3,z\nd4,"x"\n')
    assert outline(items) == ["a1", Reason.SWALLOWED_RECORDS, "c3", "d4"]
    assert isinstance(items[1], Reject)
    assert items[1].message.startswith("the row at line 3 extends to line 6 (55 bytes)")
    (_, broken) = read(b'doc_id,text\na1,x\nb2,"never closed\n' + swallowed)
    assert isinstance(broken, Reject) and broken.reason == Reason.SWALLOWED_RECORDS
    assert "extends to line 6 (55 bytes)" in broken.message and "unexpected end of data" in broken.message


def test_text_with_line_ends_is_no_swallowed_row() -> None:
    text = "Aims. We measured it, twice.\nHowever, it broke.\n\n5, of 7, died.\nThe end."
    quoted = text.replace('"', '""')
    for order in ("{id},{text}", "{text},{id}"):
        header = order.format(id="doc_id", text="text")
        rows = "".join(order.format(id=f"d{number}", text=f'"{quoted}"') + "\n" for number in range(5))
        items = read(f"{header}\n{rows}".encode())
        assert [(item.doc_id, item.sections[0].text) for item in items if isinstance(item, Document)] == [
            (f"d{number}", text) for number in range(5)
        ]


def test_two_stray_quotes_that_make_one_field_of_several_rows() -> None:
    items = read(b'doc_id,text\n1,"open\n2,x\n3,five inch"\n4,y\n')
    assert outline(items) == [Reason.BROKEN_RECORD, "2", "3", "4"]
    assert isinstance(items[0], Reject) and items[0].message == "the row at line 2 holds other rows"


def test_text_with_a_field_too_many_is_broken_as_a_whole() -> None:
    items = read(b'doc_id,text\n1,"Aims.\nThe end.",x\n2,y\n')
    assert outline(items) == [Reason.BROKEN_RECORD, "2"]
    assert isinstance(items[0], Reject) and items[0].message == "the row at line 2 has 3 fields; the header has 2"


def test_a_stray_quote_is_caught_where_it_stands() -> None:
    content = b'doc_id,text\n1,"open\n2,"text"\n3,x\n4,y\n'
    assert outline(read(content)) == [Reason.BROKEN_RECORD, "2", "3", "4"]


def test_stray_quotes_in_many_rows() -> None:
    """Each costs no row in TSV, which is read without quoting, and its own row at most in CSV."""
    stray = set(range(300, 10_000, 750))
    texts = [f"{chr(34) * (number in stray)}Number {number} was measured." for number in range(10_000)]
    assert len(stray) == 13
    by_tab = "".join(f"{number}\t{text}\n" for number, text in enumerate(texts))
    items = read(f"doc_id\ttext\n{by_tab}".encode(), "a.tsv")
    assert outline(items) == [str(number) for number in range(10_000)]
    assert isinstance(items[300], Document) and items[300].sections[0].text == '"Number 300 was measured.'
    for content, source, quoting in ((by_tab, "a.tsv", "csv"), (by_tab.replace("\t", ","), "a.csv", None)):
        header = f"doc_id{content[1]}text\n"
        items = read(f"{header}{content}".encode(), source, quoting=quoting)
        wanted = [Reason.BROKEN_RECORD if number in stray else str(number) for number in range(10_000)]
        assert outline(items) == wanted
    assert outline(read(f"doc_id,text\n{by_tab.replace(chr(9), ',')}".encode(), quoting="none")) == [
        str(number) for number in range(10_000)
    ]


def test_a_long_field() -> None:
    content = b"doc_id,text,full\n1,x," + b"y" * 200_000 + b'\n2,x,"' + b"y\n" * 90_000 + b'"\n3,x,y\n'
    assert outline(read(content)) == ["1", "2", "3"]


def test_rows_over_the_limit() -> None:
    content = b"doc_id,text\n1,x\n2," + b"y" * 500 + b'\n3,"' + b"z\n" * 300 + b'z"\n4,x\n'
    found = outline(read(content, max_record_bytes=100))
    assert found[:3] == ["1", Reason.TOO_LARGE, Reason.SWALLOWED_RECORDS]
    assert found[-1] == "4"


def test_only_a_header() -> None:
    assert read(b"doc_id,text\n") == []


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def test_parquet_with_sentences() -> None:
    table = pa.table(
        {
            "doc_id": pa.array([1, 2, 3, None, 5], pa.int64()),
            "sentences": [["One.", "Two."], ["One."], [], ["One."], None],
            "labels": [["a", "b"], ["a", "b"], [], ["a"], None],
            "confidences": [[0.5, 1.0], None, [], None, None],
            "other": [{"x": 1}] * 5,
        }
    )
    items = read(parquet(table), "a.parquet")
    assert items[0] == Document(
        "1", "a.parquet", 0, sentences=("One.", "Two."), labels=("a", "b"), confidences=(0.5, 1.0)
    )
    assert outline(items[1:]) == [Reason.WRONG_LENGTH, Reason.NO_TEXT, Reason.NO_ID, Reason.NO_TEXT]


def test_parquet_with_text_in_many_row_groups() -> None:
    count = 1000
    table = pa.table({"id": [f"d{i}" for i in range(count)], "abstract": [f"Text {i}." for i in range(count)]})
    table = table.set_column(0, "id", table["id"].dictionary_encode())
    items = read(parquet(table, row_group_size=300), "a.parquet", id_column="id", text_column="abstract")
    assert [(item.doc_id, item.sections) for item in items if isinstance(item, Document)] == [
        (f"d{i}", (Section(f"Text {i}."),)) for i in range(count)
    ]


def test_parquet_of_another_schema() -> None:
    (reject,) = read(parquet(pa.table({"doc_id": ["1"], "body": ["x"]})), "a.parquet")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.message) == (
        Reason.UNREADABLE_SOURCE,
        "there is no column 'text' (text_column); the columns are 'doc_id', 'body'",
    )
    (reject,) = read(parquet(pa.table({"body": ["x"]})), "a.parquet")
    assert isinstance(reject, Reject) and "no column 'doc_id' (id_column) and no column 'text'" in reject.message
    table = pa.table({"doc_id": [["1"], ["2"]], "text": [1.5, 2.5]})
    assert outline(read(parquet(table), "a.parquet")) == [Reason.WRONG_TYPE] * 2


def test_parquet_text_that_is_not_utf8() -> None:
    text = pa.array([b"Fine.", b"caf\xe9", b"Fine too."], pa.binary()).view(pa.string())
    items = read(parquet(pa.table({"doc_id": ["1", "2", "3"], "text": text})), "a.parquet")
    assert outline(items) == ["1", Reason.INVALID_ENCODING, "3"]


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1 and something else PAR1", b"Not Parquet at all, but long enough."])
def test_not_parquet(content: bytes) -> None:
    assert outline(read(content, "a.parquet")) == [Reason.UNREADABLE_SOURCE]


def test_parquet_that_breaks_off_or_is_damaged() -> None:
    count = 5000
    table = pa.table({"doc_id": [str(i) for i in range(count)], "text": [f"Text {i}." * 5 for i in range(count)]})
    content = parquet(table, row_group_size=1000)
    assert outline(read(content[:-100], "a.parquet")) == [Reason.UNREADABLE_SOURCE]
    start = len(content) * 3 // 4
    items = read(content[:start] + b"\xff" * 2000 + content[start + 2000 :], "a.parquet")
    lost = [item for item in items if isinstance(item, Reject)]
    assert [reject.reason for reject in lost] == [Reason.BROKEN_SOURCE, *[Reason.BROKEN_RECORD] * (len(lost) - 1)]
    assert [item.doc_id for item in items if isinstance(item, Document)] == [
        str(number) for number in range(count) if number < lost[0].record_index or number > lost[-1].record_index
    ]
    assert (lost[0].record_index > 1000, lost[-1].record_index) == (True, 3999)
    assert len(items) == count


_BOMB = """
import io, os, resource, sys
import pyarrow as pa, pyarrow.parquet as pq
from collections import Counter
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records

def counted(table, **written):
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", **written)
    count(content.getvalue())

def count(content):
    assert len(content) < 100_000
    content = io.BytesIO(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = read_records(content, "a.parquet", ReadOptions())
    outcomes = Counter(str(getattr(item, "reason", "document")) for item in items)
    print(dict(outcomes), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)

ids = [str(number) for number in range(256)]
once = pa.array([0] * 256, pa.int32())
for size in (13, 17):
    text = pa.DictionaryArray.from_arrays(once, pa.array(["a" * (size << 20)]))
    counted(pa.table({"doc_id": ids, "text": text}), dictionary_pagesize_limit=1 << 30)
if not (process := os.fork()):  # it needs the memory that reading should not
    table = pa.table({"doc_id": ids[:30], "text": ["a" * (13 << 20)] * 30})
    encoding = {"doc_id": "PLAIN", "text": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, sys.argv[1], compression="zstd", use_dictionary=False, column_encoding=encoding)
    os._exit(0)
os.waitpid(process, 0)
count(open(sys.argv[1], "rb").read())
entries = pa.DictionaryArray.from_arrays(pa.array(bytearray(8_000_000), pa.int8()).cast(pa.int32()), pa.array(["a"]))
lists = pa.ListArray.from_arrays(pa.array([0, 1, 8_000_000], pa.int32()), entries)
counted(pa.table({"doc_id": ["a", "b"], "sentences": lists}))
"""


def test_a_small_parquet_file_that_stands_for_gigabytes(tmp_path: Path) -> None:
    """A text that every row repeats, below and above the limit of a row, and a list of millions of equal entries."""
    command = [sys.executable, "-W", "ignore", "-c", _BOMB, str(tmp_path / "a.parquet")]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    found = [line.rpartition(" ") for line in result.stdout.splitlines()]
    assert [outcomes for outcomes, _, _ in found] == [f"{{'too_large': {rows}}}" for rows in (256, 256, 30, 2)]
    assert max(int(mib) for _, _, mib in found) < 400


def test_parquet_rows_within_the_limit_beside_one_that_is_not() -> None:
    table = pa.table({"doc_id": ["1", "2", "3"], "text": ["It is.", "x" * 2000, "It was."]})
    assert outline(read(parquet(table), "a.parquet", max_record_bytes=1500)) == ["1", Reason.TOO_LARGE, "3"]
    table = pa.table({"doc_id": ["1", "2", "3"], "sentences": [["It is."], ["x"] * 200, None]})
    assert outline(read(parquet(table), "a.parquet", max_record_bytes=1500)) == ["1", Reason.TOO_LARGE, Reason.NO_TEXT]


@pytest.mark.parametrize(
    ("type", "values", "shown"),
    [
        (pa.timestamp("ms"), [1 << 60, 0, None], "a timestamp[ms]"),
        (pa.timestamp("ms", "Mars/Olympus"), [0, 1 << 60, None], "a timestamp[ms, tz="),
        (pa.date32(), [1 << 30, 0, None], "a date32[day]"),
        (pa.time64("us"), [1, 0, None], "a time64[us]"),
        (pa.decimal128(38, 2), [10**30, 0, None], "a decimal128(38, 2)"),
        (pa.struct([("a", pa.timestamp("ms"))]), [{"a": 1 << 60}, {"a": 0}, None], "a struct<a: timestamp[ms]>"),
        (pa.list_(pa.timestamp("ms")), [[1 << 60], [], None], "a list<element: timestamp[ms]>"),
        (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [], None], "a map<"),
        (pa.binary(), [b"a", b"", None], "b'"),
        (pa.float64(), [1.5, math.inf, None], ""),
    ],
)
def test_parquet_of_types_that_are_not_in_use(type: pa.DataType, values: list[Any], shown: str) -> None:
    """Some of their values can't even be converted to Python's."""
    column = pa.array(values, pa.int64()).cast(type) if pa.types.is_timestamp(type) else pa.array(values, type)
    text = pa.array(["It is."] * 3)
    for table in (pa.table({"doc_id": column, "text": text}), pa.table({"doc_id": ["1", "2", "3"], "text": column})):
        items = read(parquet(table), "a.parquet")
        missing = Reason.NO_ID if table["text"].type == pa.string() else Reason.NO_TEXT
        assert outline(items) == [Reason.WRONG_TYPE, Reason.WRONG_TYPE, missing]
        assert isinstance(items[0], Reject) and f" is {shown}" in items[0].message
    lists = [None if value is None else [value] for value in values]
    for name in ("sentences", "labels", "features"):
        others = {"sentences": [["One."]] * 3} if name != "sentences" else {}
        table = pa.table({"doc_id": ["1", "2", "3"], **others, name: pa.array(lists, pa.list_(column.type))})
        (first, *_) = read(parquet(table), "a.parquet")
        assert isinstance(first, Reject) and first.reason == Reason.WRONG_TYPE


def test_any_damaged_byte_in_a_page_of_parquet() -> None:
    """Among others indices that point outside of their dictionary, which Arrow passes on as they are."""
    table = pa.table({"doc_id": [str(i) for i in range(9)], "text": ["It is.", "It was.", "It will be."] * 3})
    content = parquet(table, compression="none")
    column = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(1)
    pages = range(column.dictionary_page_offset, column.dictionary_page_offset + column.total_compressed_size)
    assert b"It will be." in content[pages.start : pages.stop]
    reasons = set()
    for place in pages:
        for value in (0, 1, 8, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            items = read(damaged, "a.parquet")
            assert len(items) == 9
            reasons |= {item.reason for item in items if isinstance(item, Reject)}
    assert {Reason.BROKEN_SOURCE, Reason.INVALID_ENCODING} < reasons


def test_any_damaged_byte_in_a_footer_of_parquet() -> None:
    """Among others names of columns that are not UTF-8."""
    content = parquet(pa.table({"doc_id": ["1", "2"], "text": ["It is.", "It was."]}), store_schema=False)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert b"doc_id" in content[footer:]
    for place in range(footer, len(content)):
        for value in (0, 0xFF):
            items = read(content[:place] + bytes([value]) + content[place + 1 :], "a.parquet")
            assert len(items) == 2 or outline(items) == [Reason.UNREADABLE_SOURCE]


def test_parquet_from_a_forward_stream(tmp_path: Path) -> None:
    class Forward(io.RawIOBase):
        content = io.BytesIO(parquet(pa.table({"doc_id": ["1"], "text": ["x"]})))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.content.readinto(buffer)

    (reject,) = read_records(io.BufferedReader(Forward()), "a.parquet", ReadOptions())
    assert isinstance(reject, Reject)
    assert reject.reason == Reason.UNREADABLE_SOURCE and "decompress it" in reject.message


def test_parquet_is_known_by_its_first_bytes() -> None:
    items = read(parquet(pa.table({"doc_id": ["1"], "text": ["One."]})), "data")
    assert items == [Document("1", "data", 0, sections=(Section("One."),))]


def positions(content: bytes, source: str, *, every: int, limit: int | None = None) -> object:
    stream: Any = io.BufferedReader(io.BytesIO(content))
    return find_positions(stream, source, ReadOptions(), every=every, limit=limit)


def test_positions_in_parquet() -> None:
    """At the multiples of three from the beginnings of the row groups on: 0, 4, 8."""
    content = parquet(pa.table({"doc_id": ["1"] * 10, "text": ["One."] * 10}), row_group_size=4)
    assert positions(content, "a.parquet", every=3) == ([(0, 1, 0), (6, 1, 0), (9, 1, 0)], 10)
    assert positions(content, "a.parquet", every=3, limit=9) == ([(0, 1, 0), (6, 1, 0)], 9)
    assert positions(content, "a.parquet", every=1) == ([(0, 1, 0), (4, 1, 0), (8, 1, 0)], 10)
    assert positions(content, "a.parquet", every=1, limit=100) == ([(0, 1, 0), (4, 1, 0), (8, 1, 0)], 10)
    assert positions(content[:-9], "a.parquet", every=3) is None


def test_positions_in_text() -> None:
    """Of every second record: its number, its line, and the bytes before it."""
    table = b'doc_id,text\n1,x\n\n2,"a\nb"\n3,y\n4,z\n'
    assert positions(table, "a.csv", every=2) == ([(0, 2, 12), (2, 6, 25)], 4)
    assert positions(table, "a.csv", every=2, limit=2) == ([(0, 2, 12)], 2)
    assert positions(table.replace(b",", b"\t"), "a.tsv", every=3) == ([(0, 2, 12), (3, 6, 25)], 5)
    lines = b'{"a": 1}\n\n{"a": 2}\r\n{"a": 3}'
    assert positions(lines, "a.jsonl", every=2) == ([(0, 1, 0), (2, 4, 20)], 3)
    assert positions(lines, "unnamed", every=1) == ([(0, 1, 0), (1, 3, 10), (2, 4, 20)], 3)


def test_what_has_no_positions() -> None:
    assert positions(b"doc_id,text\n", "a.csv", every=2) is None
    assert positions(b"id,text\n1,x\n", "a.csv", every=2) is None
    assert positions(b"<PubmedArticleSet></PubmedArticleSet>", "a.xml", every=2) is None
    assert positions(b"###1\nA\tx\n", "a.txt", every=2) is None
    assert positions(b"Some text.", "notes.txt", every=2) is None
