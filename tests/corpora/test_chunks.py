"""Units and chunks: however a file is cut, its records, their numbers and their messages are those of one reading."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT, real_data
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model.records import Document, Reason, Reject
from pipelines.corpora.chunks import (
    Chunk,
    Finished,
    Unit,
    cut_source,
    finished_chunks,
    hash_share,
    part_prefix,
    prefix_of,
    read_chunks,
)
from pipelines.corpora.formats import QUOTINGS, Quoting
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import SourceFailure, fingerprint_sources, read_source

NOTHING = Finished(set())


def cut(path: Path, *, size: int, options: ReadOptions | None = None, limit: int | None = None) -> list[Unit]:
    prefix = part_prefix(str(path))
    return cut_source(str(path), prefix, options or ReadOptions(), size=size, limit=limit, finished=NOTHING)


def chunks_of(
    units: list[Unit], *, size: int, options: ReadOptions | None = None, limit: int | None = None
) -> list[Chunk]:
    """Returns the chunks of units that are read in any order, by number."""
    shuffled = random.Random(3).sample(units, len(units))
    chunks = [
        chunk for unit in shuffled for chunk in read_chunks(unit, options or ReadOptions(), size=size, limit=limit)
    ]
    return sorted(chunks, key=lambda chunk: chunk.index)


def check_cut(path: Path, *, size: int, options: ReadOptions | None = None, limit: int | None = None) -> list[Unit]:
    """Checks that the chunks of the units are those of a single reading, and returns the units."""
    units = cut(path, size=size, options=options, limit=limit)
    chunks = chunks_of(units, size=size, options=options, limit=limit)
    whole = list(read_source(str(path), options or ReadOptions()))[:limit]
    assert [item for chunk in chunks for item in chunk.items] == whole
    assert [len(chunk.items) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    (found,) = finished_chunks([chunk.name for chunk in chunks]).values()
    assert found.whole
    return units


NASTY_CSV = (
    b"\xef\xbb\xbftext,doc_id\r\n"
    b'"a quoted\nline end",1\r\n'
    b"\r\n"
    b'"two "" quotes\r\n\r\n\r\nand ""more""\n",2\n'
    b"plain,3\n"
    b'a "stray" quote,4\n'  # csv keeps it: quotes count at the beginning of a field only
    b'"closed" too early,5\n'  # an error
    b"after,6\r"  # a lone carriage return is no line end here
    b"one field\n"
    b"x,y,z\n"
    b'"\xff\xfe",7\n'
    b',8\n"",9\n'
    b'"' + b"long " * 60 + b'\n",10\n'  # a row that is too long
    b'"' + b"long\n" * 60 + b'",11\n'  # and one over many lines
    b"last,12\n"
    b'"never closed,13\nmore,14\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_nasty_table(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(NASTY_CSV)
    options = ReadOptions(max_record_bytes=200)
    units = check_cut(path, size=size, options=options)
    records = list(read_source(str(path), options))
    assert len(units) == -(-len(records) // size) > (size < 100)
    assert [item.doc_id for item in records if isinstance(item, Document)][:3] == ["1", "2", "3"]


def test_line_numbers_stay_true_after_a_line_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"doc_id,text\n" + b"1," + b"x" * 400 + b"\n2,x,y\n3\n")
    options = ReadOptions(max_record_bytes=100)
    for unit in check_cut(path, size=1, options=options):
        for chunk in read_chunks(unit, options, size=1):
            (reject,) = chunk.items
            assert isinstance(reject, Reject)
            assert f"line {reject.record_index + 2} " in reject.message


pieces = st.lists(
    st.sampled_from(
        [b'"', b'""', b",", b"\n", b'\n1,"', b"\n2,x\n", b"\r\n", b"\r", b"a", b"bc d", b"\xff", b"\t", b"x" * 30]
    ),
    max_size=60,
).map(b"".join)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=pieces,
    size=st.integers(1, 4),
    limit=st.none() | st.integers(1, 6),
    quoting=st.sampled_from(QUOTINGS),
)
def test_any_table(suffix: str, body: bytes, size: int, limit: int | None, quoting: Quoting, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"doc_id,text\n".replace(b",", b"," if suffix == "csv" else b"\t") + body)
    check_cut(path, size=size, options=ReadOptions(max_record_bytes=50, quoting=quoting), limit=limit)


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.sampled_from([b'{"doc_id": "1", "text": "It is."}', b"", b"  ", b"{", b"\xff", b" " * 99, b"x" * 99]),
        max_size=12,
    ),
    end=st.sampled_from([b"", b"\n", b"\r\n"]),
    size=st.integers(1, 4),
)
def test_any_lines(lines: list[bytes], end: bytes, size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((end or b"\n").join(lines) + end)
    check_cut(path, size=size, options=ReadOptions(max_record_bytes=50))


def write_lines(path: Path, count: int) -> Path:
    lines = [json.dumps({"doc_id": str(index), "text": f"Number {index}."}) for index in range(count)]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def test_plain_lines_are_cut_at_the_bytes_where_records_begin(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", 25)
    units = check_cut(path, size=10)
    assert [(unit.start.record_index, unit.records, unit.ends) for unit in units] == [
        (0, 10, False),
        (10, 10, False),
        (20, 5, True),
    ]
    content = path.read_bytes()
    for unit in units:
        assert json.loads(content[unit.start.offset :].split(b"\n")[0])["doc_id"] == str(unit.start.record_index)
    assert len(check_cut(path, size=10, limit=20)) == 2
    assert len(check_cut(path, size=10, limit=11)) == 2


@pytest.mark.parametrize(("records", "sizes"), [(20, [10, 10]), (0, [0]), (1, [1]), (10, [10])])
def test_a_stream_is_one_unit_and_says_where_it_ends(tmp_path: Path, records: int, sizes: list[int]) -> None:
    path = tmp_path / "a.csv.gz"
    rows = "".join(f"{index},It is.\n" for index in range(records))
    path.write_bytes(gzip.compress(f"doc_id,text\n{rows}".encode()))
    (unit,) = check_cut(path, size=10)
    chunks = list(read_chunks(unit, ReadOptions(), size=10))
    assert [len(chunk.items) for chunk in chunks] == sizes
    assert [chunk.name.endswith("-last") for chunk in chunks] == [False] * (len(sizes) - 1) + [True]


def test_the_chunks_of_a_file_do_not_depend_on_its_compression(tmp_path: Path) -> None:
    plain, packed = (write_lines(tmp_path / name, 25) for name in ("a.jsonl", "b.jsonl.gz"))
    by_file = [chunks_of(check_cut(path, size=10), size=10) for path in (plain, packed)]
    outlines = [[(chunk.index, chunk.last, [item.doc_id for item in chunk.items]) for chunk in of] for of in by_file]
    assert outlines[0] == outlines[1]


@pytest.mark.parametrize("groups", [[7], [3, 1, 0, 12, 30, 2], [10, 10, 10], [25, 25], [1] * 12])
@pytest.mark.parametrize("size", [1, 10, 300])
def test_parquet_is_cut_along_its_row_groups(tmp_path: Path, groups: list[int], size: int) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        number = 0
        for rows in groups:
            ids = [str(index) for index in range(number, number + rows)]
            writer.write_table(pa.table({"doc_id": ids, "text": [f"Number {i}." for i in ids]}, schema=schema))
            number += rows
    units = check_cut(path, size=size)
    assert len(units) <= len(groups)
    assert len(units) > 1 or size == 300 or len(groups) == 1
    check_cut(path, size=size, limit=5)


def test_what_is_finished_is_not_cut_again(tmp_path: Path) -> None:
    plain, packed = write_lines(tmp_path / "a.jsonl", 45), write_lines(tmp_path / "b.jsonl.gz", 45)
    table = tmp_path / "c.parquet"
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(45)], "text": ["It is."] * 45}), table)
    for path in (plain, packed, table):
        every = chunks_of(cut(path, size=10), size=10)
        for done in ({0}, {1, 3}, {4}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}):
            names = [chunk.name for chunk in every if chunk.index in done]
            (finished,) = finished_chunks(names).values()
            assert finished.chunks == done
            prefix = part_prefix(str(path))
            units = cut_source(str(path), prefix, ReadOptions(), size=10, finished=finished)
            assert [(c.index, c.items, c.name) for c in chunks_of(units, size=10)] == [
                (c.index, c.items, c.name) for c in every if c.index not in done
            ]
            assert bool(units) == (done != {0, 1, 2, 3, 4})


def test_a_file_that_has_become_shorter_fails(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", 45)
    units = cut(path, size=10)
    with open(path, "r+b") as stream:
        stream.truncate(units[2].start.offset)
    assert [len(chunk.items) for chunk in chunks_of(units[:2], size=10)] == [10, 10]
    for unit, there in zip(units[2:], (10, 10, 5), strict=True):
        with pytest.raises(SourceFailure, match=f"has changed: 0 records where {there} were"):
            chunks_of([unit], size=10)


@pytest.mark.parametrize("change", ["content", "time", "replaced", "removed"])
def test_a_file_that_has_changed_since_it_was_fingerprinted_fails(tmp_path: Path, change: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", 45)
    (source,) = fingerprint_sources([str(path)])
    units = cut_source(str(path), "part-a-0", ReadOptions(), size=10, finished=NOTHING, state=source.state)
    (first, *_) = chunks_of(units[:1], size=10)
    assert len(first.items) == 10
    if change == "content":
        with open(path, "ab") as stream:
            stream.write(b"{}\n")
    elif change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "replaced":
        shutil.copy2(path, tmp_path / "copy")
        (tmp_path / "copy").rename(path)
    else:
        path.unlink()
    said = "cannot be read: No such file" if change == "removed" else "has changed since this command began"
    with pytest.raises(SourceFailure, match=said):
        chunks_of(units[1:2], size=10)
    with pytest.raises(SourceFailure, match=said):
        cut_source(str(path), "part-a-0", ReadOptions(), size=10, finished=NOTHING, state=source.state)


def test_a_file_that_changes_while_it_is_read_gives_no_more_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(f'{{"doc_id": "{i}", "text": "{random.Random(i).random()} and so on."}}\n' for i in range(30_000))
    path.write_bytes(gzip.compress(lines.encode()))
    (source,) = fingerprint_sources([str(path)])
    (unit,) = cut_source(str(path), "part-a-0", ReadOptions(), size=10, finished=NOTHING, state=source.state)
    chunks = read_chunks(unit, ReadOptions(), size=10)
    assert len(next(chunks).items) == 10
    with open(path, "r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(SourceFailure, match="has changed since this command began"):
        next(chunks)


def test_parquet_that_breaks_in_the_middle_loses_its_row_group_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = ["".join(random.Random(i).choices("abcdefgh ", k=400)) for i in range(40)]
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(40)], "text": texts}), path, row_group_size=20)
    place = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    chunks = chunks_of(cut(path, size=5), size=5)
    assert [chunk.index for chunk in chunks] == list(range(8))
    rejects = [item for chunk in chunks for item in chunk.items if isinstance(item, Reject)]
    assert [(reject.record_index, reject.reason) for reject in rejects] == [
        (0, Reason.BROKEN_SOURCE),
        *((index, Reason.BROKEN_RECORD) for index in range(1, 20)),
    ]
    assert [item for chunk in chunks for item in chunk.items] == list(read_source(str(path), ReadOptions()))
    documents = [item.doc_id for chunk in chunks for item in chunk.items if isinstance(item, Document)]
    assert documents == [str(index) for index in range(20, 40)]


def test_names_tell_sources_and_contents_apart() -> None:
    assert prefix_of(f"{part_prefix('x/a.csv')}-000012-last") == part_prefix("x/a.csv")
    assert prefix_of("part-mine") is None
    names = {part_prefix(*what) for what in (("x/a.csv",), ("y/a.csv",), ("x/a.csv", "1"), ("x/a.csv", "2"))}
    assert len(names) == 4
    assert all(name.startswith("part-a-") for name in names)
    assert part_prefix("d/\u00fc b.x.gz").startswith("part--b-")
    assert part_prefix("d/.gz").startswith("part-input-")


@pytest.mark.parametrize("name", ["Estrogens.csv", "ADHD.csv"])
def test_real_tables(name: str) -> None:
    path = real_data(f"asreview/{name}")
    options = ReadOptions(id_column="record_id", text_column="abstract")
    units = check_cut(path, size=50, options=options)
    with open(path, encoding="utf-8", newline="") as stream:
        ids = [row["record_id"] for row in csv.DictReader(stream)]
    assert len(units) == -(-len(ids) // 50) > 3
    for unit in units:
        (chunk,) = read_chunks(unit, options, size=50)
        first = unit.start.record_index
        assert [item.doc_id for item in chunk.items] == ids[first : first + 50]


def test_the_scan_is_no_second_parser(tmp_path: Path) -> None:
    """Rows with quotes and line ends at random, against Python's own reader of the same table."""
    draw = random.Random(11)
    rows = [(str(i), "".join(draw.choices(['"', "\n", ",", "word ", "\r\n"], k=12)) + "x") for i in range(300)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("doc_id", "text"), *rows])
    path = tmp_path / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    for unit in check_cut(path, size=9):
        tail = path.read_bytes()[unit.start.offset :].decode()
        assert next(csv.reader(io.StringIO(tail, newline="")))[0] == rows[unit.start.record_index][0]


