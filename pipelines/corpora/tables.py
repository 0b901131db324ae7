"""Tables: CSV and TSV with a text column, and Parquet with a text column or list columns of sentences and labels."""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from model.records import Reason
from pipelines.corpora.checks import Problem, RawRecord
from pipelines.corpora.lines import START, RecordPosition, bounded_lines, every_so_many
from pipelines.corpora.options import ReadOptions

_BATCH_ROWS = 256
_PARQUET_EXTRAS = ("confidences", "scores", "features", "highlights")


def read_csv(stream: BinaryIO, options: ReadOptions, start: RecordPosition = START) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of comma-separated values under a header, from `start` on."""
    return _read_delimited(stream, options, start, delimiter=",")


def read_tsv(stream: BinaryIO, options: ReadOptions, start: RecordPosition = START) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of tab-separated values under a header, from `start` on."""
    return _read_delimited(stream, options, start, delimiter="\t")


def csv_positions(
    stream: BinaryIO, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the position of every `every`th CSV row, ignoring line ends in quotes, and the number of rows."""
    return every_so_many(_delimited_positions(stream, options, delimiter=","), every, limit)


def tsv_positions(
    stream: BinaryIO, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the position of every `every`th TSV row, and the number of rows."""
    return every_so_many(_delimited_positions(stream, options, delimiter="\t"), every, limit)


class _TextLines:
    """The lines of a stream as text for `csv.reader`. An iterator, since a generator ends at the first error.

    Attributes:
        record_line: the number of the line that the current record begins on.
        record_offset: bytes of the source before that line.
        beginning: the current record's first line, cut short.
    """

    def __init__(self, stream: BinaryIO, max_record_bytes: int, start: RecordPosition = START) -> None:
        self._lines = bounded_lines(stream, max_record_bytes, start=start)
        self._max_record_bytes = max_record_bytes
        self._next_line, self._next_offset = start.line, start.offset
        self.start_record()

    def start_record(self) -> None:
        """Records that the next line begins a new record."""
        self._record_bytes = 0
        self.record_line, self.record_offset = self._next_line, self._next_offset
        self.beginning = ""

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._next_line, self._next_offset = line.number + 1, line.end
        # Bytes that are not UTF-8 become lone surrogates, which the checks reject in a field that is used.
        text = line.data.decode("utf-8", "surrogateescape")
        self.beginning = self.beginning or text[:1024]
        self._record_bytes += len(line.data)
        if line.too_long or self._record_bytes > self._max_record_bytes:
            message = f"the row at line {self.record_line} is longer than {self._max_record_bytes} bytes"
            raise Problem(Reason.TOO_LARGE, message, self.beginning)
        return text + "\n"


def _read_delimited(
    stream: BinaryIO, options: ReadOptions, start: RecordPosition, *, delimiter: str
) -> Iterator[RawRecord | Problem]:
    lines = _TextLines(stream, options.max_record_bytes)
    rows = _read_rows(lines, delimiter)
    header = _read_header(rows, options)
    if isinstance(header, Problem):
        yield header
        return
    id_position, text_position = header.index(options.id_column), header.index(options.text_column)
    if start.offset:
        stream.seek(start.offset)
        lines = _TextLines(stream, options.max_record_bytes, start)
        rows = _read_rows(lines, delimiter)
    for row in rows:
        if isinstance(row, Problem):
            yield row
        elif len(row) != len(header):
            message = f"the row at line {lines.record_line} has {len(row)} fields; the header has {len(header)}"
            yield Problem(Reason.BROKEN_RECORD, message, lines.beginning)
        else:
            yield RawRecord(lambda: lines.beginning, doc_id=row[id_position], text=row[text_position])


def _delimited_positions(stream: BinaryIO, options: ReadOptions, *, delimiter: str) -> Iterator[RecordPosition]:
    lines = _TextLines(stream, options.max_record_bytes)
    rows = _read_rows(lines, delimiter)
    if not isinstance(_read_header(rows, options), Problem):
        for index, _ in enumerate(rows):
            yield RecordPosition(index, lines.record_line, lines.record_offset)


def _read_header(rows: Iterator[list[str] | Problem], options: ReadOptions) -> list[str] | Problem:
    header = next(rows, [])
    if isinstance(header, Problem):
        return Problem(Reason.UNREADABLE_SOURCE, f"the header cannot be read: {header.message}", header.beginning)
    missing = _missing_columns(header, {"id_column": options.id_column, "text_column": options.text_column})
    return missing or header


def _read_rows(lines: _TextLines, delimiter: str) -> Iterator[list[str] | Problem]:
    """Yields every row that is not blank. After a broken row, reading continues at the next line."""
    # Strict, so that a stray quote is an error in its own row and doesn't swallow the rows after it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record()
        try:
            row = next(reader)
        except StopIteration:
            return
        except Problem as problem:
            yield problem
        except csv.Error as error:
            reason = Reason.TOO_LARGE if "field limit" in str(error) else Reason.BROKEN_RECORD
            message = f"the row at line {lines.record_line} cannot be read, perhaps for a stray quote: {error}"
            yield Problem(reason, message, lines.beginning)
        else:
            if row:
                yield row


def read_parquet(
    stream: io.BufferedReader, options: ReadOptions, start: RecordPosition = START
) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row from `start` on. If a row has both sentences and text, the sentences are used."""
    table = _open_parquet(stream)
    if isinstance(table, Problem):
        yield table
        return
    names = table.schema_arrow.names
    needed = {"id_column": options.id_column}
    if options.sentences_column not in names:
        needed["text_column"] = options.text_column
    missing = _missing_columns(names, needed)
    if missing is not None:
        yield missing
        return
    known = (options.id_column, options.text_column, options.sentences_column, options.labels_column, *_PARQUET_EXTRAS)
    ends = list(accumulate(_group_rows(table)))
    first = bisect_right(ends, start.record_index)
    passed_over = start.record_index - (ends[first - 1] if first else 0)
    columns = [name for name in names if name in known]
    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=range(first, len(ends)), columns=columns):
            dropped = min(passed_over, batch.num_rows)
            passed_over -= dropped
            for row in _batch_rows(batch.slice(dropped)):
                yield row if isinstance(row, Problem) else _raw_row(row, options)
    except pa.ArrowException as error:
        yield Problem(Reason.BROKEN_SOURCE, f"the Parquet file is broken: {error}")


def parquet_positions(
    stream: io.BufferedReader, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the multiples of `every` next to the beginnings of row groups, and the number of rows in the footer."""
    table = _open_parquet(stream)
    if isinstance(table, Problem):
        return [], 0
    groups = _group_rows(table)
    records = min(sum(groups), limit or sum(groups))
    starts = {-(-end // every) * every for end in (0, *accumulate(groups))}
    return [RecordPosition(index) for index in sorted(starts) if index < records], records


def is_parquet(head: bytes) -> bool:
    """Returns True if a file begins like Parquet."""
    return head.startswith(b"PAR1")


def _open_parquet(stream: io.BufferedReader) -> pq.ParquetFile | Problem:
    if not stream.seekable():
        message = "Parquet cannot be read from inside a compressed file; decompress it (its columns are compressed)"
        return Problem(Reason.UNREADABLE_SOURCE, message)
    try:
        # Without pre-buffering, memory holds batches rather than whole row groups.
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=64 * 1024)
    except (pa.ArrowException, OSError) as error:
        return Problem(Reason.UNREADABLE_SOURCE, f"this is not a readable Parquet file: {error}")


def _group_rows(table: pq.ParquetFile) -> list[int]:
    return [table.metadata.row_group(index).num_rows for index in range(table.metadata.num_row_groups)]


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, object] | Problem]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield Problem(Reason.INVALID_ENCODING, f"the row holds text that is not UTF-8: {error.reason}")
            return
        for index in range(batch.num_rows):
            yield from _batch_rows(batch.slice(index, 1))


def _raw_row(row: dict[str, object], options: ReadOptions) -> RawRecord:
    sentences = row.get(options.sentences_column)
    return RawRecord(
        lambda: repr(row),
        doc_id=row[options.id_column],
        text=row.get(options.text_column),
        sentences=sentences,
        labels=row.get(options.labels_column),
        confidences=row.get("confidences"),
        scores=row.get("scores"),
        features=row.get("features"),
        highlights=row.get("highlights"),
    )


def _missing_columns(names: Sequence[str], needed: dict[str, str]) -> Problem | None:
    missing = [f"{column!r} ({option})" for option, column in needed.items() if column not in names]
    if not missing:
        return None
    message = f"there is no column {' and no column '.join(missing)}; the columns are {', '.join(map(repr, names))}"
    return Problem(Reason.UNREADABLE_SOURCE, message)
