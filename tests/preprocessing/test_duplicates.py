"""Duplicates: which documents meet, which of them are reported, and which leave their parts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.records import Document, Reason, Reject
from model.schema import document_schema, duplicate_schema
from pipelines.preprocessing.counts import Count
from pipelines.preprocessing.duplicates import (
    Duplicate,
    Occurrence,
    drop_duplicates,
    duplicate_keys,
    find_duplicates,
    normalized_text,
    revision_keys,
    write_duplicates,
)


def occurrence(split: str, record_index: int, *, source: str = "a.xml", deletes: bool = False) -> Occurrence:
    return Occurrence(split, f"part-{split}", f"id-{record_index}", source, record_index, deletes)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:32]


def test_documents_meet_by_their_text_and_by_their_id() -> None:
    document = Document("id-7", "a.xml", 7, sentences=("We  Measured\tit.", " STRASSE na\u00efve "))
    normalized = "we measured it. strasse na\u00efve"
    assert normalized_text(document) == normalized
    place = Occurrence("dev", "part-3", "id-7", "a.xml", 7, deletes=False)
    text = f"same_text/{digest(normalized)}"
    assert dict(duplicate_keys(document, split="dev", part="part-3", revisions="all")) == {
        text: place,
        f"same_id/{digest('id-7')}": place,
    }
    assert dict(duplicate_keys(document, split="dev", part="part-3", revisions="latest")) == {
        text: place,
        f"versions/{digest('id-7')}": place,
    }


def test_texts_that_differ_in_case_and_white_space_are_the_same() -> None:
    one, other, cut = (
        Document("d", "a", 0, sentences=sentences)
        for sentences in (("Stra\u00dfe one.", "Two."), ("STRASSE  ONE.\n", "two."), ("Strasse", "one. Two."))
    )
    assert normalized_text(one) == normalized_text(other) == normalized_text(cut) == "strasse one. two."


def test_a_record_that_cannot_be_used_takes_the_place_of_earlier_versions() -> None:
    unusable = Reject("b.xml", 4, Reason.UNLABELLED, "no labels", "id-1")
    deleted = Reject("b.xml", 5, Reason.DELETION, "deleted", "id-1")
    key = f"versions/{digest('id-1')}"
    assert list(revision_keys(unusable, part="part-9")) == [(key, Occurrence("", "part-9", "id-1", "b.xml", 4, False))]
    assert list(revision_keys(deleted, part="part-9")) == [(key, Occurrence("", "part-9", "id-1", "b.xml", 5, True))]
    assert list(revision_keys(Reject("b.xml", 6, Reason.NO_ID, "no id"), part="part-9")) == []


def test_a_text_in_several_splits_leaves_train() -> None:
    train, again, test, dev = (occurrence(*which) for which in (("train", 3), ("train", 1), ("test", 2), ("dev", 0)))
    assert find_duplicates("same_text/x", [train, again, test, dev, train]) == [
        Duplicate("same_text", "x", dev, dropped=False),
        Duplicate("same_text", "x", again, dropped=True),
        Duplicate("same_text", "x", test, dropped=False),
        Duplicate("same_text", "x", train, dropped=True),
    ]
    assert find_duplicates("same_text/x", [train, again]) == []
    assert find_duplicates("same_text/x", [test]) == []
    assert len(find_duplicates("same_text/x", [test, dev])) == 2


def test_an_id_of_several_records_is_reported_and_kept() -> None:
    first, second = occurrence("train", 1), occurrence("train", 2)
    elsewhere = occurrence("train", 0, source="b.xml")
    assert find_duplicates("same_id/y/z", [second, elsewhere, first]) == [
        Duplicate("same_id", "y/z", one, dropped=False) for one in (first, second, elsewhere)
    ]
    assert find_duplicates("same_id/y", [first]) == []
    assert find_duplicates("same_id/y", [first, first]) == []  # a bundle that Beam processed twice


def test_only_the_latest_version_stays() -> None:
    """The file's name comes before its folder, and both before the record's position."""
    old = occurrence("train", 9, source="z/1.xml")
    newer = occurrence("test", 2, source="a/2.xml")
    latest = occurrence("dev", 3, source="a/2.xml")
    rejected = occurrence("", 8, source="a/2.xml")
    assert find_duplicates("versions/v", [latest, old, newer]) == [
        Duplicate("superseded", "v", old, dropped=True),
        Duplicate("superseded", "v", newer, dropped=True),
    ]
    assert find_duplicates("versions/v", [newer, rejected, latest]) == [
        Duplicate("superseded", "v", newer, dropped=True),
        Duplicate("superseded", "v", latest, dropped=True),
    ]
    # The same name in two folders: the folder decides.
    twin = occurrence("train", 0, source="b/2.xml")
    assert find_duplicates("versions/v", [twin, latest]) == [Duplicate("superseded", "v", latest, dropped=True)]
    assert find_duplicates("versions/v", [latest]) == []


def test_a_deletion_says_so_unless_the_record_came_back() -> None:
    old, back = occurrence("train", 1), occurrence("train", 3)
    deletion = occurrence("", 2, deletes=True)
    assert find_duplicates("versions/v", [deletion, old]) == [Duplicate("deleted", "v", old, dropped=True)]
    assert find_duplicates("versions/v", [deletion, old, back]) == [Duplicate("superseded", "v", old, dropped=True)]
    assert find_duplicates("versions/v", [deletion]) == []


def listed(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "duplicates.parquet")
    assert table.schema.equals(duplicate_schema())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_the_list_is_in_an_order_of_its_own(tmp_path: Path) -> None:
    duplicates = [
        Duplicate("same_text", "g", occurrence("train", 5), dropped=True),
        Duplicate("same_text", "f", occurrence("train", 2), dropped=True),
        Duplicate("same_id", "h", occurrence("dev", 7, source="b.xml"), dropped=False),
        Duplicate("same_id", "h", occurrence("dev", 8, source="a.xml"), dropped=False),
        Duplicate("same_text", "f", occurrence("test", 1), dropped=False),
        Duplicate("same_text", "g", occurrence("dev", 4), dropped=False),
    ]
    for number, given in enumerate((duplicates, duplicates[::-1])):
        write_duplicates(given, str(tmp_path / str(number)))
    rows = listed(tmp_path / "0")
    assert rows == listed(tmp_path / "1")
    assert [(row["kind"], row["group"], row["source"], row["record_index"]) for row in rows] == [
        ("same_id", "h", "a.xml", 8),
        ("same_id", "h", "b.xml", 7),
        ("same_text", "f", "a.xml", 1),
        ("same_text", "f", "a.xml", 2),
        ("same_text", "g", "a.xml", 4),
        ("same_text", "g", "a.xml", 5),
    ]
    assert rows[3] == {
        "kind": "same_text",
        "group": "f",
        "doc_id": "id-2",
        "split": "train",
        "part": "part-train",
        "source": "a.xml",
        "record_index": 2,
        "dropped": True,
    }


@pytest.mark.parametrize("kind", ["superseded", "deleted"])
def test_what_has_left_makes_no_text_a_duplicate(tmp_path: Path, kind: str) -> None:
    gone, kept, other = occurrence("test", 1), occurrence("train", 0), occurrence("dev", 1, source="b.xml")
    texts = [Duplicate("same_text", "f", one, dropped=one == kept) for one in (gone, kept)]
    write_duplicates([*texts, Duplicate(kind, "v", gone, dropped=True)], str(tmp_path))
    assert [(row["kind"], row["record_index"]) for row in listed(tmp_path)] == [(kind, 1)]
    # With the same text in a third split, it is one all the same; record 1 of another file has not left.
    texts.append(Duplicate("same_text", "f", other, dropped=False))
    write_duplicates([*texts, Duplicate(kind, "v", gone, dropped=True)], str(tmp_path))
    assert [(row["kind"], row["source"], row["record_index"]) for row in listed(tmp_path)] == sorted(
        [(kind, "a.xml", 1), ("same_text", "a.xml", 0), ("same_text", "b.xml", 1)]
    )


def write_documents(folder: Path, split: str, part: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / "documents" / split / f"{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [{"doc_id": f"id-{row['record_index']}", "source": "a.xml", **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(whole, schema=document_schema()), path)
    return path


def test_dropped_documents_leave_their_parts(tmp_path: Path) -> None:
    train = write_documents(
        tmp_path,
        "train",
        "part-train",
        [
            {"record_index": 0, "sentences": ["One.", "Two."], "labels": ["a", "b"]},
            {"record_index": 1, "sentences": ["Three."], "labels": ["a"]},
            {"record_index": 2, "sentences": ["Four."], "labels": ["b"]},
            {"record_index": 3, "sentences": ["Five.", "Six."], "scores": [0.5, 1.0]},
        ],
    )
    test = write_documents(tmp_path, "test", "part-test", [{"record_index": 5, "sentences": ["Six."], "labels": ["a"]}])
    dev = write_documents(tmp_path, "dev", "part-dev", [{"record_index": 6, "sentences": ["Six."], "labels": ["a"]}])
    untouched = dev.read_bytes()
    write_duplicates(
        [
            Duplicate("same_text", "f", occurrence("train", 0), dropped=True),
            Duplicate("same_text", "f", occurrence("dev", 6), dropped=False),
            Duplicate("superseded", "v", occurrence("train", 1), dropped=True),
            Duplicate("deleted", "w", occurrence("train", 3), dropped=True),
            Duplicate("deleted", "x", occurrence("test", 5), dropped=True),
            *(Duplicate("same_id", group, occurrence("train", 2), dropped=False) for group in ("i", "i", "k")),
        ],
        str(tmp_path),
    )
    changes = drop_duplicates(str(tmp_path))
    assert changes == {
        Count("repeated_ids"): 2,
        Count("duplicates_dropped"): 1,
        Count("superseded"): 1,
        Count("deleted"): 2,
        Count("documents", "train"): -3,
        Count("documents", "test"): -1,
        Count("sentences", "train"): -5,
        Count("sentences", "test"): -1,
        Count("labels", "train", "a"): -2,
        Count("labels", "train", "b"): -1,
        Count("labels", "test", "a"): -1,
    }
    assert [row["doc_id"] for row in pq.read_table(train, partitioning=None).to_pylist()] == ["id-2"]
    assert not test.exists()
    assert dev.read_bytes() == untouched