def test_a_chunk_with_much_text_comes_in_pieces(tmp_path: Path) -> None:
    """Twelve records of about 3 million characters each: six in a piece would be too many, five are not."""
    sentences = ["x" * 100_000] * 30
    lines = [
        json.dumps({"doc_id": str(number), "sentences": sentences if number > 1 else ["Few."]}) for number in range(14)
    ]
    content = "\n".join(lines).encode()
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content, compresslevel=1))
    for path in (plain, packed):
        prefix = part_prefix(str(path))
        chunks = [chunk for unit in cut(path, size=10) for chunk in read_chunks(unit, ReadOptions(), size=10)]
        names = [f"{prefix}-{rest}" for rest in ("000000-p000", "000000-p001-end", "000001-last")]
        assert [chunk.name for chunk in chunks] == names
        assert [[item.doc_id for item in chunk.items] for chunk in chunks] == [
            [str(number) for number in numbers] for numbers in (range(7), range(7, 10), range(10, 14))
        ]
        for there, done in (([0], set()), ([1], set()), ([0, 1], {0}), ([1, 2], {1}), ([0, 1, 2], {0, 1})):
            (finished,) = finished_chunks([names[index] for index in there]).values()
            assert finished.chunks == done
            again = cut_source(str(path), prefix, ReadOptions(), size=10, finished=finished)
            assert [c.name for unit in again for c in read_chunks(unit, ReadOptions(), size=10)] == [
                chunk.name for chunk in chunks if chunk.index not in done
            ]


