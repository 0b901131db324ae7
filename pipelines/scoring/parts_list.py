"""The list of a scored folder's parts, `_parts.parquet`: what belongs to the table, with a checksum of every part.

A folder is published like a table of a table format: the driver reads every part once, and lists what it has read; the
manifest has the checksum of the list, and `_SUCCESS` that of the manifest. What is not in the list is not in the table.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.errors import JobFailure
from model.schema import part_list_schema
from pipelines.scoring.counts import COUNTS_KEY, PartCounts
from pipelines.scoring.predictions import REJECTS
from pipelines.storage import objects
from pipelines.storage.parallel import map_files
from pipelines.storage.parquet import parquet_bytes, parse_footer, read_footer

PARTS = "_parts.parquet"
SUFFIX = ".parquet"
_ROWS = 10_000
_Read: TypeAlias = Callable[[str], tuple[pq.FileMetaData, int, str]]
"""Reads a part, or its end; returns what it says about itself, and its size and SHA-256 if all of it was read."""


class _Part(NamedTuple):
    """One part file, of predictions or of rejects: its name in the scored folder, rows, size, and SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ReadParts:
    """What reading all parts of a folder has found.

    Attributes:
        table: name, rows, bytes and SHA-256 of every part, sorted by name (`part_list_schema`).
        counts: the sum of the counts of all chunks.
        damaged: the names of chunks whose parts can't be read, or whose part of rejects is missing, with the reason.
    """

    table: pa.Table
    counts: PartCounts
    damaged: Mapping[str, str]


def read_parts(folder: str, files: Collection[str]) -> ReadParts:
    """Reads every part of a folder once.

    Args:
        folder: of the parts.
        files: the names of those of predictions.

    Raises:
        JobFailure: a filesystem does not answer.
    """
    counts: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    rejects, predictions = _Rows(), _Rows()  # in this order, they are sorted
    ordered = sorted(files)
    found = map_files(lambda file: _read_chunk(folder, file, _read_whole), ordered, local=objects.is_local(folder))
    for file, what in zip(ordered, found, strict=True):
        if isinstance(what, str):
            damaged[file.removesuffix(SUFFIX)] = what
            continue
        parts, numbers = what
        counts.update(numbers)
        for rows, part in zip((predictions, rejects), parts, strict=False):
            rows.add(part)
    table = pa.concat_tables([rejects.table(), predictions.table()])
    return ReadParts(table, PartCounts.from_names(counts), damaged)


def find_damaged(folder: str, files: Collection[str]) -> dict[str, str]:
    """Returns the chunks whose parts are damaged, with the reason, by the ends of the files alone.

    Args:
        folder: of the parts.
        files: the names of those of predictions.

    Raises:
        JobFailure: a filesystem does not answer.
    """

    def check(file: str) -> str | None:
        what = _read_chunk(folder, file, _read_end)
        return what if isinstance(what, str) else None

    found = map_files(check, files, local=objects.is_local(folder))
    return {file.removesuffix(SUFFIX): what for file, what in zip(files, found, strict=True) if what is not None}


def write_parts_list(folder: str, parts: pa.Table) -> dict[str, Any]:
    """Writes the list, and returns what the manifest says about it."""
    content = parquet_bytes(parts)
    objects.write_bytes(f"{folder}/{PARTS}", content)
    return {
        "list": PARTS,
        "sha256": hashlib.sha256(content).hexdigest(),
        "count": parts.num_rows,
        "bytes": pc.sum(parts["bytes"]).as_py() or 0,
    }


def read_parts_list(folder: str, manifest: Mapping[str, Any], columns: Sequence[str]) -> pa.Table:
    """Returns columns of the list of the parts of a finished folder, see `part_list_schema`.

    Raises:
        ValueError: the list can't be read, or is not the one of the manifest.
    """
    try:
        content = objects.read_bytes(f"{folder}/{PARTS}")
        if hashlib.sha256(content).hexdigest() != manifest["parts"]["sha256"]:
            raise ValueError(f"{PARTS} is not the one that the manifest names")
        return pq.read_table(pa.BufferReader(content), columns=list(columns)).select(columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{PARTS} can't be read: {' '.join(str(error).split())}") from error


class _Rows:
    """Rows of the list; Python's objects would take five times the memory."""

    def __init__(self) -> None:
        self._tables = [part_list_schema().empty_table()]
        self._parts: list[_Part] = []

    def add(self, part: _Part) -> None:
        self._parts.append(part)
        if len(self._parts) == _ROWS:
            self._close()

    def table(self) -> pa.Table:
        self._close()
        return pa.concat_tables(self._tables)

    def _close(self) -> None:
        columns = dict(zip(_Part._fields, zip(*self._parts, strict=True), strict=False))
        if columns:
            self._tables.append(pa.Table.from_pydict(columns, schema=part_list_schema()))
        self._parts = []


def _read_chunk(folder: str, file: str, read: _Read) -> tuple[list[_Part], Mapping[str, int]] | str:
    """Returns the parts of a chunk and its counts by name, or what is wrong with them."""
    try:
        predictions, metadata = _read_part(folder, file, read)
        described = metadata.schema.to_arrow_schema().metadata or {}
        counts = dict(json.loads(described[COUNTS_KEY.encode()]))
        rejected = counts.get("rejected", 0)
        if not rejected:
            return [predictions], counts
        rejects, _ = _read_part(folder, f"{REJECTS}/{file}", read)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        return " ".join(str(error).split()) or type(error).__name__
    if rejects.rows != rejected:
        return f"{rejects.name} has {rejects.rows} rows, and {rejected} records were rejected"
    return [predictions, rejects], counts


def _read_part(folder: str, name: str, read: _Read) -> tuple[_Part, pq.FileMetaData]:
    """Returns a part and what it says about itself.

    Raises:
        ValueError: it is missing, or no Parquet.
        JobFailure: it can't be read.
    """
    try:
        metadata, size, digest = read(f"{folder}/{name}")
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except OSError as error:
        raise JobFailure(f"{folder}/{name}: cannot be read: {error.strerror or error}; repeat the command") from error
    return _Part(name, metadata.num_rows, size, digest), metadata


def _read_whole(path: str) -> tuple[pq.FileMetaData, int, str]:
    content = objects.read_bytes(path)
    return parse_footer(content), len(content), hashlib.sha256(content).hexdigest()


def _read_end(path: str) -> tuple[pq.FileMetaData, int, str]:
    return read_footer(path), 0, ""
