"""Workers of the local runner: records that kill them, errors that they raise, models that they find."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.warm_jobs import WarmJobs, kill_at, stop_before

from model.bundles.bundle import Bundle, load_bundle, write_bundle
from model.errors import JobFailure
from model.inference.predictor import Predictor


def write_sources(folder: Path) -> Path:
    """Writes 20 documents as JSON lines, and documents of which two can't be read as a table, Parquet and gzip."""
    folder.mkdir()
    texts = [f"We found level {number} ." for number in range(20)]
    texts[3], texts[5] = "A drug .", "The drug was measured ."
    texts[7] = "Some krakatoa ."
    (folder / "a.jsonl").write_text(json_lines(texts), encoding="utf-8")
    texts = ["We found level .", "A vesuvius .", "We measured the group .", "A vesuvius ."]
    rows = "".join(f"d{number},{text}\n" for number, text in enumerate(texts))
    (folder / "b.csv").write_text(f"doc_id,text\n{rows}", encoding="utf-8")
    table = pa.table({"doc_id": [f"d{number}" for number in range(4)], "text": texts})
    pq.write_table(table, folder / "c.parquet", row_group_size=3)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(json_lines(texts).encode(), mtime=0))
    return folder


def json_lines(texts: list[str]) -> str:
    return "".join(json.dumps({"doc_id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(texts))


def test_records_that_kill_their_worker_are_rejected_and_all_others_are_scored(
    tiny_bundle: Bundle, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    inputs, output = write_sources(tmp_path / "in"), tmp_path / "out"
    deadly = kill_at(
        {"drug": "predicting", "krakatoa": "splitting", "vesuvius": "reading"},
        vocabulary=tiny_bundle.vocabulary.pieces,
    )
    command = ["score", "--model", str(tiny_bundle.path), "--input", f"{inputs}/*", "--output", str(output)]
    command += ["--chunk-records", "10"]
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(command, before=deadly) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode().splitlines()
    assert message[-1] == f"sepline: 8 records killed the process that reads them; {output}/_rejects says how"
    rejects = {
        (Path(row["source"]).name, row["record_index"]): row for row in pq.read_table(output / "_rejects").to_pylist()
    }
    unread = {("b.csv", 1), ("b.csv", 3), ("c.parquet", 1), ("c.parquet", 3), ("d.jsonl.gz", 1)}
    assert rejects.keys() == {("a.jsonl", 3), ("a.jsonl", 5), ("a.jsonl", 7), *unread}
    assert {row["reason"] for row in rejects.values()} == {"killed_worker"}
    killed = "the worker process ended with signal 11 each time this record was"
    assert rejects["a.jsonl", 3]["message"] == rejects["a.jsonl", 5]["message"] == f"{killed} put to the model"
    assert (rejects["a.jsonl", 5]["doc_id"], rejects["a.jsonl", 5]["excerpt"]) == ("d5", "The drug was measured .")
    assert rejects["a.jsonl", 7]["message"] == f"{killed} split into sentences and tokenized"
    for name, index in unread - {("d.jsonl.gz", 1)}:
        assert rejects[name, index]["message"] == f"{killed} read"
    # Positions inside of a compressed file are not known.
    assert rejects["d.jsonl.gz", 1]["message"] == f"{killed} read; what follows in the file can't be read without it"
    scored = {(Path(row["source"]).name, row["record_index"]) for row in pq.read_table(output).to_pylist()}
    assert scored == {
        *(("a.jsonl", index) for index in range(20) if index not in (3, 5, 7)),
        *((name, index) for name in ("b.csv", "c.parquet") for index in (0, 2)),
        ("d.jsonl.gz", 0),
    }
    counts = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["records"], counts["scored"], counts["rejects"]) == (30, 22, {"killed_worker": 8})

    assert warm_jobs.run(command) == 1  # a finished folder says the same, and again after half of it was lost
    made = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in output.rglob("part-*")}
    (output / "_SUCCESS").unlink()
    for part in output.rglob("part-a-*-000000*"):
        part.unlink()
    assert warm_jobs.run(command, before=deadly) == 1
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in output.rglob("part-*")} == made


def test_a_model_that_kills_its_workers_is_not_blamed_on_the_records(
    tiny_bundle: Bundle, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    """As where memory is too small to run the model: once there is more of it, the same command scores them."""
    source, output = tmp_path / "one.jsonl", tmp_path / "out"
    source.write_text(json_lines(["We found a level ."]), encoding="utf-8")
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(output)]
    killed = """
import os, signal
from pipelines.scoring import pipeline
pipeline.Predictor.results = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(command, before=killed) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode().splitlines()[-1]
    assert message.startswith(
        "sepline: a worker process ended with signal 9 when it put a plain sentence to the model; "
    )
    assert not (output / "_SUCCESS").exists()
    assert warm_jobs.run(command) == 0
    assert pq.read_table(output).num_rows == 1


def test_a_worker_that_can_not_be_told_what_to_do_ends_the_job(
    tiny_bundle: Bundle, tiny_corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    """It would wait for ever."""
    failing = """
import errno
from multiprocessing.connection import Connection

def fail(*arguments):
    raise OSError(errno.ENOBUFS, "No buffer space available")

Connection.send_bytes = fail
"""
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus)]
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run([*command, "--output", str(tmp_path / "out")], before=failing) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode().splitlines()
    assert message == ["sepline: No buffer space available; what is finished is kept, repeat the command to continue"]


def test_a_slow_file_holds_up_none_that_another_worker_can_take(
    tiny_bundle: Bundle, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        text = "A slow drug ." if number == 0 else "We measured the group ."
        (tmp_path / "in" / f"{number}.jsonl.gz").write_bytes(gzip.compress(json_lines([text]).encode(), mtime=0))
    output = tmp_path / "out"
    # The first file takes until the seven others are done but the one that its worker has read ahead.
    slow = f"""
import time
from pathlib import Path
from pipelines.scoring import pipeline

results = pipeline.Predictor.results

def wait(self, windows, *arguments):
    if any({tiny_bundle.vocabulary.pieces.index("drug")} in window.token_ids for window in windows):
        tries = 600
        while len(list(Path({str(output)!r}).glob("part-*"))) < 6:
            time.sleep(0.1)
            tries -= 1
            assert tries, "the other worker has stopped"
    return results(self, windows, *arguments)

pipeline.Predictor.results = wait
"""
    command = ["score", "--model", str(tiny_bundle.path), "--input", f"{tmp_path}/in/*", "--output", str(output)]
    assert warm_jobs.run([*command, "--workers", "2"], before=slow) == 0
    alone = [*command[:-1], str(tmp_path / "alone"), "--workers", "1"]
    assert warm_jobs.run(alone) == 0
    parts = {path.name: path.read_bytes() for path in output.glob("part-*")}
    assert parts == {path.name: path.read_bytes() for path in (tmp_path / "alone").glob("part-*")}
    assert len(parts) == 8


def other_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """Writes a bundle with the same model and another description."""

    def export(fresh: Path) -> None:
        shutil.copytree(bundle.path, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundle.json"))

    return write_bundle(
        folder,
        export,
        labels=bundle.labels,
        window=bundle.window,
        vocabulary=bundle.vocabulary,
        facts={"made": "later"},
    )


def test_a_job_whose_model_is_replaced_fails_and_names_both(
    tiny_bundle: Bundle, tiny_corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    bundle, output = tmp_path / "bundle", tmp_path / "out"
    shutil.copytree(tiny_bundle.path, bundle)
    other = other_bundle(tiny_bundle, tmp_path / "other")
    said = warm_jobs.errors.stat().st_size
    command = ["score", "--model", str(bundle), "--input", str(tiny_corpus), "--output", str(output)]
    job = warm_jobs.start(command, before=stop_before("_job.json"))
    job.wait_until_stopped()
    bundle.rename(tmp_path / "old")
    (tmp_path / "other").rename(bundle)
    job.send(signal.SIGCONT)
    assert job.wait() == 1
    message = warm_jobs.errors.read_bytes()[said:].decode().splitlines()[-1]
    assert message.startswith(
        f"sepline: {bundle}: a worker found the bundle {other.fingerprint[:12]} there, but the job"
    )
    assert tiny_bundle.fingerprint[:12] in message
    assert not list(output.glob("part-*"))


def test_a_model_that_is_damaged_or_gone_where_it_is_loaded_is_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    with open(tmp_path / "bundle" / "vocab.txt", "a", encoding="utf-8") as vocabulary:
        vocabulary.write("more\n")
    with pytest.raises(JobFailure, match=r"can't be used where a worker runs: .*vocab\.txt changed since the export"):
        Predictor.load(bundle)
    shutil.rmtree(tmp_path / "bundle")
    with pytest.raises(JobFailure, match=r"can't be used where a worker runs: .*not a bundle"):
        Predictor.load(bundle)


def test_a_long_error_of_a_worker_ends_the_job(
    tiny_bundle: Bundle, tiny_corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    raising = """
from model.errors import JobFailure
from pipelines.scoring import pipeline

def fail(*arguments, **named):
    raise JobFailure("long" * 100_000)

pipeline.split_document = fail
"""
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus)]
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run([*command, "--output", str(tmp_path / "out")], before=raising) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode().splitlines()[-1]
    assert message.startswith("sepline: longlong") and message.endswith("repeat the command to continue")