_READ = """
import resource, sys
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.chunks import Unit, read_chunks
sizes = []
for chunk in read_chunks(Unit(sys.argv[1], "p"), ReadOptions(), size=500):
    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(len(sizes), sizes[3], sizes[-1])
"""


def test_a_long_compressed_file_is_streamed(tmp_path: Path) -> None:
    """Peak memory in MiB after 2,000 records and at the end, of about 80 MB of XML."""
    words = random.Random(1).choices([f"word{number}" for number in range(5000)], k=200_000)
    path = tmp_path / "a.xml.gz"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.write("<PubmedArticleSet>")
        for number in range(50_000):
            text = " ".join(words[number * 3 : number * 3 + 200])
            stream.write(
                f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID><Article><Abstract><AbstractText>{text}."
                "</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
            )
        stream.write("</PubmedArticleSet>")
    command = [sys.executable, "-W", "ignore", "-c", _READ, str(path)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    chunks, early, late = map(int, result.stdout.split())
    assert chunks == 100
    assert late - early < 0.1 * early


def test_names_are_the_same_always() -> None:
    """They are what a repeated run finds its finished parts by."""
    assert part_prefix("x/A.csv") == "part-A-53f27a786bc12d46"
    assert part_prefix("x/A.csv", "file", "job") == "part-A-63d3cb759cb8b601"
    assert part_prefix("\udc80.csv") == "part---4d9b9294970586ba"  # a byte that is no UTF-8
    long = part_prefix("x/Long name_with 'odd' chars, 09 and more than forty.v2.xml.gz").rpartition("-")[0]
    assert long == "part-Long-name_with-odd-chars-09-and-more-tha"  # 40 characters of it
    chunk = Chunk(Unit("a", "part-a-0"), 12, True, ())
    assert (chunk.name, replace(chunk, last=False).name) == ("part-a-0-000012-last", "part-a-0-000012")


def test_what_the_names_say_is_finished() -> None:
    names = ["part-a-0123456789abcdef-000000", "part-a-0123456789abcdef-000002-last", "part-b-0123456789abcdef-1000000"]
    others = [
        "part-a-0123456789abcdef-00003",
        "part-a-0123456789ag-000003",
        "part-a-0123456789abcdef-000003-lost",
        "other",
    ]
    found = finished_chunks([*names, *others])
    assert found == {
        "part-a-0123456789abcdef": Finished({0, 2}, 2),
        "part-b-0123456789abcdef": Finished({1_000_000}, None),
    }
    assert [of.whole for of in found.values()] == [False, False]
    assert Finished({0, 1, 2}, 2).whole
    assert not Finished({0, 1, 2}).whole
    assert not NOTHING.whole
    assert Finished({0}, 0).whole


def test_a_share_depends_on_the_key_alone() -> None:
    assert hash_share("a") == 0.7913742705223816
    assert hash_share("tiny-000") == 0.9672399166902238
    shares = [hash_share(str(number)) for number in range(2000)]
    assert 0 <= min(shares) < 0.01
    assert 0.99 < max(shares) < 1
