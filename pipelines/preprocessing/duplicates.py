"""Texts that appear in several splits, and ids that appear more than once.

A text that is both trained on and held out makes every held-out figure too good, so such documents are dropped from the
train split. Repeated ids are reported and kept; with `data.revisions: latest` only their latest version is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from model.records import Document, Reason, Reject
from model.schema import duplicate_schema
from pipelines.preprocessing.counts import Count, Counts, Kind
from pipelines.storage.objects import remove
from pipelines.storage.parquet import read_table, write_table

SAME_TEXT = "same_text"
SAME_ID = "same_id"
VERSIONS = "versions"
SUPERSEDED = "superseded"
DELETED = "deleted"
_FILE = "duplicates.parquet"
_DROPPED: dict[str, Kind] = {SAME_TEXT: "duplicates_dropped", SUPERSEDED: "superseded", DELETED: "deleted"}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Where a record was read, and where its document was written.

    Attributes:
        split: its split; empty for a record that is rejected or not in the sample, which is not written.
        part: the part file's name, without suffix.
        doc_id, source, record_index: as in `Document`.
        deletes: True if the record deletes the document.
    """

    split: str
    part: str
    doc_id: str
    source: str
    record_index: int
    deletes: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document that has its text or its id in common with another.

    Attributes:
        kind: `SAME_TEXT`, `SAME_ID`, `SUPERSEDED` or `DELETED`.
        group: the same for all documents with that text or id.
        occurrence: where it is.
        dropped: True if it is dropped from its split because of that.
    """

    kind: str
    group: str
    occurrence: Occurrence
    dropped: bool


def duplicate_keys(document: Document, *, split: str, part: str, revisions: str) -> Iterator[tuple[str, Occurrence]]:
    """Yields the keys to group documents by: a hash of the normalized text, and one of the id.

    A document without a split is not used; it has only the second key, so that what its id is worth can be seen.
    """
    occurrence = Occurrence(split, part, document.doc_id, document.source, document.record_index)
    if split:
        yield _key(SAME_TEXT, normalized_text(document)), occurrence
    yield _key(VERSIONS if revisions == "latest" else SAME_ID, document.doc_id), occurrence


def revision_keys(reject: Reject, *, part: str) -> Iterator[tuple[str, Occurrence]]:
    """Yields the key that groups a rejected record with the earlier versions that it replaces."""
    if reject.doc_id is not None:
        deletes = reject.reason == Reason.DELETION
        occurrence = Occurrence("", part, reject.doc_id, reject.source, reject.record_index, deletes)
        yield _key(VERSIONS, reject.doc_id), occurrence


def normalized_text(document: Document) -> str:
    """Returns the text of a document with sentences, without differences of case and white space."""
    return " ".join(" ".join(document.sentences).casefold().split())


def find_duplicates(key: str, occurrences: Iterable[Occurrence]) -> list[Duplicate]:
    """Returns the members of a group if they are duplicates: a text in several splits, or an id of several records."""
    kind, _, group = key.partition("/")
    if kind == VERSIONS:
        return _find_superseded(group, set(occurrences))
    used = {occurrence for occurrence in occurrences if occurrence.split}
    members = sorted(used, key=lambda occurrence: (occurrence.source, occurrence.record_index))
    splits = {occurrence.split for occurrence in members}
    if len(members) < 2 or (kind == SAME_TEXT and len(splits) < 2):
        return []
    return [
        Duplicate(kind, group, occurrence, dropped=kind == SAME_TEXT and occurrence.split == "train")
        for occurrence in members
    ]


def count_shared_ids(key: str, occurrences: Iterable[Occurrence]) -> Iterator[Counts]:
    """Yields how many records have the id of a group: by source if it has several, and of all sources if several do."""
    if key.startswith(SAME_TEXT):
        return
    by_source = Counter(one.source for one in set(occurrences) if not one.deletes)
    counts = Counter({Count("shared_in_source", value=source): n for source, n in by_source.items() if n > 1})
    if len(by_source) > 1:
        counts.update({Count("shared_across"): by_source.total(), Count("ids_across"): 1})
    if counts:
        yield counts


def _find_superseded(group: str, versions: set[Occurrence]) -> list[Duplicate]:
    """Returns the documents that were written from versions of a record before its latest."""
    *earlier, latest = sorted(versions, key=_version_order)
    kind = DELETED if latest.deletes else SUPERSEDED
    return [Duplicate(kind, group, occurrence, dropped=True) for occurrence in earlier if occurrence.split]


def _version_order(occurrence: Occurrence) -> tuple[str, str, int]:
    """Returns the sort key of versions: the file's name first, so that update files of several folders are in order."""
    return PurePosixPath(occurrence.source).name, occurrence.source, occurrence.record_index


