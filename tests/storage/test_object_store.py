"""Scoring from and to an object store: a real server that speaks S3, started here, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tiny_documents
from support.engine_servers import free_port
from support.object_store import Store, flags, serving

from model.bundles.bundle import Bundle
from pipelines.cli import main
from pipelines.storage import filesystems

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("s3")]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    records = [
        {"doc_id": document["doc_id"], "text": " ".join(document["sentences"])} for document in tiny_documents(120)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def command(bundle: Bundle, source: str, output: str) -> list[str]:
    paths = ["--model", str(bundle.path), "--input", source, "--output", output]
    return ["score", *paths, "--chunk-records", "4", "--workers", "1"]


def test_objects_hold_what_files_hold(store: Store, tiny_bundle: Bundle, texts: Path, tmp_path: Path) -> None:
    """A driver that is killed in the middle is repeated, and leaves the bytes of an undisturbed local run."""
    assert main(command(tiny_bundle, str(texts), str(tmp_path / "local"))) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "local").glob("part-*")}
    to_store = [*command(tiny_bundle, str(texts), "s3://sepline/scored"), "--", *store.flags]
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *to_store], stderr=subprocess.DEVNULL)
    store.wait_for_parts("scored", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(store.parts("scored")) < len(expected) == 30
    assert "_SUCCESS" not in store.names("scored")
    assert main(to_store) == 0
    assert store.parts("scored") == expected
    assert {"_SUCCESS", "_manifest.json"} <= store.names("scored")


@pytest.mark.parametrize("back", ["in a moment", "when the job has ended"])
def test_a_store_is_killed_in_the_middle(back: str, tiny_bundle: Bundle, texts: Path, tmp_path: Path) -> None:
    """A job outlives a store that is soon back; if not, it ends with one line, and its repetition ends it well."""
    port = free_port()
    with serving(tmp_path, port) as store:
        store.client.upload_file(str(texts), "sepline", "in/texts.jsonl")
        from_store = "s3://sepline/in/texts.jsonl"
        assert main([*command(tiny_bundle, from_store, str(tmp_path / "local")), "--", *store.flags]) == 0
        expected = {path.name: path.read_bytes() for path in (tmp_path / "local").glob("part-*")}
        job = [*command(tiny_bundle, from_store, "s3://sepline/scored"), "--", *store.flags]
        with open(tmp_path / "errors.txt", "wb") as errors:
            process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *job], stderr=errors)
        store.wait_for_parts("scored", process)
    if back == "when the job has ended":
        assert process.wait(timeout=120) == 1
    with serving(tmp_path, port) as store:
        code = process.wait(timeout=120)
        said = (tmp_path / "errors.txt").read_text(encoding="utf-8")
        assert "Traceback" not in said
        if back == "when the job has ended":
            assert said.splitlines()[-1].startswith("sepline: s3://sepline/")
            assert said.endswith("what is finished is kept; repeat the command to continue\n")
            there = store.parts("scored")
            assert 0 < len(there) < len(expected) == 30
            assert there == {name: expected[name] for name in there}
            assert not {"_SUCCESS", "_manifest.json"} & store.names("scored")
            code = main(job)
        assert code == 0
        assert store.parts("scored") == expected
        assert {"_SUCCESS", "_manifest.json"} <= store.names("scored")


def test_a_store_that_is_not_there(
    tiny_bundle: Bundle,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither input nor output waits for ten minutes, and what can't be asked for is not taken for a broken input."""
    monkeypatch.setattr(filesystems, "PATIENCE", 2.0)
    for source, output in (("s3://sepline/in.jsonl", str(tmp_path / "out")), (str(texts), "s3://sepline/out")):
        assert main([*command(tiny_bundle, source, output), "--", *flags(free_port())]) == 1
        assert capsys.readouterr().err.endswith("no answer in 2 seconds; check endpoint, credentials and network\n")
    assert not (tmp_path / "out").exists()


def test_inputs_are_read_from_the_store(store: Store, tiny_bundle: Bundle, texts: Path, tmp_path: Path) -> None:
    store.client.upload_file(str(texts), "sepline", "in/texts.jsonl")
    for output, source in (("local", str(texts)), ("remote", "s3://sepline/in/*.jsonl")):
        assert main([*command(tiny_bundle, source, str(tmp_path / output)), "--", *store.flags]) == 0
    local, remote = (read(tmp_path / output) for output in ("local", "remote"))
    assert remote["source"].unique().to_pylist() == ["s3://sepline/in/texts.jsonl"]
    assert remote.drop_columns("source").equals(local.drop_columns("source"))


def read(folder: Path) -> pa.Table:
    table = pq.read_table(folder).sort_by([("record_index", "ascending"), ("sentence_index", "ascending")])
    return table.replace_schema_metadata().unify_dictionaries().combine_chunks()
