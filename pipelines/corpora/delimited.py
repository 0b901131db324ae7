"""CSV and TSV: rows with an id and a text under a header.

With quoting, a stray quote lets a field run on over the rows after it, until another quote ends it, or to the end. It
can't be told for sure where such a row should have ended. It is taken to end before the next line that looks like a
row: one with enough fields, and with an id like the row's own. Its reject covers the lines before that.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from model.records import MAX_EXCERPT_BYTES, Reason
from pipelines.corpora.checks import Problem, RawRecord, missing_columns
from pipelines.corpora.formats import Quoting
from pipelines.corpora.lines import START, Line, RecordPosition, bounded_lines, every_so_many
from pipelines.corpora.options import ReadOptions


def read_csv(stream: BinaryIO, options: ReadOptions, start: RecordPosition = START) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of comma-separated values under a header, from `start` on."""
    return _read(stream, options, start, delimiter=",", quoting=options.quoting or "csv")


def read_tsv(stream: BinaryIO, options: ReadOptions, start: RecordPosition = START) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of tab-separated values under a header, from `start` on."""
    return _read(stream, options, start, delimiter="\t", quoting=options.quoting or "none")


def csv_positions(
    stream: BinaryIO, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the position of every `every`th CSV row, ignoring line ends in quotes, and the number of rows."""
    found = _positions(stream, options, delimiter=",", quoting=options.quoting or "csv")
    return every_so_many(found, every, limit)


