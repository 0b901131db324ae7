"""Duplicates: which documents meet, which of them are reported, and which leave their parts."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.records import Document, Reason, Reject
from model.schema import document_schema, duplicate_schema, key_schema
from pipelines.preprocessing.counts import Count
from pipelines.preprocessing.duplicates import (
    Duplicate,
    Occurrence,
    count_shared_ids,
    drop_duplicates,
    find_duplicates,
    write_duplicates,
)
from pipelines.preprocessing.keys import PartKeys, groups, key_files, normalized_text, repeated_rows


def occurrence(split: str, record_index: int, *, source: str = "a.xml", deletes: bool = False) -> Occurrence:
    return Occurrence(split, f"part-{split}", f"id-{record_index}", source, record_index, deletes)


def hashed(content: str) -> bytes:
    return hashlib.sha256(content.encode("utf-8")).digest()[:16]


def rows(*changes: dict[str, Any]) -> pa.Table:
    """Returns keys as they are read: of documents of one text, in the order given."""
    row = {"text": hashed("t"), "id": hashed("i"), "split": "train", "source": "a.xml", "deletes": False}
    made = [{**row, "record_index": number, **change} for number, change in enumerate(changes)]
    places = [{"part": f"part-{one['split']}", "doc_id": f"id-{one['record_index']}"} for one in made]
    return pa.Table.from_pylist(
        [{**place, **one} for place, one in zip(places, made, strict=True)], schema=key_schema()
    )


def test_documents_meet_by_their_text_and_by_their_id(tmp_path: Path) -> None:
    document = Document("id-7", "a.xml", 7, sentences=("We  Measured\tit.", " STRASSE na\u00efve "))
    normalized = "we measured it. strasse na\u00efve"
    assert normalized_text(document) == normalized
    keys = PartKeys("part-3")
    keys.add_document(document, "dev")
    keys.add_document(document, None)
    keys.write(str(tmp_path))
    place = {"part": "part-3", "doc_id": "id-7", "source": "a.xml", "record_index": 7, "deletes": False}
    (file,) = key_files(str(tmp_path))
    assert pq.read_table(file).to_pylist() == [
        {"text": hashed(normalized), "id": hashed("id-7"), "split": "dev", **place},
        {"text": None, "id": hashed("id-7"), "split": "", **place},
    ]


def test_texts_that_differ_in_case_and_white_space_are_the_same() -> None:
    one, other, cut = (
        Document("d", "a", 0, sentences=sentences)
        for sentences in (("Stra\u00dfe one.", "Two."), ("STRASSE  ONE.\n", "two."), ("Strasse", "one. Two."))
    )
    assert normalized_text(one) == normalized_text(other) == normalized_text(cut) == "strasse one. two."


def test_a_record_that_cannot_be_used_takes_the_place_of_earlier_versions(tmp_path: Path) -> None:
    keys = PartKeys("part-9")
    keys.add_reject(Reject("b.xml", 4, Reason.UNLABELLED, "no labels", "id-1"))
    keys.add_reject(Reject("b.xml", 5, Reason.DELETION, "deleted", "id-1"))
    keys.add_reject(Reject("b.xml", 6, Reason.NO_ID, "no id"))
    keys.write(str(tmp_path))
    (file,) = key_files(str(tmp_path))
    both = {"text": None, "id": hashed("id-1"), "split": "", "part": "part-9", "doc_id": "id-1", "source": "b.xml"}
    assert pq.read_table(file).to_pylist() == [
        {**both, "record_index": 4, "deletes": False},
        {**both, "record_index": 5, "deletes": True},
    ]
    PartKeys("part-10").write(str(tmp_path))
    assert key_files(str(tmp_path)) == [file]


def test_only_keys_that_several_records_have_are_read_again(tmp_path: Path) -> None:
    """In files of their own, and in one; a text that is missing is not one that records share."""
    texts: dict[str, list[str | None]] = {
        "part-0": ["a", "b", None, "c"],
        "part-1": ["d", "a", None],
        "part-2": ["e"],
        "part-3": ["f", "f"],
    }
    for part, members in texts.items():
        keys = PartKeys(part)
        for number, text in enumerate(members):
            document = Document(f"{part}-{number}", part, number, sentences=(text or "unused",))
            keys.add_document(document, None if text is None else "train")
        keys.write(str(tmp_path))
    files = key_files(str(tmp_path))
    found = repeated_rows(files, "text")
    met = {
        name: [(row["source"], row["record_index"]) for row in members]
        for some in groups(found, "text")
        for name, members in some
    }
    assert met == {
        hashed("a").hex(): [("part-0", 0), ("part-1", 1)],
        hashed("f").hex(): [("part-3", 0), ("part-3", 1)],
    }
    assert repeated_rows(files, "id").num_rows == 0
    assert [list(some) for some in groups(repeated_rows(files, "id"), "id")] in ([], [[]])


def test_shared_ids_are_counted_by_source_and_across(tmp_path: Path) -> None:
    table = rows(
        *({"id": hashed("x"), "source": source} for source in ("a", "a", "b")),
        *({"id": hashed("y"), "source": "b", "deletes": deletes} for deletes in (False, False, True)),
        *({"id": hashed("z"), "source": source, "deletes": True} for source in ("a", "b")),
    )
    assert count_shared_ids(table) == {
        Count("shared_in_source", value="a"): 2,
        Count("shared_in_source", value="b"): 2,
        Count("shared_across"): 3,
        Count("ids_across"): 1,
    }
    assert count_shared_ids(table.slice(0, 0)) == {}


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
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_the_list_is_in_an_order_of_its_own(tmp_path: Path) -> None:
    texts = rows(
        *({"text": hashed(text), "split": split} for text, split in zip("ggff", ("train", "dev") * 2, strict=True))
    )
    ids = rows({"split": "dev", "source": "b.xml"}, {"split": "dev", "source": "a.xml", "record_index": 8})
    for number, order in enumerate(([0, 1, 2, 3], [3, 2, 1, 0])):
        sort = [("text", "ascending")]
        write_duplicates(str(tmp_path / str(number)), ids, texts.take(order).sort_by(sort), "keep")
    listing = listed(tmp_path / "0")
    assert listing == listed(tmp_path / "1")
    first, second = sorted("fg", key=hashed)
    places = {"f": [2, 3], "g": [0, 1]}
    assert [(row["kind"], row["group"], row["source"], row["record_index"]) for row in listing] == [
        ("same_id", hashed("i").hex(), "a.xml", 8),
        ("same_id", hashed("i").hex(), "b.xml", 0),
        *(("same_text", hashed(text).hex(), "a.xml", place) for text in (first, second) for place in places[text]),
    ]
    assert [row for row in listing if row["record_index"] == 2] == [
        {
            "kind": "same_text",
            "group": hashed("f").hex(),
            "doc_id": "id-2",
            "split": "train",
            "part": "part-train",
            "source": "a.xml",
            "record_index": 2,
            "dropped": True,
        }
    ]


@pytest.mark.parametrize("kind", ["superseded", "deleted"])
def test_what_has_left_makes_no_text_a_duplicate(tmp_path: Path, kind: str) -> None:
    gone = {"split": "test", "record_index": 1}
    later = {"split": "", "record_index": 2, "deletes": kind == "deleted"}
    kept = {"record_index": 0}
    write_duplicates(str(tmp_path), rows(gone, later), rows(kept, gone), "latest")
    assert [(row["kind"], row["record_index"]) for row in listed(tmp_path)] == [(kind, 1)]
    # With the same text in a third split, it is one all the same; record 1 of another file has not left.
    other = {"split": "dev", "record_index": 1, "source": "b.xml"}
    write_duplicates(str(tmp_path), rows(gone, later), rows(kept, gone, other), "latest")
    assert [(row["kind"], row["source"], row["record_index"]) for row in listed(tmp_path)] == sorted(
        [(kind, "a.xml", 1), ("same_text", "a.xml", 0), ("same_text", "b.xml", 1)]
    )


def write_list(folder: Path, duplicates: list[Duplicate]) -> None:
    made = [
        {"kind": one.kind, "group": one.group, **dataclasses.asdict(one.occurrence), "dropped": one.dropped}
        for one in duplicates
    ]
    pq.write_table(pa.Table.from_pylist(made, schema=duplicate_schema()), folder / "duplicates.parquet")


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
    write_list(
        tmp_path,
        [
            Duplicate("same_text", "f", occurrence("train", 0), dropped=True),
            Duplicate("same_text", "f", occurrence("dev", 6), dropped=False),
            Duplicate("superseded", "v", occurrence("train", 1), dropped=True),
            Duplicate("deleted", "w", occurrence("train", 3), dropped=True),
            Duplicate("deleted", "x", occurrence("test", 5), dropped=True),
            *(Duplicate("same_id", group, occurrence("train", 2), dropped=False) for group in ("i", "i", "k")),
        ],
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
