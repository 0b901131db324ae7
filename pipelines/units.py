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
class Chunk:
    """Neighbouring records of one source.

    Attributes:
        source: the file's path.
        index: the chunk's number within the source, from 0.
        items: a document or a reject for each record.
    """

    source: str
    index: int
    items: tuple[Document | Reject, ...]

    @property
    def name(self) -> str:
        """What the chunk's part files are called; unique among all sources, however they are named."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(self.source).name.split(".")[0])[:40] or "input"
        digest = hashlib.sha256(self.source.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return f"part-{stem}-{digest}-{self.index:06d}"


def read_chunks(source: str, options: ReadOptions, *, size: int, limit: int | None = None) -> Iterator[Chunk]:
    """Yields a source's chunks in order, reading as it goes.

    Args:
        source: the file's path.
        options: how to read it.
        size: records a chunk.
        limit: stop after so many records; None reads all.
    """
    records = islice(read_source(source, options), limit)
    for index, items in enumerate(_batched(records, size)):
        yield Chunk(source, index, items)


def _batched(records: Iterator[Document | Reject], size: int) -> Iterator[tuple[Document | Reject, ...]]:
    while items := tuple(islice(records, size)):
        yield items
