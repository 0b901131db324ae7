"""Parquet, with a text column or list columns of sentences and labels.

A file of a few bytes can stand for gigabytes: a long text that a dictionary repeats in every row, or a list of millions
of equal entries. So long text stays in its dictionary until its row is known to be within the limits, and row groups
whose rows can't all be within them are not read.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, islice, repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from model.records import MAX_EXCERPT_BYTES, Reason
from pipelines.corpora.checks import Problem, RawRecord, missing_columns
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions

_BATCH_ROWS = 256
_BLOCK_BYTES = 16 * 1024 * 1024
_BATCH_BYTES = 64 * 1024 * 1024
_VALUE_BYTES = 8  # what a number, an entry of a list or an index into a dictionary takes at most
_EXTRAS = ("confidences", "scores", "features", "highlights")


def read_parquet(
    stream: io.BufferedReader, options: ReadOptions, start: RecordPosition = START
) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row from `start` on. If a row has both sentences and text, the sentences are used.

    If a row group is damaged, each row that is lost has a problem of its own, and the next group is read.
    """
    table = _open(stream, options)
    if isinstance(table, Problem):
        yield table
        return
    ends = list(accumulate(group.num_rows for group in table.groups))
    first = bisect_right(ends, start.record_index)
    passed_over = start.record_index - (ends[first - 1] if first else 0)
    groups = (_read_group(table, number, options) for number in range(first, len(ends)))
    yield from islice(chain.from_iterable(groups), passed_over, None)


