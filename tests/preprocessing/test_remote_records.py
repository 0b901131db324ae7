"""Training records in an object store: a real server that speaks S3, started here."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from support.engine_servers import free_port, prism_binary, server, without_checkout
from support.object_store import ACCESS, Store
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.bundle import load_bundle
from model.bundles.training_data import open_training_data
from pipelines.cli import main

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("s3")]

FOLDER = "s3://sepline/records"


def test_objects_hold_what_files_hold_and_train_a_model(
    store: Store,
    tiny_command: list[str],
    tiny_records: Path,
    tmp_path: Path,
    warm_jobs: WarmJobs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A driver that is killed in the middle is repeated, and leaves the bytes of an undisturbed local run."""
    monkeypatch.setenv("SEPLINE_CACHE", str(tmp_path / "cache"))
    flags = ["--", *store.flags]
    # All that the pipelines write is there; what is copied to the store after them is still to come.
    job = warm_jobs.start([*tiny_command, FOLDER, *flags], before=stop_before("/transform/", event="open"))
    job.wait_until_stopped()
    assert job.kill() == -signal.SIGKILL
    assert any(name.startswith("windows/") for name in store.names("records"))
    assert "COMPLETED" not in store.names("records")
    train = ["train", "--data", FOLDER, "--output", str(tmp_path / "run"), "--set", "training.epochs=1", *flags]
    assert main(train) == 2
    assert "COMPLETED is missing" in capsys.readouterr().err

    assert main([*tiny_command, FOLDER, *flags]) == 0
    assert_same(store, "records", tiny_records)
    written = times(store)
    assert main([*tiny_command, FOLDER, *flags]) == 0
    assert times(store) == written
    assert main([*tiny_command, FOLDER, "--set", "window.context=0", *flags]) == 2
    assert "window.context" in capsys.readouterr().err

    assert main(train) == 0
    (copy,) = (tmp_path / "cache").iterdir()
    data = open_training_data(copy)
    assert load_bundle(tmp_path / "run" / "bundle").description["data"][0]["fingerprint"] == data.fingerprint
    assert tf.saved_model.contains_saved_model(str(copy / "transform" / "transform_fn"))
    capsys.readouterr()
    evaluate = ["evaluate", "--model", str(tmp_path / "run" / "bundle"), "--json"]
    results = []
    for folder, beam in ((FOLDER, flags), (str(tiny_records), [])):
        assert main([*evaluate, "--data", folder, *beam]) == 0
        captured = capsys.readouterr()
        assert "copying" not in captured.err
        results.append(json.loads(captured.out))
    assert results[0] == results[1]


def assert_same(store: Store, folder: str, expected: Path) -> None:
    local = {str(path.relative_to(expected)): path for path in expected.rglob("*") if path.is_file()}
    assert store.names(folder) == set(local)
    for name, path in local.items():
        # TensorFlow writes no graph twice with the same bytes, so its checksum isn't the same either.
        if name not in ("files.json", "COMPLETED") and ("transform_fn" not in name or "assets" in name):
            assert store.read(f"{folder}/{name}") == path.read_bytes(), name


def times(store: Store) -> dict[str, Any]:
    listed = store.client.list_objects_v2(Bucket="sepline", Prefix="records/")["Contents"]
    return {entry["Key"]: entry["LastModified"] for entry in listed}


def test_workers_that_share_only_the_store_and_a_scratch_folder_leave_the_same(
    store: Store, installed_python: Path, tiny_command: list[str], tiny_records: Path, tmp_path: Path
) -> None:
    """As on a cluster: runner and workers are processes of their own, and have only the installed sdist."""
    python, scratch = installed_python, tmp_path / "scratch"
    scratch.mkdir()
    pool, jobs = free_port(), free_port()
    workers = [str(python), "-m", "pipelines.runners.worker_pool", f"--service-port={pool}"]
    runner = [str(prism_binary()), "-job_port", str(jobs), "-serve_http=false"]
    keys = {f"AWS_{name.upper()}": value for name, value in ACCESS.items()}
    keys |= {"AWS_ENDPOINT_URL": store.client.meta.endpoint_url, "AWS_DEFAULT_REGION": "us-east-1"}
    flags = ["--runner=PortableRunner", f"--job_endpoint=localhost:{jobs}", f"--temp_location={scratch}"]
    flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]
    with (
        server(workers, pool, tmp_path / "workers.txt", env={**without_checkout(python), **keys}),
        server(runner, jobs, tmp_path / "runner.txt"),
    ):
        assert main([*tiny_command, "s3://sepline/by-workers", "--", *flags, *store.flags]) == 0
    assert_same(store, "by-workers", tiny_records)
    assert not list(scratch.iterdir())


def test_a_folder_that_is_not_ours_is_left_alone(
    store: Store, tiny_command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store.client.put_object(Bucket="sepline", Key="mine/below/thesis.txt", Body=b"precious")
    assert main([*tiny_command, "s3://sepline/mine/", "--overwrite", "--", *store.flags]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert store.names("mine") == {"below/thesis.txt"}
