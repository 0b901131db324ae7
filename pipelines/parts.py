"""Part files: written under a temporary name and renamed, with bytes that depend on their content alone."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.records import Reject
from model.schema import reject_schema


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file that is there whole or not at all; a retry writes the same name again."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.writing")
    try:
        fresh.write_bytes(content)
        fresh.replace(target)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet part, compressed with zstd."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3)
    write_bytes(path, buffer.getvalue())


def write_rejects(path: str, rejects: Sequence[Reject], metadata: dict[str, str]) -> None:
    """Writes rejected records as a Parquet part; writes nothing where there are none."""
    if not rejects:
        return
    schema = reject_schema(metadata)
    columns: dict[str, list[Any]] = {name: [getattr(reject, name) for reject in rejects] for name in schema.names}
    columns["reason"] = [str(reason) for reason in columns["reason"]]
    write_table(path, pa.Table.from_pydict(columns, schema=schema))
