"""MEDLINE's daily update files: later versions take the place of earlier ones, and deletions are honoured."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from model.bundles.training_data import TrainingData, open_training_data
from model.records import Document
from pipelines.cli import main
from pipelines.preprocessing.duplicates import write_duplicates
from pipelines.preprocessing.keys import PartKeys, key_files, repeated_rows

ARTICLE = """<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><Article><Abstract>
<AbstractText Label="METHODS" NlmCategory="METHODS">We measured {text}.</AbstractText>
<AbstractText Label="RESULTS" NlmCategory="RESULTS">It was found.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>"""
UNLABELLED = """<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article><Abstract>
<AbstractText>We measured.</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"""


def article(pmid: int, text: str, *, version: int = 1) -> str:
    return ARTICLE.format(pmid=pmid, text=text, version=version)


def deletion(*pmids: int) -> str:
    listed = "".join(f'<PMID Version="1">{pmid}</PMID>' for pmid in pmids)
    return f"<DeleteCitation>{listed}</DeleteCitation>"


def write(file: Path, *records: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.write(f"<?xml version='1.0'?>\n<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>")


def preprocess(encoder: Path, folder: Path, name: str, *flags: str) -> TrainingData:
    command = ["preprocess", "--input", str(folder / "**" / "*.xml.gz"), "--output", str(folder / name)]
    command += ["--set", f"encoder.handle={encoder}", "--set", "window.max_tokens=48"]
    assert main([*command, *flags]) == 0
    return open_training_data(folder / name)


def pool(data: TrainingData) -> dict[str, str]:
    """Returns the first sentence of every document, by id."""
    rows = [
        row
        for split in ("train", "dev", "test")
        for file in data.document_files(split)
        for row in pq.read_table(file, partitioning=None).to_pylist()
    ]
    found = {row["doc_id"]: row["sentences"][0] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def updates(tmp_path: Path) -> Path:
    """A baseline file and two update files; the updates' folder sorts first, their names do not."""
    write(tmp_path / "b" / "pubmed26n0001.xml.gz", *(article(pmid, f"group {pmid}") for pmid in range(1, 41)))
    write(
        tmp_path / "a" / "pubmed26n0002.xml.gz",
        article(1, "group 1 anew", version=2),
        article(41, "group 41"),
        article(2, "group 2 anew"),
        UNLABELLED.format(pmid=3),
        deletion(4, 5, 999),
    )
    write(
        tmp_path / "a" / "pubmed26n0003.xml.gz",
        article(1, "group 1 once more", version=3),
        article(4, "group 4 is back"),
        article(42, "group 42"),
        article(42, "group 42 in the same file"),
        deletion(41),
    )
    return tmp_path


def test_the_pool_is_the_latest_version_of_each_record(updates: Path, tiny_encoder: Path) -> None:
    data = preprocess(tiny_encoder, updates, "latest", "--set", "data.revisions=latest", "--set", "data.part_records=7")
    expected = {str(pmid): f"We measured group {pmid}." for pmid in range(6, 41)}
    expected["1"] = "We measured group 1 once more."
    expected["2"] = "We measured group 2 anew."
    expected["4"] = "We measured group 4 is back."
    expected["42"] = "We measured group 42 in the same file."
    assert pool(data) == expected
    counts = data.stats["counts"]
    assert counts["records"] == 40 + 4 + 3 + 4 + 1
    assert counts["rejects"] == {"deletion": 4, "unlabelled": 1}
    # Superseded: 1 twice, 2, 3 (by a version without labels), 4 (by the one that came back), 42.
    assert (counts["superseded"], counts["deleted"], counts["duplicates_dropped"]) == (6, 2, 0)
    assert counts["records"] == (
        sum(counts["documents"].values())
        + counts["rejected"]
        + counts["sampled_out"]
        + counts["superseded"]
        + counts["deleted"]
    )
    assert sum(counts["documents"].values()) == len(expected)
    assert sum(counts["sentences"].values()) == 2 * len(expected)
    assert sum(sum(labels.values()) for labels in data.stats["label_counts"].values()) == 2 * len(expected)
    assert sum(sum(lengths.values()) for lengths in data.window_lengths.values()) == counts["windows"]["train"] + sum(
        counts["windows"].get(split, 0) for split in ("dev", "test")
    )
    listed = pq.read_table(data.path / "duplicates.parquet").to_pylist()
    kinds = sorted((row["kind"], int(row["doc_id"])) for row in listed)
    assert kinds == [("deleted", 5), ("deleted", 41), *(("superseded", pmid) for pmid in (1, 1, 2, 3, 4, 42))]
    rejects = pq.read_table(data.path / "rejects").to_pylist()
    assert sorted(row["doc_id"] for row in rejects if row["reason"] == "deletion") == ["4", "41", "5", "999"]


def test_plain_corpora_keep_every_record(updates: Path, tiny_encoder: Path) -> None:
    data = preprocess(tiny_encoder, updates, "kept")
    counts = data.stats["counts"]
    assert (counts["records"], sum(counts["documents"].values())) == (40 + 4 + 4, 47)
    assert (counts["superseded"], counts["deleted"], counts["repeated_ids"]) == (0, 0, 4)


def test_a_text_is_no_duplicate_of_a_version_that_has_left(tmp_path: Path) -> None:
    """The trained text was also that of a held-out document, which has been revised since."""
    records = [
        ("train", "a", "one"),
        ("test", "b", "one"),
        ("test", "b", "two"),
        ("train", "c", "3"),
        ("dev", "d", "3"),
    ]
    keys = PartKeys("part-0")
    for number, (split, doc_id, text) in enumerate(records):
        keys.add_document(Document(doc_id, "a.xml", number, sentences=(text,)), split)
    keys.write(str(tmp_path))
    files = key_files(str(tmp_path))
    write_duplicates(str(tmp_path), repeated_rows(files, "id"), repeated_rows(files, "text"), "latest")
    listed: list[Any] = pq.read_table(tmp_path / "duplicates.parquet").to_pylist()
    assert [(row["kind"], row["doc_id"], row["dropped"]) for row in listed] == [
        ("same_text", "c", True),
        ("same_text", "d", False),
        ("superseded", "b", True),
    ]
