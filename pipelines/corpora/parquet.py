"""Parquet, with a text column or list columns of sentences and labels.

A file of a few bytes can stand for gigabytes: a long text that a dictionary repeats in every row, or a list of millions
of equal entries. So text stays in dictionaries until its row is known to be within the limits, and row groups whose
rows can't all be within them are not read.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
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
    names = table.schema_arrow.names
    needed = {"id_column": options.id_column}
    if options.sentences_column not in names:
        needed["text_column"] = options.text_column
    missing = missing_columns(names, needed)
    if missing is not None:
        yield missing
        return
    in_dictionaries = pq.ParquetFile(
        stream,
        metadata=table.metadata,
        pre_buffer=False,
        buffer_size=64 * 1024,
        read_dictionary=[table.schema.column(index).path for index in _stored(table, options)],
    )
    ends = list(accumulate(_group_rows(table)))
    first = bisect_right(ends, start.record_index)
    passed_over = start.record_index - (ends[first - 1] if first else 0)
    groups = (_read_group(in_dictionaries, group, options) for group in range(first, len(ends)))
    yield from islice(chain.from_iterable(groups), passed_over, None)


def parquet_positions(
    stream: io.BufferedReader, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the multiples of `every` next to the beginnings of row groups, and the number of rows in the footer."""
    table = _open(stream, options)
    if isinstance(table, Problem):
        return [], 0
    groups = _group_rows(table)
    records = min(sum(groups), limit or sum(groups))
    starts = {-(-end // every) * every for end in (0, *accumulate(groups))}
    return [RecordPosition(index) for index in sorted(starts) if index < records], records


def is_parquet(head: bytes) -> bool:
    """Returns True if a file begins like Parquet."""
    return head.startswith(b"PAR1")


def _open(stream: io.BufferedReader, options: ReadOptions) -> pq.ParquetFile | Problem:
    if not stream.seekable():
        message = "Parquet cannot be read from inside a compressed file; decompress it (its columns are compressed)"
        return Problem(Reason.UNREADABLE_SOURCE, message)
    try:
        # Without pre-buffering, memory holds batches rather than whole row groups.
        table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=64 * 1024)
    except (pa.ArrowException, OSError) as error:
        _raise_if_failed(error)
        return Problem(Reason.UNREADABLE_SOURCE, f"this is not a readable Parquet file: {error}")
    for group in _groups(table):
        for index in _stored(table, options):
            values, nested = group.column(index).num_values, table.schema.column(index).max_repetition_level > 0
            if values < group.num_rows or (values > group.num_rows and not nested):
                message = f"the footer contradicts itself: {group.num_rows} rows have {values} values in a column"
                return Problem(Reason.UNREADABLE_SOURCE, message)
    return table


def _raise_if_failed(error: Exception) -> None:
    """Raises an error again that is not about the content. Arrow's own errors have no number, unlike the system's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _groups(table: pq.ParquetFile) -> Iterator[pq.RowGroupMetaData]:
    return (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))


def _group_rows(table: pq.ParquetFile) -> list[int]:
    return [group.num_rows for group in _groups(table)]


def _columns(table: pq.ParquetFile, options: ReadOptions) -> list[str]:
    """Returns the names of the columns that are read."""
    known = (options.id_column, options.text_column, options.sentences_column, options.labels_column, *_EXTRAS)
    return [name for name in table.schema_arrow.names if name in known]


def _stored(table: pq.ParquetFile, options: ReadOptions) -> list[int]:
    """Returns the numbers of the stored columns that are read; a list column's is called `sentences.list.element`."""
    names = _columns(table, options)
    paths = (table.schema.column(index).path for index in range(len(table.schema)))
    return [
        index for index, path in enumerate(paths) if any(path == name or path.startswith(f"{name}.") for name in names)
    ]


def _read_group(table: pq.ParquetFile, number: int, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every row of a row group."""
    group = table.metadata.row_group(number)
    stored = [group.column(index) for index in _stored(table, options)]
    size = sum(column.total_uncompressed_size + _VALUE_BYTES * column.num_values for column in stored)
    if size > group.num_rows * options.max_record_bytes:
        message = f"row group {number} has more than {options.max_record_bytes} bytes a row, and is not read"
        yield from repeat(Problem(Reason.TOO_LARGE, message), group.num_rows)
        return
    batch_rows = max(1, min(_BATCH_ROWS, _BLOCK_BYTES * group.num_rows // (size + 1)))
    rows, why = 0, "it has fewer rows than the footer says"
    try:
        for batch in table.iter_batches(batch_rows, row_groups=[number], columns=_columns(table, options)):
            for item in islice(_batch_items(batch, options), group.num_rows - rows):
                yield item
                rows += 1
    except (pa.ArrowException, OSError) as error:
        _raise_if_failed(error)
        why = str(error)
    if rows < group.num_rows:
        yield Problem(Reason.BROKEN_SOURCE, f"row group {number} of the Parquet file is broken: {why}")
        yield from repeat(Problem(Reason.BROKEN_RECORD, f"row group {number} is broken"), group.num_rows - rows - 1)


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
