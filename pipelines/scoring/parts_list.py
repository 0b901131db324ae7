"""The list of a scored folder's parts, `_parts.parquet`: what belongs to the table, with a checksum of every part.

A folder is published like a table of a table format: the driver reads every part once, and lists what it has read; the
manifest has the checksum of the list, and `_SUCCESS` that of the manifest. What is not in the list is not in the table.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import JobFailure
from model.schema import part_list_schema
from pipelines.scoring.counts import COUNTS_KEY, PartCounts
from pipelines.scoring.predictions import REJECTS
from pipelines.storage import objects
from pipelines.storage.parquet import parquet_bytes

PARTS = "_parts.parquet"
SUFFIX = ".parquet"
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One part file, of predictions or of rejects.

    Attributes:
        name: its name in the scored folder, such as `_rejects/part-a-0123456789abcdef-000000.parquet`.
        rows: of its table.
        bytes: its size.
        sha256: of its bytes.
    """

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ReadParts:
    """What reading all parts of a folder has found.

    Attributes:
        parts: every part, sorted by name.
        counts: the sum of the counts of all chunks.
        damaged: the names of chunks whose parts can't be read, or whose part of rejects is missing, with the reason.
    """

    parts: Sequence[Part]
    counts: PartCounts
    damaged: Mapping[str, str]


def read_parts(folder: str, names: Collection[str]) -> ReadParts:
    """Reads every part of a folder once.

    Args:
        folder: of the parts.
        names: of the parts of predictions, without suffix.

    Raises:
        JobFailure: a filesystem does not answer.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda name: _read_chunk(folder, name), sorted(names)))
    damaged = {name: what for name, what in zip(sorted(names), found, strict=True) if isinstance(what, str)}
    read = [what for what in found if not isinstance(what, str)]
    parts = sorted((part for of_chunk, _ in read for part in of_chunk), key=lambda part: part.name)
    return ReadParts(parts, sum((counts for _, counts in read), PartCounts()), damaged)


def write_parts_list(folder: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Writes the list, and returns what the manifest says about it."""
    columns = {name: [getattr(part, name) for part in parts] for name in Part.__slots__}
    content = parquet_bytes(pa.Table.from_pydict(columns, schema=part_list_schema()))
    objects.write_bytes(f"{folder}/{PARTS}", content)
    return {
        "list": PARTS,
        "sha256": hashlib.sha256(content).hexdigest(),
        "count": len(parts),
        "bytes": sum(part.bytes for part in parts),
    }


def read_parts_list(folder: str, manifest: Mapping[str, Any]) -> dict[str, Part]:
    """Returns the parts of a finished folder by name.

    Raises:
        ValueError: the list can't be read, or is not the one of the manifest.
    """
    try:
        content = objects.read_bytes(f"{folder}/{PARTS}")
        if hashlib.sha256(content).hexdigest() != manifest["parts"]["sha256"]:
            raise ValueError(f"{PARTS} is not the one that the manifest names")
        table = pq.read_table(io.BytesIO(content))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{PARTS} can't be read: {' '.join(str(error).split())}") from error
    return {row["name"]: Part(**row) for row in table.to_pylist()}


def _read_chunk(folder: str, name: str) -> tuple[list[Part], PartCounts] | str:
    """Returns the parts of a chunk and its counts, or what is wrong with them."""
    try:
        predictions, metadata = _read_part(folder, f"{name}{SUFFIX}")
        counts = PartCounts.from_names(json.loads(metadata[COUNTS_KEY.encode()]))
        if not counts.rejected:
            return [predictions], counts
        rejects, _ = _read_part(folder, f"{REJECTS}/{name}{SUFFIX}")
    except (KeyError, TypeError, ValueError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    if rejects.rows != counts.rejected:
        return f"{rejects.name} has {rejects.rows} rows, and {counts.rejected} records were rejected"
    return [predictions, rejects], counts


def _read_part(folder: str, name: str) -> tuple[Part, Mapping[bytes, bytes]]:
    """Returns a part and the metadata of its schema.

    Raises:
        ValueError: it is missing, or no Parquet.
        JobFailure: it can't be read.
    """
    try:
        content = objects.read_bytes(f"{folder}/{name}")
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise JobFailure(f"{folder}/{name}: cannot be read: {error.strerror or error}; repeat the command") from error
    try:
        metadata = pq.read_metadata(io.BytesIO(content))
        described = metadata.schema.to_arrow_schema().metadata or {}
    except (OSError, pa.ArrowException) as error:  # Arrow has OSError for damaged files, too
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    return Part(name, metadata.num_rows, len(content), hashlib.sha256(content).hexdigest()), described
