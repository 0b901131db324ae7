"""Parquet, with a text column or list columns of sentences and labels."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from model.records import Reason
from pipelines.corpora.checks import Problem, RawRecord, missing_columns
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions

_BATCH_ROWS = 256
_PARQUET_EXTRAS = ("confidences", "scores", "features", "highlights")


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
    missing = missing_columns(names, needed)
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
