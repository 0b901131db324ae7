"""Ids that don't identify documents: when they are replaced by positions, and what is said about them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model.bundles.training_data import open_training_data
from model.config import DataSettings
from model.inference.labelled_windows import read_windows
from model.schema import document_schema
from pipelines.cli import main
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.preprocessing.counts import Count, by_split, by_value
from pipelines.preprocessing.duplicates import drop_duplicates
from pipelines.preprocessing.ingest import assign_split, ingest
from pipelines.preprocessing.records_folder import notes_on_ids
from pipelines.preprocessing.transform import TransformGraph


def shared(number: int, *, doc_id: object = 0, label: str = "results") -> dict[str, Any]:
    sentences = ["We measured the group.", f"It was found in {number}."]
    return {"abstract_id": doc_id, "sentences": sentences, "labels": ["methods", label]}


def write_records(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_ids_that_all_documents_share_are_replaced_by_positions(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in CSAbstruct, where every id is 0. Labels that differ in white space alone are one label."""
    records = [shared(number, label="results" if number % 2 else " results\n") for number in range(60)]
    source = write_records(tmp_path / "a.jsonl", records)
    out = tmp_path / "out"
    command = ["preprocess", "--input", source, "--output", str(out), "--set", f"encoder.handle={tiny_encoder}"]
    assert main([*command, "--set", "window.max_tokens=48", "--set", "data.sample=0.9"]) == 0
    assert f"{source}: more than a tenth of the records share their ids" in capsys.readouterr().err
    data = open_training_data(out)
    counts = data.stats["counts"]
    assert sum(counts["documents"].values()) + counts["sampled_out"] == 60
    assert 0 < counts["sampled_out"] < 20
    assert all(counts["documents"][split] for split in ("train", "dev", "test"))
    assert data.stats["ids"] == {"identified": 60, "shared_across_sources": 0, "by_position": {source: 60}}
    assert set(data.labels) == {"methods", "results"}
    for split, number in counts["documents"].items():
        rows = [row for file in data.document_files(split) for row in pq.read_table(file).to_pylist()]
        assert len({row["doc_id"] for row in rows}) == len(rows) == number
        for row in rows:
            assert row["doc_id"] == f"{source}#{row['record_index']}"
            assert row["sentences"][1] == f"It was found in {row['record_index']}."
            text = "we measured the group. " + row["sentences"][1].lower()
            assert assign_split(text, DataSettings()) == split
    assert {window.doc_id for window in read_windows(data, "train")} == {
        row["doc_id"] for file in data.document_files("train") for row in pq.read_table(file).to_pylist()
    }


@pytest.mark.parametrize(
    ("revisions", "files", "by_position", "superseded", "noted"),
    [
        ("latest", {"a": [0] * 40, "b": range(40)}, {"a": 40}, 0, 0),
        ("latest", {"a": range(40), "b": range(40)}, {}, 40, 1),
        ("keep", {"a": range(40), "b": range(40)}, {}, 0, 1),
        ("keep", {"a": [*range(40), *range(4)], "b": range(100, 140)}, {}, 0, 0),
        ("keep", {"a": [*range(40), *range(5)], "b": range(100, 140)}, {"a": 45}, 0, 0),
        ("keep", {f"{number:02}": [7] for number in range(12)}, {f"{number:02}": 1 for number in range(12)}, 0, 0),
    ],
    ids=["constant", "versions", "kept versions", "a few", "a tenth", "one document a file"],
)
def test_when_ids_identify_documents(
    revisions: Literal["keep", "latest"],
    files: dict[str, Sequence[int]],
    by_position: dict[str, int],
    superseded: int,
    noted: int,
    tmp_path: Path,
) -> None:
    number = itertools.count()
    paths = [
        write_records(tmp_path / name, [shared(next(number), doc_id=doc_id) for doc_id in ids])
        for name, ids in files.items()
    ]
    sources = [(source, None) for source in fingerprint_sources(paths)]
    data, folder = DataSettings(revisions=revisions, part_records=9), str(tmp_path / "out")
    flags = PipelineOptions(["--runner=FnApiRunner"])
    counts = ingest(sources, folder, data=data, options=ReadOptions(format="jsonl"), beam_options=flags)
    counts.update(drop_duplicates(folder))
    found = {Path(source).name: n for source, n in by_value(counts, "by_position").items()}
    assert found == by_position
    assert counts[Count("superseded")] == superseded
    documents = [
        row for file in (tmp_path / "out" / "documents").rglob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    assert len(documents) == sum(by_split(counts, "documents").values()) == next(number) - superseded
    assert len({(row["source"], row["record_index"]) for row in documents}) == len(documents)
    ids = {
        "identified": counts[Count("identified")],
        "shared_across_sources": counts[Count("shared_across")],
        "by_position": found,
    }
    assert len(notes_on_ids({"ids": ids})) == noted + bool(by_position)


def test_a_label_without_an_id_is_never_written(tiny_records: Path) -> None:
    graph = TransformGraph(str(tiny_records / "transform"), DataSettings())
    rows = [
        {"doc_id": doc_id, "source": "a", "record_index": 0, "sentences": ["We used it.", "It is."], "labels": labels}
        for doc_id, labels in (("c", ["methods", "results"]), ("d", ["methods", "odd"]), ("e", ["results", "results"]))
    ]
    with pytest.raises(ValueError, match="document 'd': the transform graph has no id for one of its labels"):
        graph.apply(pa.Table.from_pylist(rows, schema=document_schema()))
