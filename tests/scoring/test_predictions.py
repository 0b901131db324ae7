"""The parts of a scored chunk, without a model: the outputs are made up, and every value tells where it is from."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import model
from model.bundles.bundle import Bundle
from model.config import WindowSettings
from model.inference.kinds import Outputs
from model.inference.predictor import WindowFailure
from model.records import Document, EncodedWindow, Reason, Reject, Window
from model.text.vocabulary import Vocabulary
from pipelines.scoring.counts import PartCounts, read_part_counts
from pipelines.scoring.predictions import ChunkInference, TokenizedChunk, assemble_documents, write_part
from pipelines.scoring.settings import PartFormat

LABELS = ("aim", "method", "result")


def bundle(labels: tuple[str, ...] = LABELS) -> Bundle:
    vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]"), lower_case=True)
    return Bundle(Path("b"), labels, WindowSettings(), (), False, vocabulary, "fingerprint", {})


def window(index: int, shown: tuple[int, int], owned: tuple[int, int], *truncated: int) -> EncodedWindow:
    """Returns a window without ids; `truncated` are sentences of the document."""
    nothing = np.zeros(0, np.int32)
    cut = np.isin(np.arange(*shown), truncated)
    return EncodedWindow(Window(index, *shown, *owned), nothing, nothing, nothing, cut)


def outputs(*label_ids: int, sure: float = 0.5) -> Outputs:
    """Returns probabilities with `sure` at the label and unequal rests, the first label's the larger one."""
    probabilities = np.zeros((len(label_ids), 3), np.float32)
    for row, label in enumerate(label_ids):
        first, second = (other for other in range(3) if other != label)
        probabilities[row, [label, first, second]] = sure, (1 - sure) * 0.75, (1 - sure) * 0.25
    return {"probabilities": probabilities, "label_ids": np.array(label_ids, np.int32)}


LONG = Document("long", "a.xml", 1, sentences=("One.", "Two.", "Three.", "Four."))
FAILED = Document("failed", "a.xml", 2, sentences=("Five.", "Six."))
SHORT = Document("short", "a.xml", 5, sentences=("Seven.",))
EARLY = Reject("a.xml", 0, Reason.NO_TEXT, "no text", "early")
LATE = Reject("a.xml", 4, Reason.NO_TEXT, "no text")
CHUNK = TokenizedChunk(
    "part-a-000000",
    records=7,
    sampled_out=1,
    documents=(LONG, FAILED, SHORT),
    windows=(
        (window(0, (0, 3), (0, 2), 1, 2), window(1, (1, 4), (2, 4), 3)),
        (window(0, (0, 2), (0, 1)), window(1, (0, 2), (1, 2))),
        (window(0, (0, 1), (0, 1)),),
    ),
    rejects=(LATE, EARLY),
)
INFERENCE = ChunkInference(
    (
        outputs(0, 1, 2, sure=0.8),  # the last one is context
        outputs(0, 1, 2, sure=0.6),  # the first one is
        outputs(0, 0),
        WindowFailure("too large"),
        outputs(1, sure=0.4),
    ),
    tokens=40,
    padded_tokens=64,
)


def test_each_sentence_is_from_its_own_window() -> None:
    scored, failed = assemble_documents(CHUNK, INFERENCE)
    assert [document.document for document in scored] == [LONG, SHORT]
    long, short = scored
    assert long.outputs["label_ids"].tolist() == [0, 1, 1, 2]
    assert long.outputs["probabilities"].max(axis=1).tolist() == pytest.approx([0.8, 0.8, 0.6, 0.6])
    assert long.truncated.tolist() == [False, True, False, True]
    assert short.outputs["label_ids"].tolist() == [1]
    assert short.truncated.tolist() == [False]
    message = "the model failed on sentences 0 to 1: too large"
    assert failed == [Reject("a.xml", 2, Reason.FAILED_WINDOW, message, "failed", "Five. Six.")]


def test_the_first_of_several_failures_is_told() -> None:
    failures = (WindowFailure("one"), WindowFailure("two"))
    chunk = TokenizedChunk("p", 1, 0, (LONG,), CHUNK.windows[:1], ())
    scored, (reject,) = assemble_documents(chunk, ChunkInference(failures, 0, 0))
    assert scored == []
    assert reject.message == "the model failed on sentences 0 to 2: one"


COUNTS = {
    "records": 7,
    "scored": 2,
    "rejected": 3,
    "sampled_out": 1,
    "shared_ids": 0,
    "sentences": 5,
    "truncated": 2,
    "windows": 5,
    "tokens": 40,
    "padded_tokens": 64,
}
REASONS = {"failed_window": 1, "no_text": 2}