def _key(kind: str, content: str) -> str:
    return f"{kind}/{hashlib.sha256(content.encode('utf-8')).hexdigest()[:32]}"


def _still_duplicates(duplicates: Iterable[Duplicate]) -> list[Duplicate]:
    """Returns the duplicates without texts that are in one split only, once superseded versions are dropped."""
    gone = {
        (one.occurrence.source, one.occurrence.record_index) for one in duplicates if one.kind in (SUPERSEDED, DELETED)
    }
    texts: dict[str, list[Duplicate]] = defaultdict(list)
    kept = []
    for one in duplicates:
        if one.kind != SAME_TEXT:
            kept.append(one)
        elif (one.occurrence.source, one.occurrence.record_index) not in gone:
            texts[one.group].append(one)
    for members in texts.values():
        if len({one.occurrence.split for one in members}) > 1:
            kept += members
    return kept


def write_duplicates(duplicates: Sequence[Duplicate], folder: str) -> None:
    """Writes the list, one row per duplicate, in an order that depends only on its content."""
    kept = _still_duplicates(duplicates)
    ordered = sorted(kept, key=lambda one: (one.kind, one.group, one.occurrence.source, one.occurrence.record_index))
    schema = duplicate_schema()
    rows = [{"kind": one.kind, "group": one.group, **asdict(one.occurrence), "dropped": one.dropped} for one in ordered]
    write_table(f"{folder}/{_FILE}", pa.Table.from_pylist(rows, schema=schema))


def drop_duplicates(folder: str) -> Counts:
    """Removes the documents listed as dropped from their parts.

    Returns:
        The changes to the counts: negative numbers of documents, sentences and labels of the splits; the numbers of
        documents dropped from train, superseded and deleted; the number of repeated ids.
    """
    table = read_table(f"{folder}/{_FILE}")
    repeated_ids = set(table.filter(pc.equal(table["kind"], SAME_ID))["group"].to_pylist())
    changes: Counts = Counter({Count("repeated_ids"): len(repeated_ids)})
    dropped = table.filter(table["dropped"]).sort_by([("split", "ascending"), ("part", "ascending")]).to_pylist()
    for (split, part), rows in groupby(dropped, key=lambda row: (row["split"], row["part"])):
        kinds = {row["record_index"]: row["kind"] for row in rows}
        path = f"{folder}/documents/{split}/{part}.parquet"
        documents = read_table(path)
        leaves = pc.is_in(documents["record_index"], value_set=pa.array(list(kinds), pa.int64()))
        for document in documents.filter(leaves).select(["record_index", "sentences", "labels"]).to_pylist():
            changes[Count(_DROPPED[kinds[document["record_index"]]])] += 1
            changes[Count("documents", split)] -= 1
            changes[Count("sentences", split)] -= len(document["sentences"])
            changes.subtract(Count("labels", split, label) for label in document["labels"] or ())
        remaining = documents.filter(pc.invert(leaves))
        if remaining.num_rows:
            write_table(path, remaining)
        else:
            remove([path])
    return changes
