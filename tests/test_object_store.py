"""Scoring from and to an object store: a real server that speaks S3, started here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tiny_documents
from engine_servers import free_port, server

from model.bundle import Bundle
from pipelines.cli import main

pytestmark = pytest.mark.engines

ACCESS = {"access_key_id": "key", "secret_access_key": "secret"}


@dataclass(frozen=True)
class Store:
    """A store with one bucket, `sepline`."""

    client: Any
    flags: list[str]

    def parts(self, prefix: str) -> dict[str, bytes]:
        return {name: self.read(f"{prefix}/{name}") for name in self.names(prefix) if "part-" in name}

    def names(self, prefix: str) -> set[str]:
        listed = self.client.list_objects_v2(Bucket="sepline", Prefix=f"{prefix}/").get("Contents", [])
        return {entry["Key"].removeprefix(f"{prefix}/") for entry in listed}

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket="sepline", Key=key)["Body"].read()
        return content


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    with server(command, port, tmp_path_factory.mktemp("store") / "log.txt"):
        endpoint = f"http://localhost:{port}"
        keys = {f"aws_{name}": value for name, value in ACCESS.items()}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="sepline")
        flags = [f"--s3_endpoint_url={endpoint}", "--s3_region_name=us-east-1"]
        yield Store(client, [*flags, *(f"--s3_{name}={value}" for name, value in ACCESS.items())])
        client.close()


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
    while not store.parts("scored") and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(store.parts("scored")) < len(expected) == 30
    assert "_SUCCESS" not in store.names("scored")
    assert main(to_store) == 0
    assert store.parts("scored") == expected
    assert {"_SUCCESS", "_manifest.json"} <= store.names("scored")


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
