"""Part files in Parquet, whose bytes depend only on their content."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.records import Reject
from model.schema import reject_schema
from pipelines.storage import objects
from pipelines.storage.objects import read_bytes, write_bytes

_END_BYTES = 1 << 16


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns a table as a Parquet file, compressed with zstd."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet part."""
    write_bytes(path, parquet_bytes(table))


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns one Parquet part, or some of its columns."""
    return pq.read_table(pa.BufferReader(read_bytes(path)), columns=columns)


def read_footer(path: str) -> pq.FileMetaData:
    """Returns what a Parquet file says about itself, from its end alone.

    Raises:
        ValueError: it is no Parquet, or damaged.
        OSError: it doesn't exist or can't be read.
        JobFailure: its filesystem does not answer.
    """
    with objects.open_object(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - _END_BYTES))
        end = stream.read()
        footer = int.from_bytes(end[-8:-4], "little") + 8
        if len(end) < footer <= size:
            stream.seek(size - footer)
            end = stream.read()
    return parse_footer(end)


def parse_footer(content: bytes) -> pq.FileMetaData:
    """Returns what a Parquet file says about itself.

    Raises:
        ValueError: it is no Parquet, or damaged.
    """
    try:
        return pq.read_metadata(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:  # Arrow has OSError for damaged files, too
        raise ValueError(" ".join(str(error).split())) from error


def write_rejects(path: str, rejects: Sequence[Reject], metadata: dict[str, str]) -> None:
    """Writes rejected records as a Parquet part; writes nothing if there are none."""
    if not rejects:
        return
    schema = reject_schema(metadata)
    columns: dict[str, list[Any]] = {name: [getattr(reject, name) for reject in rejects] for name in schema.names}
    columns["reason"] = [str(reason) for reason in columns["reason"]]
    write_table(path, pa.Table.from_pydict(columns, schema=schema))


def count_reject_sources(folder: str, reason: str) -> int:
    """Returns how many sources have rejects with a reason, in a folder of parts of rejects."""
    sources: set[str] = set()
    for name in objects.list_names(folder):
        table = read_table(f"{folder}/{name}")
        sources.update(table.filter(pc.equal(table["reason"].cast(pa.string()), reason))["source"].to_pylist())
    return len(sources)