def test_a_part_of_sentences(tmp_path: Path) -> None:
    counts = write_part(CHUNK, INFERENCE, str(tmp_path), bundle=bundle(), format=PartFormat())
    assert counts.to_json() == {**COUNTS, "rejects": REASONS}
    table = pq.read_table(tmp_path / "part-a-000000.parquet")
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    by_name = {**COUNTS, **{f"rejects.{reason}": n for reason, n in REASONS.items()}}
    assert metadata.pop("sepline.counts") == json.dumps(dict(sorted(by_name.items())))  # the same bytes always
    common = {
        "sepline.version": model.__version__,
        "sepline.bundle": "fingerprint",
        "sepline.predictor": json.dumps({"name": "tensorflow", "version": version("tensorflow"), "precision": "f32"}),
        "sepline.labels": '["aim", "method", "result"]',
    }
    assert {key: metadata.get(key) for key in common} == common
    rows = table.to_pylist()
    assert [row["doc_id"] for row in rows] == ["long"] * 4 + ["short"]
    assert [row["sentence_index"] for row in rows] == [0, 1, 2, 3, 0]
    assert [row["sentence"] for row in rows] == ["One.", "Two.", "Three.", "Four.", "Seven."]
    assert [row["label"] for row in rows] == ["aim", "method", "method", "result", "method"]
    assert [row["probability"] for row in rows] == pytest.approx([0.8, 0.8, 0.6, 0.6, 0.4])
    assert [row["status"] for row in rows] == ["ok", "truncated", "ok", "truncated", "ok"]
    assert [(row["source"], row["record_index"]) for row in rows] == [("a.xml", 1)] * 4 + [("a.xml", 5)]
    assert np.array([row["probabilities"] for row in rows]) == pytest.approx(
        np.array([[0.8, 0.15, 0.05], [0.15, 0.8, 0.05], [0.3, 0.6, 0.1], [0.3, 0.1, 0.6], [0.45, 0.4, 0.15]])
    )
    rejects = pq.read_table(tmp_path / "_rejects" / "part-a-000000.parquet")
    assert [(row["record_index"], row["reason"], row["doc_id"]) for row in rejects.to_pylist()] == [
        (0, "no_text", "early"),
        (2, "failed_window", "failed"),
        (4, "no_text", None),
    ]
    assert {key.decode(): value.decode() for key, value in rejects.schema.metadata.items()} == metadata
    assert read_part_counts(str(tmp_path / "part-a-000000.parquet")) == counts


def rows_of(folder: Path, **format: Any) -> list[dict[str, Any]]:
    write_part(CHUNK, INFERENCE, str(folder), bundle=bundle(), format=PartFormat(**format))
    rows: list[dict[str, Any]] = pq.read_table(folder / "part-a-000000.parquet").to_pylist()
    return rows


def test_a_part_of_documents(tmp_path: Path) -> None:
    long, short = rows_of(tmp_path, layout="documents")
    assert (long["doc_id"], long["source"], long["record_index"]) == ("long", "a.xml", 1)
    assert (short["doc_id"], short["source"], short["record_index"]) == ("short", "a.xml", 5)
    assert [(one["sentence"], one["label"], one["status"]) for one in long["sentences"]] == [
        ("One.", "aim", "ok"),
        ("Two.", "method", "truncated"),
        ("Three.", "method", "ok"),
        ("Four.", "result", "truncated"),
    ]
    assert [one["sentence"] for one in short["sentences"]] == ["Seven."]
    assert short["sentences"][0]["probabilities"] == pytest.approx([0.45, 0.4, 0.15])
    assert list(long["sentences"][0]) == ["sentence", "label", "probability", "probabilities", "status"]


def test_chosen_columns(tmp_path: Path) -> None:
    assert rows_of(tmp_path, columns=("doc_id", "label"))[:2] == [
        {"doc_id": "long", "label": "aim"},
        {"doc_id": "long", "label": "method"},
    ]
    assert rows_of(tmp_path, layout="documents", columns=("doc_id",)) == [{"doc_id": "long"}, {"doc_id": "short"}]
    assert "sentence" not in rows_of(tmp_path, text=False)[0]


def test_a_part_of_scores(tmp_path: Path) -> None:
    chunk = TokenizedChunk("part-s", 1, 0, (LONG,), CHUNK.windows[:1], ())
    results = ({"scores": np.array([1, 2, 3], np.float32)}, {"scores": np.array([4, 5, 6], np.float32)})
    write_part(chunk, ChunkInference(results, 1, 2), str(tmp_path), bundle=bundle(()), format=PartFormat())
    table = pq.read_table(tmp_path / "part-s.parquet")
    assert table["score"].to_pylist() == [1.0, 2.0, 5.0, 6.0]
    assert table.schema.field("score").type == pa.float32()
    assert "label" not in table.column_names
    assert not (tmp_path / "_rejects").exists()


@pytest.mark.parametrize("layout", ["sentences", "documents"])
@pytest.mark.parametrize("labels", [LABELS, ()])
def test_a_chunk_of_nothing_has_a_part_all_the_same(tmp_path: Path, layout: str, labels: tuple[str, ...]) -> None:
    chunk = TokenizedChunk("part-e", 2, 0, (), (), (EARLY, LATE))
    write_part(chunk, ChunkInference((), 0, 0), str(tmp_path), bundle=bundle(labels), format=PartFormat(layout))
    table = pq.read_table(tmp_path / "part-e.parquet")
    assert table.num_rows == 0
    assert table.column_names[0] == "doc_id"
    assert read_part_counts(str(tmp_path / "part-e.parquet")).to_json()["rejected"] == 2


def test_counts_add_up(tmp_path: Path) -> None:
    first = write_part(CHUNK, INFERENCE, str(tmp_path), bundle=bundle(), format=PartFormat())
    empty = TokenizedChunk("part-e", 2, 0, (), (), (EARLY, LATE))
    second = write_part(empty, ChunkInference((), 0, 0), str(tmp_path), bundle=bundle(), format=PartFormat())
    assert read_part_counts(str(tmp_path / "part-a-000000.parquet")) == first
    total = sum((first, second), PartCounts()).to_json()
    assert total == {**COUNTS, "records": 9, "rejected": 5, "rejects": {"failed_window": 1, "no_text": 4}}
