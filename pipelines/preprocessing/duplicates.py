"""Texts that appear in several splits, and ids that appear more than once.

A text that is both trained on and held out makes every held-out figure too good, so such documents are dropped from the
train split. Repeated ids are reported and kept; with `data.revisions: latest` only their latest version is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.schema import duplicate_schema
from pipelines.preprocessing.counts import Count, Counts, Kind
from pipelines.preprocessing.keys import Key, groups
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


def count_shared_ids(rows: pa.Table) -> Counts:
    """Returns how many records have an id that is not theirs alone: by source if it has several, and if several do.

    Args:
        rows: of keys, at least those whose id occurs more than once.
    """
    records = rows.filter(pc.invert(rows["deletes"])).group_by(["id", "source"]).aggregate([([], "count_all")])
    counts: Counts = Counter()
    several = records.filter(pc.greater(records["count_all"], 1)).group_by("source").aggregate([("count_all", "sum")])
    for source, number in zip(several["source"].to_pylist(), several["count_all_sum"].to_pylist(), strict=True):
        counts[Count("shared_in_source", value=source)] = number
    ids = records.group_by("id").aggregate([("count_all", "sum"), ("count_all", "count")])
    across = ids.filter(pc.greater(ids["count_all_count"], 1))
    if across.num_rows:
        counts[Count("ids_across")] = across.num_rows
        counts[Count("shared_across")] = pc.sum(across["count_all_sum"]).as_py()
    return counts


def _find_superseded(group: str, versions: set[Occurrence]) -> list[Duplicate]:
    """Returns the documents that were written from versions of a record before its latest."""
    *earlier, latest = sorted(versions, key=_version_order)
    kind = DELETED if latest.deletes else SUPERSEDED
    return [Duplicate(kind, group, occurrence, dropped=True) for occurrence in earlier if occurrence.split]


def _version_order(occurrence: Occurrence) -> tuple[str, str, int]:
    """Returns the sort key of versions: the file's name first, so that update files of several folders are in order."""
    return PurePosixPath(occurrence.source).name, occurrence.source, occurrence.record_index


def write_duplicates(folder: str, ids: pa.Table, texts: pa.Table, revisions: str) -> None:
    """Writes the list of duplicates, one row per duplicate, in an order that depends only on its content.

    Texts that are in one split only, once superseded versions are dropped, are no duplicates.

    Args:
        folder: of the records.
        ids, texts: rows of keys, at least those whose id or text occurs more than once, from `keys.repeated_rows`.
        revisions: as in `config.DataSettings`.
    """
    by_id = _list(ids, "id", VERSIONS if revisions == "latest" else SAME_ID)
    gone = by_id.filter(pc.is_in(by_id["kind"], pa.array([SUPERSEDED, DELETED])))
    if gone.num_rows:
        place = ["source", "record_index"]
        left = texts.join(gone.select(place), place, join_type="left anti")
        texts = left.sort_by([(name, "ascending") for name in ("text", *place)])
    listed = pa.concat_tables([by_id, _list(texts, "text", SAME_TEXT)])
    order = [(name, "ascending") for name in ("kind", "group", "source", "record_index")]
    write_table(f"{folder}/{_FILE}", listed.sort_by(order).combine_chunks())


def _list(rows: pa.Table, key: Key, kind: str) -> pa.Table:
    """Returns the duplicates among rows of keys, which are in the order of the keys."""
    schema = duplicate_schema()
    found = [schema.empty_table()]
    for some in groups(rows, key):
        duplicates = [
            {"kind": one.kind, "group": one.group, **asdict(one.occurrence), "dropped": one.dropped}
            for group, members in some
            for one in find_duplicates(f"{kind}/{group}", map(_occurrence, members))
        ]
        found.append(pa.Table.from_pylist(duplicates, schema=schema))
    return pa.concat_tables(found)


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    return Occurrence(**{name: row[name] for name in Occurrence.__slots__})


def drop_duplicates(folder: str) -> Counts:
    """Removes the documents listed as dropped from their parts.

    Returns:
        The changes to the counts: negative numbers of documents, sentences and labels of the splits; the numbers of
        documents dropped from train, superseded and deleted; the number of repeated ids.
    """
    table = read_table(f"{folder}/{_FILE}")
    repeated_ids = pc.count_distinct(table.filter(pc.equal(table["kind"], SAME_ID))["group"]).as_py()
    changes: Counts = Counter({Count("repeated_ids"): repeated_ids})
    dropped = table.filter(table["dropped"]).sort_by([("split", "ascending"), ("part", "ascending")])
    for rows in _by_part(dropped):
        split, part = rows[0]["split"], rows[0]["part"]
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


def _by_part(rows: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each part, which stand together."""
    names = pc.binary_join_element_wise(rows["split"], rows["part"], "/").combine_chunks().dictionary_encode()
    numbers = names.indices.to_numpy()
    ends = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, len(numbers)).tolist()
    for start, end in pairwise([0, *ends]):
        if start < end:
            yield rows.slice(start, end - start).to_pylist()
