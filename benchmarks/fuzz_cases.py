"""Files to read for `fuzz.py`: well-formed ones with odd content in each format, then damaged and compressed.

A case depends on its number and the seed alone.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.corpora.formats import FORMATS, QUOTINGS, SourceFormat
from pipelines.corpora.options import ReadOptions

COMPRESSIONS = ("plain", "gz", "bz2", "zst")
_SUFFIXES = {"jsonl": ".jsonl", "medline": ".xml", "pubmed_rct": ".txt", "csv": ".csv", "tsv": ".tsv"}

_TEXTS = (
    *(
        "",
        " ",
        "\u200b",
        "\ufffd",
        "\u0301",
        "It is.",
        "We measured it, twice.",
        "caf\u00e9",
        "cafe\u0301",
        "\U0001f9ec",
    ),
    *(
        '"',
        '""',
        '"open',
        'five inch"',
        '"closed"',
        'a "b" c',
        '1,"',
        "\t",
        "a\tb",
        ",",
        ",,",
        "a\nb",
        "a\r\nb",
        "\r",
        "\n\n",
    ),
    *(
        "\x00",
        "\x1b[31m",
        "\x85",
        "\u2028",
        "\u202e",
        "###",
        "###1",
        "[SEP]",
        "&amp;",
        "<i>",
        "]]>",
        "=1+1",
        "{",
        "}",
        "[]",
    ),
    *("\udc80", "\ud800", "NaN", "null", "-0", "1e999", "0" * 30, "x" * 300, "word " * 90, ".1" * 200, "\u3002" * 50),
)
_NUMBERS = (
    0,
    1,
    -1,
    0.5,
    1.0,
    1e38,
    3.5e38,
    1e39,
    -1e308,
    float("inf"),
    float("nan"),
    10**30,
    2**63,
    True,
    None,
    "1",
    [1],
)
_TOKENS: Mapping[SourceFormat, tuple[bytes, ...]] = {
    "jsonl": (
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\u",
        b"\\ud800",
        b":",
        b",",
        b"null",
        b"1e999",
        b"\n",
        b'{"a":' * 3000,
        b"[" * 9000,
    ),
    "medline": (
        *(
            b"<PubmedArticle>",
            b"</PubmedArticle>",
            b"</PubmedArticleSet>",
            b"<PMID>",
            b"</PMID>",
            b"&",
            b"&x;",
            b"&#0;",
        ),
        *(b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?x?>", b"<a>" * 400, b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"</"),
        *(b"<DeleteCitation>", b"<AbstractText>", b'<?xml version="1.0" encoding="utf-16"?>', b"xmlns='u'"),
    ),
    "pubmed_rct": (b"###", b"\n", b"\n\n", b"\t", b"\r", b"METHODS\t", b"\x00"),
    "csv": (b'"', b'""', b",", b"\n", b"\r", b"\r\n", b'\n1,"', b'",', b",,,", b"doc_id", b"\x00"),
    "tsv": (b'"', b'""', b"\t", b"\n", b"\r", b"\r\n", b'\n1\t"', b'"\t', b"\x00"),
    "parquet": (b"PAR1", b"\x00" * 8, b"\xff" * 8, b"\x15\x80\x80\x80\x80\x10", b"\x19\x1c", b"\x00\x00\x00\x80"),
}
_ANYWHERE = (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"BZh9", b"\x28\xb5\x2f\xfd", b"a" * 5000)


@dataclass(frozen=True)
class Case:
    """A file to read, and how.

    Attributes:
        format: that it has, or had before it was damaged.
        compression: one of `COMPRESSIONS`.
        name: of the file.
        content: of the file.
        options: how it is read.
        size: records in a chunk.
        limit: records to read; None for all.
        records: how many it has; None if it has been damaged.
    """

    format: SourceFormat
    compression: str
    name: str
    content: bytes
    options: ReadOptions
    size: int
    limit: int | None
    records: int | None


def kind_of(number: int) -> tuple[SourceFormat, str]:
    """Returns the format and the compression of a case. Each has its turn."""
    return FORMATS[number % len(FORMATS)], COMPRESSIONS[number // len(FORMATS) % len(COMPRESSIONS)]


def make_case(number: int, seed: int) -> Case:
    """Returns a case."""
    draw = random.Random(f"{seed}/{number}")
    format, compression = kind_of(number)
    options = ReadOptions(
        format=format if draw.random() < 0.5 else None,
        quoting=draw.choice((None, *QUOTINGS)),
        deletions=draw.random() < 0.3,
        max_record_bytes=draw.choice((60, 1000, 20_000, 16 << 20)),
        max_sentences=draw.choice((2, 10, 10_000)),
        max_text_chars=draw.choice((100, 200_000)),
    )
    content, records = _WRITERS[format](draw, options)
    whole = format == "parquet" and draw.random() < 0.5  # hardly a change leaves anything of such a file
    damaged = content if whole else _damaged(content, draw, _TOKENS[format])
    inside = format == "parquet" and draw.random() < 0.9  # it compresses its columns itself
    stored = damaged if inside else _compressed(damaged, compression, draw)
    broken = _damaged(stored, draw, ()) if not inside and compression != "plain" and draw.random() < 0.3 else stored
    known = damaged == content and broken == stored and (inside or compression == "plain" or format != "parquet")
    suffix = _SUFFIXES.get(format, ".parquet") if draw.random() < 0.8 else ""
    name = f"a{suffix}{'' if inside or compression == 'plain' else f'.{compression}'}"
    if options.format is None and (not suffix or format == "pubmed_rct"):
        known = False  # its first bytes may look like another format's
    return Case(
        format,
        compression,
        name,
        broken,
        options,
        size=draw.choice((1, 2, 3, 7, 500)),
        limit=draw.choice((None, None, 1, 5)),
        records=records if known else None,
    )


def _record(draw: random.Random) -> dict[str, Any]:
    """Returns a record as JSON lines hold it: most are good, and any part of others may not be."""

    def text() -> Any:
        if draw.random() < 0.001:  # what sentence splitters are slow on
            return draw.choice((".1", ".", "a.\n", "\n- ", "A.B.", "x.METHODS: ", "\u3002", "? ", "1. ")) * 9000
        return draw.choice(_TEXTS) if draw.random() < 0.3 else f"We measured {draw.randrange(10**6)} of them."

    def odd(value: Any) -> Any:
        return draw.choice((*_NUMBERS, *_TEXTS, {}, [])) if draw.random() < 0.04 else value

    count = draw.choice((0, 1, 1, 2, 3, 3, 5, 12))
    record: dict[str, Any] = {"doc_id": odd(f"d{draw.randrange(1000)}")}
    if draw.random() < 0.5:
        record["text"] = odd(" ".join(str(text()) for _ in range(count)))
    else:
        record["sentences"] = odd([odd(text()) for _ in range(count)])
    for name, make in (
        ("labels", lambda: draw.choice(("aim", "method", *_TEXTS[:12]))),
        ("confidences", draw.random),
        ("scores", lambda: draw.choice(_NUMBERS) if draw.random() < 0.2 else draw.random()),
        ("features", lambda: [draw.choice(_NUMBERS[:4]) for _ in range(draw.choice((1, 2, 2)))]),
    ):
        if draw.random() < 0.2:
            record[name] = odd([odd(make()) for _ in range(count)])
    return record


def _count(draw: random.Random) -> int:
    return draw.choice((0, 1, 2, 3, 8, 30, 120))


def _write_jsonl(draw: random.Random, options: ReadOptions) -> tuple[bytes, int]:
    ascii = draw.random() < 0.5
    lines = [json.dumps(_record(draw), ensure_ascii=ascii) for _ in range(_count(draw))]
    end = draw.choice(("\n", "\r\n", "\n\n"))
    return end.join(lines).encode("utf-8", "surrogatepass"), len(lines) or 1


def _write_medline(draw: random.Random, options: ReadOptions) -> tuple[bytes, int | None]:
    def text() -> str:
        shown = escape(
            "".join(char for char in str(draw.choice(_TEXTS)) if char >= " " and not "\ud800" <= char <= "\udfff")
        )
        return draw.choice(
            (shown, f"<i>{shown}</i> of it.", f"We measured {shown}", "<!-- x -->It is.", "<![CDATA[<x>]]>")
        )

    body, records = [], 0
    for number in range(_count(draw)):
        kind = draw.random()
        attributes = ("", ' Label="AIMS"', ' NlmCategory="METHODS"')
        sections = "".join(
            f"<AbstractText{draw.choice(attributes)}>{text()}</AbstractText>" for _ in range(draw.choice((0, 1, 2, 4)))
        )
        if kind < 0.1:
            count = draw.choice((0, 1, 3))
            body.append(f"<DeleteCitation>{'<PMID>7</PMID>' * count}</DeleteCitation>")
            records += count if options.deletions else 0
        elif kind < 0.2:
            body.append(
                f"<PubmedBookArticle><BookDocument><PMID>{number}</PMID><Abstract>{sections}</Abstract></BookDocument></PubmedBookArticle>"
            )
            records += 1
        else:
            pmid = draw.choice((f"<PMID>{number}</PMID>", f'<PMID Version="1">{number}</PMID>', "<PMID/>", ""))
            body.append(
                f"<PubmedArticle><MedlineCitation>{pmid}<Article><Abstract>{sections}</Abstract></Article></MedlineCitation></PubmedArticle>"
            )
            records += 1
    encoding = draw.choice(("utf-8", "utf-8", "utf-16"))
    xml = f'<?xml version="1.0" encoding="{encoding}"?><PubmedArticleSet>{"".join(body)}</PubmedArticleSet>'
    # The limit of a record's bytes ends the file, wherever it falls among the blocks that are read.
    return xml.encode(encoding), records if options.max_record_bytes > len(xml) * 2 else None


def _write_pubmed_rct(draw: random.Random, options: ReadOptions) -> tuple[bytes, int | None]:
    abstracts = []
    for number in range(_count(draw)):
        lines = [f"###{number}"]
        for _ in range(draw.choice((0, 1, 3, 8))):
            label, text = (
                draw.choice(("AIM", "METHODS", "")),
                str(draw.choice(_TEXTS)).replace("\n", " ").replace("\r", " "),
            )
            lines.append(f"{label}{draw.choice((chr(9), chr(9), chr(9), ' '))}x{text}")
        abstracts.append("\n".join(lines))
    text = "\n\n".join(abstracts) + "\n"
    return text.encode("utf-8", draw.choice(("surrogatepass", "replace"))), len(abstracts)


def _write_table(delimiter: str) -> Callable[[random.Random, ReadOptions], tuple[bytes, int | None]]:
    quoted = "csv" if delimiter == "," else "none"

    def write(draw: random.Random, options: ReadOptions) -> tuple[bytes, int | None]:
        columns = ["doc_id", "text", *("more",) * draw.choice((0, 0, 1, 5))]
        draw.shuffle(columns)
        rows = []
        for number in range(_count(draw)):
            text = draw.choice(_TEXTS) if draw.random() < 0.3 else f"We measured {number}."
            rows.append([f"d{number}" if name == "doc_id" else text if name == "text" else "x" for name in columns])
        plain = (options.quoting or quoted) == "none"
        if plain:
            drop = str.maketrans("", "", "\r\n" + delimiter)
            rows = [[field.translate(drop) for field in row] for row in rows]
            table = "".join(f"{delimiter.join(row)}\n" for row in [columns, *rows])
        else:
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, delimiter=delimiter, quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
            writer.writerows([columns, *rows])
            table = stream.getvalue()
        # A row over the limit may end anywhere, and so may one whose text looks like rows.
        sure = options.max_record_bytes > len(table) * 4 and (
            plain or not any("\n" in row for row in map("".join, rows))
        )
        mark = draw.choice(("", "", "\ufeff"))
        return f"{mark}{table}".encode("utf-8", "replace"), len(rows) if sure else None

    return write


def _write_parquet(draw: random.Random, options: ReadOptions) -> tuple[bytes, int | None]:
    rows = _count(draw)
    lists = draw.random() < 0.5
    texts = [f"We measured {number}." for number in range(rows)]
    strings: list[pa.Array] = [
        pa.array(texts),
        pa.array(texts, pa.large_string()),
        pa.array([text.encode() + b"\xff" * (draw.random() < 0.1) for text in texts], pa.binary()),
        pa.array([text.encode() + b"\xff" * (draw.random() < 0.1) for text in texts], pa.binary()).view(pa.string()),
        pa.array([draw.choice(("a", "x" * 3000, None)) for _ in range(rows)], pa.string()).dictionary_encode(),
        pa.array([None] * rows, draw.choice((pa.null(), pa.string()))),
        pa.array(
            [draw.choice((0, 1 << 60, None)) for _ in range(rows)], pa.timestamp("ms", draw.choice((None, "Mars/X")))
        ),
        pa.array([{"a": 1}] * rows, pa.struct([("a", pa.int64())])),
        pa.array([1.5] * rows, draw.choice((pa.float16(), pa.float32(), pa.float64()))),
    ]
    good = [pa.array(range(rows), pa.int64()), pa.array([f"d{number}" for number in range(rows)], pa.string())]
    ids = draw.choice((*good, *good, *good, *strings))
    values = [
        pa.string(),
        pa.large_string(),
        pa.int8(),
        pa.float32(),
        pa.bool_(),
        pa.timestamp("ms"),
        pa.list_(pa.float32()),
    ]

    def column(kind: pa.DataType) -> pa.Array:
        empty: Any = [] if pa.types.is_list(kind) else None
        entry = {pa.string(): "It is.", pa.large_string(): "It is.", pa.bool_(): True}.get(
            kind, 1 if empty is None else [1.0, 2.0]
        )
        entries = [draw.choice(([entry] * 2, [entry] * draw.randrange(40), [], [None], None)) for _ in range(rows)]
        return pa.array(entries, draw.choice((pa.list_, pa.large_list))(kind))

    table = {"doc_id": ids, "text": draw.choice((*strings[:2], *strings))}
    if lists:
        table["sentences"] = column(draw.choice((pa.string(), pa.string(), pa.large_string(), *values)))
        for name in draw.sample(("labels", "scores", "features", "confidences", "highlights"), draw.randrange(3)):
            table[name] = column(draw.choice(values))
    content = io.BytesIO()
    pq.write_table(
        pa.table(table),
        content,
        row_group_size=draw.choice((1, 3, 50, 1000)),
        compression=draw.choice(("none", "snappy", "zstd", "gzip", "lz4", "brotli")),
        use_dictionary=draw.random() < 0.5,
        data_page_version=draw.choice(("1.0", "2.0")),
        data_page_size=draw.choice((100, 1 << 20)),
        write_statistics=draw.random() < 0.5,
        store_schema=draw.random() < 0.5,
    )
    return content.getvalue(), rows


_WRITERS: Mapping[SourceFormat, Callable[[random.Random, ReadOptions], tuple[bytes, int | None]]] = {
    "jsonl": _write_jsonl,
    "medline": _write_medline,
    "pubmed_rct": _write_pubmed_rct,
    "csv": _write_table(","),
    "tsv": _write_table("\t"),
    "parquet": _write_parquet,
}


def _damaged(content: bytes, draw: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    """Returns the content with up to a few changes: bits, spans or tokens of the format, or its end cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((0, 0, 1, 1, 2, 6))):
        place, span = draw.randrange(len(changed) + 1), draw.choice((1, 1, 2, 8, 100, 3000))
        if draw.random() < 0.3:
            place = max(0, len(changed) - draw.randrange(64))  # where Parquet and the compressions have their sums
        match draw.choice(("flip", "write", "delete", "repeat", "insert", "insert", "cut", "swap")):
            case "flip" if place < len(changed):
                changed[place] ^= 1 << draw.randrange(8)
            case "write":
                changed[place : place + span] = draw.randbytes(min(span, 16))
            case "delete":
                del changed[place : place + span]
            case "repeat":
                changed[place:place] = changed[place : place + span] * draw.choice((1, 2, 30))
            case "insert":
                changed[place:place] = draw.choice((*tokens, *_ANYWHERE))
            case "cut" if draw.random() < 0.5:
                del changed[place:]
            case "swap":
                other = draw.randrange(len(changed) + 1)
                changed[place : place + span], changed[other : other + span] = (
                    changed[other : other + span],
                    changed[place : place + span],
                )
    return bytes(changed)


def _compressed(content: bytes, compression: str, draw: random.Random) -> bytes:
    """Returns the content compressed, sometimes in several streams one after another."""
    compress: dict[str, Callable[[bytes], bytes]] = {
        "plain": bytes,
        "gz": lambda data: gzip.compress(data, 1, mtime=0),
        "bz2": lambda data: bz2.compress(data, 1),
        "zst": zstandard.ZstdCompressor(1, write_checksum=draw.random() < 0.5).compress,
    }
    cut = draw.randrange(len(content) + 1) if draw.random() < 0.2 else len(content)
    parts = [content[:cut], content[cut:]] if cut < len(content) else [content]
    return b"".join(map(compress[compression], parts))
