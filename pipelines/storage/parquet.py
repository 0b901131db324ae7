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


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns a table as a Parquet file, compressed with zstd."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet part."""
    write_bytes(path, parquet_bytes(table))


def read_table(path: str) -> pa.Table:
    """Returns one Parquet part."""
    return pq.read_table(pa.BufferReader(read_bytes(path)))


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