def tsv_positions(
    stream: BinaryIO, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the position of every `every`th TSV row, and the number of rows."""
    found = _positions(stream, options, delimiter="\t", quoting=options.quoting or "none")
    return every_so_many(found, every, limit)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header says about the rows.

    Attributes:
        fields: how many a row has.
        id_position, text_position: which of them are read.
        delimiter: what stands between them.
    """

    fields: int
    id_position: int
    text_position: int
    delimiter: str

    def id_has_digit(self, line: str) -> bool | None:
        """Returns whether there is a digit in the id of a line, read without quoting; None if it is not like a row."""
        fields = line.split(self.delimiter)
        found = fields[self.id_position].strip().strip('"') if len(fields) >= self.fields else ""
        return any(map(str.isdigit, found)) if found and not any(map(str.isspace, found)) else None


class _TextLines:
    """The lines of a stream as text for `csv.reader`. An iterator, since a generator ends at the first error.

    Attributes:
        record: the lines of the current record so far.
    """

    def __init__(self, stream: BinaryIO, max_record_bytes: int, start: RecordPosition = START) -> None:
        self._lines = bounded_lines(stream, max_record_bytes, start=start)
        self._max_record_bytes = max_record_bytes
        self._returned: deque[Line] = deque()
        self.start_record()

    def start_record(self) -> None:
        """Records that the next line begins a new record."""
        self.record: list[Line] = []
        self._record_bytes = 0

    def give_back(self, kept: int) -> None:
        """Ends the current record after this many lines; the others are read again."""
        self._returned.extendleft(reversed(self.record[kept:]))
        del self.record[kept:]

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.record.append(line)
        self._record_bytes += len(line.data)
        if line.too_long or self._record_bytes > self._max_record_bytes:
            raise Problem(Reason.TOO_LARGE, f"is longer than {self._max_record_bytes} bytes")
        return f"{text_of(line)}\n"


def text_of(line: Line) -> str:
    """Returns a line as text. Bytes that are not UTF-8 become lone surrogates, which the checks reject where used."""
    return line.data.decode("utf-8", "surrogateescape")


class _Rows:
    """The rows of a table, from a position on.

    Attributes:
        lines: what they are read from; `lines.record` has the current row's.
    """

    def __init__(
        self, stream: BinaryIO, options: ReadOptions, delimiter: str, quoting: Quoting, start: RecordPosition = START
    ) -> None:
        self.lines = _TextLines(stream, options.max_record_bytes, start)
        self._delimiter = delimiter
        self._reader = None
        if quoting == "csv":
            csv.field_size_limit(max(csv.field_size_limit(), options.max_record_bytes))
            # Strict, so that a stray quote is an error as soon as it shows.
            self._reader = csv.reader(self.lines, delimiter=delimiter, strict=True)

    def next_row(self) -> list[str] | Problem | None:
        """Returns the next row that is not blank, or what is wrong with it; None at the end."""
        while True:
            self.lines.start_record()
            try:
                if row := self._split():
                    return row
            except StopIteration:
                return None
            except Problem as problem:
                return problem
            except csv.Error as error:
                return Problem(Reason.BROKEN_RECORD, f"cannot be read, perhaps for a stray quote: {error}")

    def _split(self) -> list[str]:
        if self._reader is not None:
            return next(self._reader)
        text = next(self.lines)[:-1]
        return text.split(self._delimiter) if text else []

    def under(self, header: _Header) -> Iterator[list[str] | Problem]:
        """Yields every row that the header fits, and a problem for every other one."""
        while (row := self.next_row()) is not None:
            if isinstance(row, list) and len(row) == header.fields and not self._holds_only_rows(header):
                yield row
            else:
                yield self._broken(row, header)

    def _holds_only_rows(self, header: _Header) -> bool:
        """Returns True if the current row spans several lines, and each of them alone looks like a row."""
        lines = self.lines.record
        return len(lines) > 1 and all(_like(lines[0], line, header) for line in lines if line.data.strip())

    def _broken(self, row: list[str] | Problem, header: _Header) -> Problem:
        """Returns what is wrong with the current row, which ends before the next line in it that looks like a row."""
        first, *others = self.lines.record
        if isinstance(row, Problem):
            reason, why = row.reason, row.message
        else:
            held = len(row) == header.fields
            reason = Reason.BROKEN_RECORD
            why = "holds other rows" if held else f"has {len(row)} fields; the header has {header.fields}"
        where, beginning = f"the row at line {first.number}", text_of(first)[:MAX_EXCERPT_BYTES]
        next_row = next((number for number, line in enumerate(others, 1) if _like(first, line, header)), None)
        if next_row is not None:
            self.lines.give_back(next_row)
        elif isinstance(row, list):  # the quotes are in order, and nothing in it looks like a row
            return Problem(reason, f"{where} {why}", beginning)
        if len(self.lines.record) == 1:
            return Problem(reason, f"{where} {why}", beginning)
        last = self.lines.record[-1]
        extent = f"{where} extends to line {last.number} ({last.end - first.start} bytes)"
        return Problem(Reason.SWALLOWED_RECORDS, f"{extent}, and rows may be lost in it: it {why}", beginning)


def _like(first: Line, line: Line, header: _Header) -> bool:
    """Returns True if a line alone looks like a row, with an id like that of the row that `first` begins."""
    kind = header.id_has_digit(text_of(line))
    return kind is not None and kind == header.id_has_digit(text_of(first))


def _read(
    stream: BinaryIO, options: ReadOptions, start: RecordPosition, *, delimiter: str, quoting: Quoting
) -> Iterator[RawRecord | Problem]:
    rows = _Rows(stream, options, delimiter, quoting)
    header = _read_header(rows, options, delimiter)
    if isinstance(header, Problem):
        yield header
        return
    if start.offset:
        stream.seek(start.offset)
        rows = _Rows(stream, options, delimiter, quoting, start)
    for row in rows.under(header):
        if isinstance(row, Problem):
            yield row
        else:
            yield RawRecord(
                lambda: text_of(rows.lines.record[0])[:MAX_EXCERPT_BYTES],
                doc_id=row[header.id_position],
                text=row[header.text_position],
            )


def _positions(stream: BinaryIO, options: ReadOptions, *, delimiter: str, quoting: Quoting) -> Iterator[RecordPosition]:
    rows = _Rows(stream, options, delimiter, quoting)
    header = _read_header(rows, options, delimiter)
    if not isinstance(header, Problem):
        for index, _ in enumerate(rows.under(header)):
            first = rows.lines.record[0]
            yield RecordPosition(index, first.number, first.start)


def _read_header(rows: _Rows, options: ReadOptions, delimiter: str) -> _Header | Problem:
    names = rows.next_row() or []
    if isinstance(names, Problem):
        beginning = text_of(rows.lines.record[0])[:MAX_EXCERPT_BYTES]
        message = f"the header cannot be read: the row at line {rows.lines.record[0].number} {names.message}"
        return Problem(Reason.UNREADABLE_SOURCE, message, beginning)
    missing = missing_columns(names, {"id_column": options.id_column, "text_column": options.text_column})
    return missing or _Header(len(names), names.index(options.id_column), names.index(options.text_column), delimiter)
