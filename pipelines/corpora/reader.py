"""Reads corpora as documents. Needs neither Beam nor TensorFlow.

`read_records` yields, for every record of a source in file order, either a document or the reason why there is none, so
that records in = documents + rejects, always.

A format is a name in `formats.py`, an entry in `PARSERS`, and a module with its parser.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from zstandard import ZstdError

from model.records import Document, Reason, Reject
from pipelines.corpora.checks import Problem, RawRecord, check_record
from pipelines.corpora.delimited import csv_positions, read_csv, read_tsv, tsv_positions
from pipelines.corpora.formats import FORMATS, SourceFormat
from pipelines.corpora.jsonl import is_jsonl, jsonl_positions, read_jsonl
from pipelines.corpora.lines import BYTE_ORDER_MARK, START, RecordPosition
from pipelines.corpora.medline import is_medline, read_medline
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.parquet import is_parquet, parquet_positions, read_parquet
from pipelines.corpora.pubmed_rct import is_pubmed_rct, read_pubmed_rct

Items = Iterator[RawRecord | Problem]
Read = Callable[[io.BufferedReader, ReadOptions, RecordPosition], Items]
FindPositions = Callable[[io.BufferedReader, ReadOptions, int, int | None], tuple[list[RecordPosition], int]]

_COMPRESSION_SUFFIXES = {".gz", ".bz2", ".zst"}


@dataclass(frozen=True, slots=True)
class Parser:
    """How one format is read and recognized.

    Attributes:
        read: yields an item for every record of a stream from a position on.
        positions: finds positions to read from; takes stream, options, `every` and `limit` as `find_positions` does,
            and returns them with the number of records. None for a format that can only be read from its beginning.
        suffixes: the endings of its files' names.
        recognizes: returns True if the first bytes show that a file with another suffix has this format.
    """

    read: Read
    positions: FindPositions | None = None
    suffixes: tuple[str, ...] = ()
    recognizes: Callable[[bytes], bool] | None = None


def _from_beginning(read: Callable[[io.BufferedReader, ReadOptions], Items]) -> Read:
    return lambda stream, options, start: read(stream, options)


PARSERS: Mapping[SourceFormat, Parser] = {
    "jsonl": Parser(read_jsonl, jsonl_positions, suffixes=(".jsonl", ".ndjson"), recognizes=is_jsonl),
    "medline": Parser(_from_beginning(read_medline), suffixes=(".xml",), recognizes=is_medline),
    "pubmed_rct": Parser(_from_beginning(read_pubmed_rct), recognizes=is_pubmed_rct),
    "csv": Parser(read_csv, csv_positions, suffixes=(".csv",)),
    "tsv": Parser(read_tsv, tsv_positions, suffixes=(".tsv",)),
    "parquet": Parser(read_parquet, parquet_positions, suffixes=(".parquet",), recognizes=is_parquet),
}


def detect_format(path: str, head: bytes) -> SourceFormat | None:
    """Returns the format of a source, from its suffix or else its first bytes; None if both are unknown.

    Args:
        path: the source's name; a suffix of compression at its end is ignored.
        head: the first bytes of the source, decompressed.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSION_SUFFIXES:
        suffixes.pop()
    start = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    by_suffix = (name for name, parser in PARSERS.items() if suffixes and suffixes[-1] in parser.suffixes)
    by_content = (name for name, parser in PARSERS.items() if parser.recognizes and parser.recognizes(start))
    return next(by_suffix, None) or next(by_content, None)


def read_records(
    stream: BinaryIO, source: str, options: ReadOptions, start: RecordPosition = START
) -> Iterator[Document | Reject]:
    """Yields one document or reject for every record of a source from `start` on, numbered in file order.

    No content raises an exception. If the source is truncated or broken, the records before that are followed by one
    reject at the position where the next record would have been.

    Args:
        stream: the content, decompressed. Only Parquet needs it seekable. It stays open.
        source: the name that documents and rejects carry.
        options: what to read and where to stop.
        start: where to begin: the beginning, or a position that `find_positions` found.
    """
    record_index = start.record_index
    try:
        for item in _read_items(stream, source, options, start):
            if isinstance(item, Problem):
                yield Reject(source, record_index, item.reason, item.message, item.doc_id, item.beginning)
            else:
                yield check_record(item, source, record_index, options=options)
            record_index += 1
    except (EOFError, OSError, zlib.error, ZstdError) as error:
        message = f"reading broke off after {record_index} records: {error or type(error).__name__}"
        yield Reject(source, record_index, Reason.BROKEN_SOURCE, message)


def find_positions(
    stream: io.BufferedReader, source: str, options: ReadOptions, *, every: int, limit: int | None = None
) -> tuple[list[RecordPosition], int] | None:
    """Returns positions from which a source can be read, and the number of its records.

    Returns None if it can only be read from its beginning: it is compressed, has a format without such positions or no
    records, or can't be read.

    Args:
        stream: the content, at its beginning.
        source, options: as for `read_records`.
        every: number of records from one position to the next. In Parquet, the positions are the multiples of it next
            to the beginnings of row groups.
        limit: count at most this many records; None for all.

    Raises:
        OSError: reading failed.
    """
    if not stream.seekable():  # compressed, and perhaps broken from the first byte on
        return None
    format = options.format or detect_format(source, stream.peek())
    find = PARSERS[format].positions if format else None
    if find is None:
        return None
    positions, records = find(stream, options, every, limit)
    return (positions, records) if records else None


def _read_items(stream: BinaryIO, source: str, options: ReadOptions, start: RecordPosition) -> Items:
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))
    try:
        reader = cast(io.BufferedReader, buffered)
        head = reader.peek()
        format = options.format or detect_format(source, head)
        if not head:
            yield Problem(Reason.UNREADABLE_SOURCE, "the file is empty")
        elif format is None:
            message = f"neither the file's name nor its content tells the format; name one of {', '.join(FORMATS)}"
            yield Problem(Reason.UNREADABLE_SOURCE, message)
        else:
            yield from PARSERS[format].read(reader, options, start)
    finally:
        if buffered is not stream:
            cast(io.BufferedReader, buffered).detach()  # else it would close the caller's stream
