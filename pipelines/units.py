"""How an input collection is cut into units of work: a unit is one file, cut into chunks of a fixed number of records.

A chunk's content and name depend on the file and the chunk size alone, never on the runner or on timing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from model.records import Document, Reject
from pipelines.corpora import ReadOptions
from pipelines.sources import read_source


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker reads from beginning to end.

    Attributes:
        source: the file's path.
        split: the split that its documents belong to, where the user has said so.
    """

    source: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring records of one unit.

    Attributes:
        unit: where they come from.
        index: the chunk's number within the unit, from 0.
        items: a document or a reject for each record.
    """

    unit: Unit
    index: int
    items: tuple[Document | Reject, ...]

    @property
    def name(self) -> str:
        """What the chunk's part files are called; unique among all sources, however they are named."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(self.unit.source).name.split(".")[0])[:40] or "input"
        digest = hashlib.sha256(self.unit.source.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return f"part-{stem}-{digest}-{self.index:06d}"


def read_chunks(unit: Unit, options: ReadOptions, *, size: int, limit: int | None = None) -> Iterator[Chunk]:
    """Yields a unit's chunks in order, reading as it goes.

    Args:
        unit: what to read.
        options: how to read it.
        size: records a chunk.
        limit: stop after so many records; None reads all.
    """
    records = islice(read_source(unit.source, options), limit)
    for index, items in enumerate(_batched(records, size)):
        yield Chunk(unit, index, items)


def _batched(records: Iterator[Document | Reject], size: int) -> Iterator[tuple[Document | Reject, ...]]:
    while items := tuple(islice(records, size)):
        yield items