def parquet_positions(
    stream: io.BufferedReader, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the multiples of `every` next to the beginnings of row groups, and the number of rows in the footer."""
    table = _open(stream, options)
    if isinstance(table, Problem):
        return [], 0
    ends = list(accumulate((group.num_rows for group in table.groups), initial=0))
    records = min(ends[-1], limit or ends[-1])
    starts = {-(-end // every) * every for end in ends}
    return [RecordPosition(index) for index in sorted(starts) if index < records], records


def is_parquet(head: bytes) -> bool:
    """Returns True if a file begins like Parquet."""
    return head.startswith(b"PAR1")


@dataclass(frozen=True, slots=True)
class _Table:
    """An open file.

    Attributes:
        file: what reads it.
        in_dictionaries: what reads it with text in dictionaries, which hold each text once.
        columns: the names of the columns that are read.
        stored: the numbers of the columns as they are stored; a list column's is called `sentences.list.element`.
    """

    file: pq.ParquetFile
    in_dictionaries: pq.ParquetFile
    columns: list[str]
    stored: list[int]

    @property
    def groups(self) -> list[pq.RowGroupMetaData]:
        return [self.file.metadata.row_group(index) for index in range(self.file.metadata.num_row_groups)]

    def stored_columns(self, group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
        """Returns the descriptions of a row group's columns that are read."""
        return [group.column(index) for index in self.stored]

    def batches(self, number: int, rows: int, *, in_dictionaries: bool) -> Iterator[pa.RecordBatch]:
        """Yields batches of a row group.

        Raises:
            pa.ArrowException, OSError: it is damaged.
        """
        file = self.in_dictionaries if in_dictionaries else self.file
        yield from file.iter_batches(rows, row_groups=[number], columns=self.columns)


def _open(stream: io.BufferedReader, options: ReadOptions) -> _Table | Problem:
    if not stream.seekable():
        message = "Parquet cannot be read from inside a compressed file; decompress it (its columns are compressed)"
        return Problem(Reason.UNREADABLE_SOURCE, message)
    # Without pre-buffering, memory holds batches rather than whole row groups.
    open_file = partial(pq.ParquetFile, stream, pre_buffer=False, buffer_size=64 * 1024)
    known = (options.id_column, options.text_column, options.sentences_column, options.labels_column, *_EXTRAS)
    try:
        file = open_file()
        columns = [name for name in file.schema_arrow.names if name in known]
        paths = [file.schema.column(index).path for index in range(len(file.schema))]
        roots = tuple(f"{name}." for name in columns)
        stored = [index for index, path in enumerate(paths) if f"{path}.".startswith(roots)]
        in_dictionaries = open_file(metadata=file.metadata, read_dictionary=[paths[index] for index in stored])
        for number in range(file.metadata.num_row_groups if stored else 0):
            # Reads nothing, but fails where asking a damaged footer for a column would end the process.
            next(file.reader.iter_batches(0, [number], column_indices=stored, use_threads=False), None)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        _raise_if_failed(error)
        return Problem(Reason.UNREADABLE_SOURCE, f"this is not a readable Parquet file: {error}")
    names = file.schema_arrow.names
    needed = {"id_column": options.id_column}
    if options.sentences_column not in names:
        needed["text_column"] = options.text_column
    if (missing := missing_columns(names, needed)) is not None:
        return missing
    table = _Table(file, in_dictionaries, columns, stored)
    for group in table.groups:
        for index in stored:
            values, nested = group.column(index).num_values, file.schema.column(index).max_repetition_level > 0
            if values < group.num_rows or (values > group.num_rows and not nested):
                message = f"the footer contradicts itself: {group.num_rows} rows have {values} values in a column"
                return Problem(Reason.UNREADABLE_SOURCE, message)
    return table


def _raise_if_failed(error: Exception) -> None:
    """Raises an error again that is not about the content. Arrow's own errors have no number, unlike the system's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _read_group(table: _Table, number: int, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of a row group."""
    group = table.groups[number]
    columns = table.stored_columns(group)
    size = sum(column.total_uncompressed_size + _VALUE_BYTES * column.num_values for column in columns)
    if size > group.num_rows * options.max_record_bytes:
        message = f"row group {number} has more than {options.max_record_bytes} bytes a row, and is not read"
        yield from repeat(Problem(Reason.TOO_LARGE, message), group.num_rows)
        return
    batch_rows = max(1, min(_BATCH_ROWS, _BLOCK_BYTES * group.num_rows // (size + 1)))
    if any("DELTA_BYTE_ARRAY" in column.encodings for column in columns):  # any text may repeat the one before it
        batch_rows = max(1, min(batch_rows, _BATCH_BYTES // size))
    rows, why = 0, "it has fewer rows than the footer says"
    try:
        repeats = _may_repeat_long_text(table, number, batch_rows)
        for batch in table.batches(number, batch_rows, in_dictionaries=repeats):
            for item in islice(_batch_items(batch, options), group.num_rows - rows):
                yield item
                rows += 1
    except (pa.ArrowException, OSError) as error:
        _raise_if_failed(error)
        why = str(error)
    if rows < group.num_rows:
        yield Problem(Reason.BROKEN_SOURCE, f"row group {number} of the Parquet file is broken: {why}")
        yield from repeat(Problem(Reason.BROKEN_RECORD, f"row group {number} is broken"), group.num_rows - rows - 1)


def _may_repeat_long_text(table: _Table, number: int, batch_rows: int) -> bool:
    """Returns True if a batch of a row group may be large, since it may repeat a dictionary's longest entry.

    Raises:
        pa.ArrowException, OSError: the group is damaged.
    """
    group = table.groups[number]
    columns = table.stored_columns(group)
    entries = batch_rows * max(column.num_values for column in columns) // max(1, group.num_rows)
    if entries * max(column.total_uncompressed_size for column in columns) <= _BATCH_BYTES:
        return False
    first_row = next(table.batches(number, 1, in_dictionaries=True), None)
    longest = max(map(_longest_entry, first_row.columns)) if first_row is not None else 0
    return entries * longest > _BATCH_BYTES


def _longest_entry(array: pa.Array) -> int:
    """Returns the bytes of the longest entry of an array's dictionary, or of its lists' dictionary; 0 without one."""
    if types.is_dictionary(array.type):
        return int(max(_sizes(array.dictionary), default=0))
    is_list = types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)
    return _longest_entry(array.values) if is_list else 0


def _batch_items(batch: pa.RecordBatch, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of a batch; converts no row that is over the limit, and few at a time."""
    sizes = sum((_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    start = 0
    while start < batch.num_rows:
        if sizes[start] > options.max_record_bytes:
            yield Problem(Reason.TOO_LARGE, f"the row is longer than {options.max_record_bytes} bytes")
            start += 1
            continue
        within = (sizes[start:] <= options.max_record_bytes) & (np.cumsum(sizes[start:]) <= _BLOCK_BYTES)
        rows = max(1, int(np.argmin(np.append(within, False))))
        for row in _rows(batch.slice(start, rows)):
            yield row if isinstance(row, Problem) else _raw_row(row, options)
        start += rows


def _sizes(array: pa.Array) -> np.ndarray:
    """Returns how many bytes each entry of an array takes once it is converted, about: int64 `[entries]`.

    Raises:
        pa.ArrowInvalid: the array is damaged.
    """
    type = array.type
    if types.is_dictionary(type):
        sizes = np.append(_sizes(array.dictionary), 0)
        indices = array.indices.fill_null(len(array.dictionary)).to_numpy(zero_copy_only=False)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(sizes):
            raise pa.ArrowInvalid("a row refers to an entry that its dictionary doesn't have")
        return sizes[indices]
    if types.is_string(type) or types.is_large_string(type) or types.is_binary(type) or types.is_large_binary(type):
        return _VALUE_BYTES + pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        up_to, ends = np.append(0, np.cumsum(_sizes(array.flatten()))), np.cumsum(lengths)
        return _VALUE_BYTES + up_to[ends] - up_to[ends - lengths]
    return np.full(len(array), _VALUE_BYTES, np.int64)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, object] | Problem]:
    try:
        columns = [_values(column) for column in batch.columns]
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield Problem(Reason.INVALID_ENCODING, f"the row holds text that is not UTF-8: {error.reason}")
            return
        for index in range(batch.num_rows):
            yield from _rows(batch.slice(index, 1))
        return
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


@dataclass(frozen=True, slots=True, repr=False)
class _Foreign:
    """A value of a type that no column in use can have, such as a date; Python has no value for some of these."""

    type: str

    def __repr__(self) -> str:
        return f"a {self.type}"


def _values(array: pa.Array) -> list[object]:
    if _is_in_use(array.type):
        return list(array.to_pylist())
    foreign = _Foreign(str(array.type))
    return [foreign if valid else None for valid in array.is_valid().to_pylist()]


def _is_in_use(type: pa.DataType) -> bool:
    """Returns True for text, numbers, lists of them, and the like."""
    if types.is_dictionary(type) or types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return _is_in_use(type.value_type)
    of_use = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
    )
    return any(is_kind(type) for is_kind in of_use)


def _raw_row(row: dict[str, object], options: ReadOptions) -> RawRecord:
    return RawRecord(
        lambda: repr(_beginning(row)),
        doc_id=row[options.id_column],
        text=row.get(options.text_column),
        sentences=row.get(options.sentences_column),
        labels=row.get(options.labels_column),
        confidences=row.get("confidences"),
        scores=row.get("scores"),
        features=row.get("features"),
        highlights=row.get("highlights"),
    )


def _beginning(value: object) -> object:
    """Returns a value without what an excerpt has no room for."""
    if isinstance(value, dict):
        return {name: _beginning(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_beginning(inner) for inner in value[:MAX_EXCERPT_BYTES]]
    return value[:MAX_EXCERPT_BYTES] if isinstance(value, str | bytes) else value
