"""Tables: CSV and TSV with a text column, and Parquet with a text column or list columns of sentences and labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from model.records import Reason
from pipelines.corpora.checks import Problem, RawRecord
from pipelines.corpora.lines import bounded_lines
from pipelines.corpora.options import ReadOptions

_BATCH_ROWS = 256
_PARQUET_EXTRAS = ("confidences", "scores", "features", "highlights")


def read_csv(stream: BinaryIO, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of comma-separated values under a header."""
    return _read_delimited(stream, options, delimiter=",")


def read_tsv(stream: BinaryIO, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of tab-separated values under a header."""
    return _read_delimited(stream, options, delimiter="\t")


class _TextLines:
    """The lines of a stream as text for `csv.reader`. An iterator, since a generator ends with the first error."""

    def __init__(self, stream: BinaryIO, max_record_bytes: int) -> None:
        self._lines = bounded_lines(stream, max_record_bytes)
        self._max_record_bytes = max_record_bytes
        self._record_bytes = 0
        self.record_start = 1
        self.beginning = ""

    def start_record(self, line_number: int) -> None:
        """Notes that a new record begins on this line."""
        self._record_bytes = 0
        self.record_start = line_number
        self.beginning = ""

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        # Bytes that are not UTF-8 become lone surrogates, which the checks reject where they stand in a field in use.
        text = line.data.decode("utf-8", "surrogateescape")
        self.beginning = self.beginning or text[:1024]
        self._record_bytes += len(line.data)
        if line.too_long or self._record_bytes > self._max_record_bytes:
            message = f"the row at line {line.number} is longer than {self._max_record_bytes} bytes"
            raise Problem(Reason.TOO_LARGE, message, self.beginning)
        return text + "\n"


def _read_delimited(stream: BinaryIO, options: ReadOptions, *, delimiter: str) -> Iterator[RawRecord | Problem]:
    lines = _TextLines(stream, options.max_record_bytes)
    rows = _read_rows(lines, delimiter)
    header = next(rows, [])
    if isinstance(header, Problem):
        yield Problem(Reason.UNREADABLE_SOURCE, f"the header cannot be read: {header.message}", header.beginning)
        return
    missing = _missing_columns(header, {"id_column": options.id_column, "text_column": options.text_column})
    if missing is not None:
        yield missing
        return
    id_position, text_position = header.index(options.id_column), header.index(options.text_column)
    for row in rows:
        if isinstance(row, Problem):
            yield row
        elif len(row) != len(header):
            message = f"the row at line {lines.record_start} has {len(row)} fields; the header has {len(header)}"
            yield Problem(Reason.BROKEN_RECORD, message, lines.beginning)
        else:
            yield RawRecord(lambda: lines.beginning, doc_id=row[id_position], text=row[text_position])


def _read_rows(lines: _TextLines, delimiter: str) -> Iterator[list[str] | Problem]:
    """Yields every row that is not blank. After a broken one, reading goes on at the next line."""
    # Strict, so that a stray quote is an error where it stands; else it would swallow the rows after it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record(reader.line_num + 1)
        try:
            row = next(reader)
        except StopIteration:
            return
        except Problem as problem:
            yield problem
        except csv.Error as error:
            reason = Reason.TOO_LARGE if "field limit" in str(error) else Reason.BROKEN_RECORD
            message = f"the row at line {lines.record_start} cannot be read, perhaps for a stray quote: {error}"
            yield Problem(reason, message, lines.beginning)
        else:
            if row:
                yield row


def read_parquet(stream: io.BufferedReader, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row. Lists of sentences go before text where a row has both."""
    if not stream.seekable():
        message = "Parquet cannot be read from inside a compressed file; decompress it (its columns are compressed)"
        yield Problem(Reason.UNREADABLE_SOURCE, message)
        return
    try:
        # Without pre-buffering, memory holds batches rather than whole row groups.
        table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=64 * 1024)
        names = table.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        yield Problem(Reason.UNREADABLE_SOURCE, f"this is not a readable Parquet file: {error}")
        return
    needed = {"id_column": options.id_column}
    if options.sentences_column not in names:
        needed["text_column"] = options.text_column
    missing = _missing_columns(names, needed)
    if missing is not None:
        yield missing
        return
    known = (options.id_column, options.text_column, options.sentences_column, options.labels_column, *_PARQUET_EXTRAS)
    try:
        for batch in table.iter_batches(_BATCH_ROWS, columns=[name for name in names if name in known]):
            for row in _batch_rows(batch):
                yield row if isinstance(row, Problem) else _raw_row(row, options)
    except pa.ArrowException as error:
        yield Problem(Reason.BROKEN_SOURCE, f"the Parquet file is broken: {error}")


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
