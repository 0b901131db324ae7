"""Keys by which duplicates are found: hashes of the texts and ids of all records, as columns in a file for each part.

Workers write the files, wherever they are, and the driver reads them. It holds 8 bytes of one hash of each record, and
then only the rows whose 8 bytes occur more than once; so it has room for tens of millions of documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.records import Document, Reason, Reject
from model.schema import key_schema
from pipelines.storage import objects
from pipelines.storage.parallel import map_files
from pipelines.storage.parquet import read_table, write_table

Key = Literal["text", "id"]

_FOLDER = "keys"
_HASH_BYTES = 16
_NONE = 0  # the beginning of a hash that is missing; one that really has it is never found twice
_ROWS_AT_ONCE = 100_000  # become Python objects


@dataclass
class PartKeys:
    """The keys of one part's records, which are collected and then written."""

    part: str
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add_document(self, document: Document, split: str | None) -> None:
        """Adds a document. One without a split isn't used; its id is added, to see what ids are worth."""
        text = None if split is None else digest(normalized_text(document))
        self._add(document, document.doc_id, text=text, split=split or "")

    def add_reject(self, reject: Reject) -> None:
        """Adds a rejected record, which takes the place of earlier versions, if it has an id."""
        if reject.doc_id is not None:
            self._add(reject, reject.doc_id, deletes=reject.reason == Reason.DELETION)

    def write(self, folder: str) -> None:
        """Writes the part's file; none if it has no keys."""
        if self._rows:
            write_table(
                f"{folder}/{_FOLDER}/{self.part}.parquet", pa.Table.from_pylist(self._rows, schema=key_schema())
            )

    def _add(
        self,
        record: Document | Reject,
        doc_id: str,
        *,
        text: bytes | None = None,
        split: str = "",
        deletes: bool = False,
    ) -> None:
        hashes = {"text": text, "id": digest(doc_id)}
        place = {"source": record.source, "record_index": record.record_index, "deletes": deletes}
        self._rows.append({**hashes, "split": split, "part": self.part, "doc_id": doc_id, **place})


def digest(content: str) -> bytes:
    """Returns 16 bytes that stand for a text."""
    return hashlib.sha256(content.encode("utf-8")).digest()[:_HASH_BYTES]


def normalized_text(document: Document) -> str:
    """Returns the text of a document with sentences, without differences of case and white space."""
    return " ".join(" ".join(document.sentences).casefold().split())


def key_files(folder: str) -> list[str]:
    """Returns the paths of the files of keys in a folder of records, in order."""
    return [f"{folder}/{_FOLDER}/{name}" for name in sorted(objects.list_names(f"{folder}/{_FOLDER}"))]


def remove_keys(folder: str) -> None:
    """Removes the files of keys from a folder of records."""
    objects.remove(key_files(folder))
    objects.remove_folder(f"{folder}/{_FOLDER}")


def repeated_rows(files: Sequence[str], key: Key) -> pa.Table:
    """Returns the rows of all files whose key occurs more than once, and perhaps a few others, in the order of keys."""
    local = all(map(objects.is_local, files[:1]))
    beginnings = list(map_files(lambda file: _beginnings(read_table(file, [key])[key]), files, local=local))
    numbers = np.concatenate([np.empty(0, np.uint64), *beginnings])
    numbers.sort()
    repeated = np.unique(numbers[1:][numbers[1:] == numbers[:-1]])
    repeated = repeated[repeated != _NONE]
    del numbers
    having = [file for file, found in zip(files, beginnings, strict=True) if _are_in(found, repeated).any()]
    del beginnings

    def rows(file: str) -> pa.Table:
        table = read_table(file)
        return table.filter(pa.array(_are_in(_beginnings(table[key]), repeated)))

    found = pa.concat_tables([key_schema().empty_table(), *map_files(rows, having, local=local)])
    return found.sort_by([(name, "ascending") for name in (key, "source", "record_index")])


def groups(rows: pa.Table, key: Key) -> Iterator[list[tuple[str, list[dict[str, Any]]]]]:
    """Yields the groups of rows with the same key, some groups at a time: the key's hexadecimal digits, and its rows.

    Args:
        rows: in the order of keys.
        key: which one.
    """
    hashes = _words(rows[key])
    changes = np.flatnonzero((hashes[1:] != hashes[:-1]).any(axis=1)) + 1
    ends = np.append(changes, rows.num_rows).tolist()
    start, taken = 0, []
    for end in ends:
        taken.append(end)
        if end - start >= _ROWS_AT_ONCE or end == ends[-1]:
            members = rows.slice(start, end - start).to_pylist()
            bounds = [0, *(one - start for one in taken)]
            parts = [members[first:last] for first, last in pairwise(bounds) if first < last]
            yield [(part[0][key].hex(), part) for part in parts]
            start, taken = end, []


def _words(hashes: pa.ChunkedArray) -> np.ndarray:
    """Returns hashes as uint64 `[hashes, 2]`; zeros for null."""
    whole = pc.fill_null(hashes, bytes(_HASH_BYTES)).combine_chunks()
    words = np.frombuffer(whole.buffers()[1], np.uint64).reshape(-1, 2)
    return words[whole.offset : whole.offset + len(whole)]


def _beginnings(hashes: pa.ChunkedArray) -> np.ndarray:
    """Returns the first 8 bytes of each hash as uint64; `_NONE` for null."""
    return _words(hashes)[:, 0].copy()


def _are_in(numbers: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Returns bool for each number: whether it is among others, which are sorted."""
    if not len(among):
        return np.zeros(len(numbers), bool)
    return among[np.minimum(np.searchsorted(among, numbers), len(among) - 1)] == numbers
