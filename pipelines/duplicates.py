"""Documents that stand in several splits, and ids that appear more than once.

A text that is both trained on and held out makes every figure on the held-out side too good, so such documents leave
the train split. Repeated ids are reported and kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.records import Document
from model.schema import duplicate_schema
from pipelines.parts import write_table

SAME_TEXT = "same_text"
SAME_ID = "same_id"
_FILE = "duplicates.parquet"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a labelled document has been written.

    Attributes:
        split: its split.
        part: the part file's name, without suffix.
        doc_id, source, record_index: as in `Document`.
    """

    split: str
    part: str
    doc_id: str
    source: str
    record_index: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document that is like another.

    Attributes:
        kind: `SAME_TEXT` or `SAME_ID`.
        group: the same for all documents that are alike.
        place: where it is.
        dropped: True where it left the train split for that.
    """

    kind: str
    group: str
    place: Place
    dropped: bool


def duplicate_keys(document: Document, *, split: str, part: str) -> Iterator[tuple[str, Place]]:
    """Yields the keys under which documents that are alike meet: by their normalized text, and by their id."""
    place = Place(split, part, document.doc_id, document.source, document.record_index)
    for kind, content in ((SAME_TEXT, normalized_text(document)), (SAME_ID, document.doc_id)):
        yield f"{kind}/{hashlib.sha256(content.encode('utf-8')).hexdigest()[:32]}", place


def normalized_text(document: Document) -> str:
    """Returns the text of a document with sentences; texts that differ only in case and white space become the same."""
    return " ".join(" ".join(document.sentences).casefold().split())


def find_duplicates(key: str, places: Iterable[Place]) -> list[Duplicate]:
    """Returns the members of a group that has to be reported: a text in several splits, or an id of several records."""
    kind, _, group = key.partition("/")
    members = sorted(set(places), key=lambda place: (place.source, place.record_index))
    splits = {place.split for place in members}
    if len(members) < 2 or (kind == SAME_TEXT and len(splits) < 2):
        return []
    return [Duplicate(kind, group, place, dropped=kind == SAME_TEXT and place.split == "train") for place in members]


def write_duplicates(duplicates: Sequence[Duplicate], folder: str) -> None:
    """Writes the list, one row a duplicate, in an order that depends on its content alone."""
    ordered = sorted(duplicates, key=lambda one: (one.kind, one.group, one.place.source, one.place.record_index))
    schema = duplicate_schema()
    rows = [{"kind": one.kind, "group": one.group, **asdict(one.place), "dropped": one.dropped} for one in ordered]
    write_table(f"{folder}/{_FILE}", pa.Table.from_pylist(rows, schema=schema))


def drop_duplicates(folder: Path) -> Counter[str]:
    """Takes the documents listed as dropped out of their parts.

    Returns:
        What changes in the counts: negative numbers of documents, sentences and labels of the train split, and how
        many documents were dropped and ids repeated.
    """
    table = pq.read_table(folder / _FILE)
    changes = Counter(
        repeated_ids=len(set(table.filter(pc.equal(table["kind"], SAME_ID))["group"].to_pylist())),
    )
    dropped = table.filter(table["dropped"]).sort_by([("part", "ascending")]).to_pylist()
    for part, rows in groupby(dropped, key=lambda row: row["part"]):
        file = folder / "documents" / "train" / f"{part}.parquet"
        indices = pa.array([row["record_index"] for row in rows], pa.int64())
        documents = pq.read_table(file, partitioning=None)
        leaves = pc.is_in(documents["record_index"], value_set=indices)
        for row in documents.filter(leaves).select(["sentences", "labels"]).to_pylist():
            changes["duplicates_dropped"] += 1
            changes["documents.train"] -= 1
            changes["sentences.train"] -= len(row["sentences"])
            changes.subtract(f"labels.train.{label}" for label in row["labels"] or ())
        remaining = documents.filter(pc.invert(leaves))
        if remaining.num_rows:
            write_table(str(file), remaining)
        else:
            file.unlink()
    return changes
