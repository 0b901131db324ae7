"""Scoring that is killed, interrupted, starved of disk or repeated: the folder ends as a single run would leave it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FILLERS, PROJECT, see_mounts, tiny_documents
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.bundle import Bundle
from pipelines.cli import main

KILLS = 12
CHUNK = ("--chunk-records", "4")


def tree(folder: Path) -> dict[str, str]:
    """Returns the hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def parts(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("part-*.parquet")}


def texts(count: int, *, seed: int) -> list[tuple[str, str]]:
    """Returns ids and texts of one to five sentences; every ninth has no text."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        sentences = [" ".join(draw.choices(FILLERS, k=draw.randint(3, 9))) for _ in range(draw.randint(1, 5))]
        made.append((f"{seed}-{number}", "" if number % 9 == 4 else ". ".join(map(str.capitalize, sentences)) + "."))
    return made


def write_corpus(folder: Path) -> Path:
    """Writes a file of each kind: plain lines, a table with line ends in it, Parquet, compressed lines."""
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(d) + "\n" for d in tiny_documents(60)), encoding="utf-8")
    with open(folder / "b.csv", "w", encoding="utf-8", newline="") as stream:
        rows = [(doc_id, text.replace(". ", ".\n")) for doc_id, text in texts(45, seed=1)]
        csv.writer(stream).writerows([("doc_id", "text"), *rows])
    ids, bodies = zip(*texts(41, seed=2), strict=True)
    pq.write_table(pa.table({"doc_id": ids, "text": bodies}), folder / "c.parquet", row_group_size=15)
    lines = "".join(json.dumps({"doc_id": doc_id, "text": text}) + "\n" for doc_id, text in texts(50, seed=3))
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode() + b"{broken\n", mtime=0))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("resume") / "corpus")


def command(bundle: Bundle, inputs: Path, output: Path, *flags: str) -> list[str]:
    return ["score", "--model", str(bundle.path), "--input", f"{inputs}/*", "--output", str(output), *CHUNK, *flags]


@pytest.fixture(scope="module")
def whole(tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs) -> dict[str, str]:
    """The files of an uninterrupted run."""
    output = corpus.parent / "whole"
    assert warm_jobs.run(command(tiny_bundle, corpus, output)) == 0
    counts = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    assert counts["records"] == 60 + 45 + 41 + 51 == counts["scored"] + counts["rejected"]
    assert counts["rejects"] == {"no_text": 16, "broken_record": 1}
    assert pq.read_table(output / "_rejects").num_rows == counts["rejected"]
    assert len(parts(output)) == 15 + 12 + 11 + 13
    return tree(output)


def test_a_job_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, whole: dict[str, str], tmp_path: Path
) -> None:
    output, draw = tmp_path / "out", random.Random(5)
    arguments = command(tiny_bundle, corpus, output)
    killed = 0
    while killed < KILLS:
        before = parts(output)
        # Once right after the start, else after a few new parts: at any moment of reading, scoring and writing.
        wanted = len(before) + draw.randint(1, 3) if killed else 0
        # However late the kill is, the job is there: it stops when it would write one part more than it should.
        job = warm_jobs.start(arguments, before=stop_before(f"{output}/part-", times=wanted - len(before) + 2))
        job.wait_until(lambda wanted=wanted: output.exists() and len(parts(output)) >= wanted)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.03))
        assert job.kill() == -signal.SIGKILL
        killed += 1
        assert not (output / "_SUCCESS").exists()
        assert before <= parts(output)
        for part in parts(output):  # none is half there
            assert hashlib.sha256((output / part).read_bytes()).hexdigest() == whole[part]
    assert 0 < len(parts(output)) < len(parts(corpus.parent / "whole"))
    assert warm_jobs.run(arguments) == 0
    assert tree(output) == whole


def test_several_processes_give_the_same_bytes_and_die_with_the_one_that_started_them(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, whole: dict[str, str], tmp_path: Path
) -> None:
    arguments = command(tiny_bundle, corpus, tmp_path / "killed", "--workers", "2")
    job = warm_jobs.start(arguments, before=stop_before("_manifest.json"))  # there to be killed, however late
    job.wait_until(lambda: len(parts(tmp_path / "killed")) > 1)
    family = job.family()
    assert len(family) == 3  # the process that forks the workers, and two of them
    assert job.kill() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left = tree(tmp_path / "killed")
    time.sleep(1)
    assert tree(tmp_path / "killed") == left
    assert warm_jobs.run(arguments) == 0
    assert tree(tmp_path / "killed") == whole


def test_a_worker_that_dies_is_replaced(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, whole: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    job = warm_jobs.start(command(tiny_bundle, corpus, output), before=stop_before(f"{output}/part-", times=3))
    job.wait_until_stopped()
    (worker,) = job.workers()
    os.kill(worker, signal.SIGKILL)
    job.wait_until(lambda: job.workers() not in ([worker], []))
    job.wait_until_stopped()  # the next one is at its third part
    assert len(parts(output)) == 4
    (worker,) = job.workers()
    os.kill(worker, signal.SIGTERM)  # only the process that the user has started ends by that
    job.send(signal.SIGCONT)
    assert job.wait() == 0
    assert tree(output) == whole


def test_workers_that_die_by_no_record_end_the_job_in_one_line(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    said = warm_jobs.errors.stat().st_size
    output = tmp_path / "out"
    job = warm_jobs.start(command(tiny_bundle, corpus, output, "--workers", "2"), before=stop_before(f"{output}/part-"))
    job.wait_until(lambda: len(job.stopped()) == 2)
    first, other = job.stopped()
    os.kill(first, signal.SIGKILL)
    job.wait_until(lambda: len(job.stopped()) == 2 and first not in job.stopped())
    assert other in job.stopped()
    (second,) = set(job.stopped()) - {other}
    os.kill(second, signal.SIGKILL)
    assert job.wait() == 1
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert message.count("\n") == 1
    assert re.match("sepline: 2 worker processes ended with signal 9 in the records [0-9]+ to [0-9]+ of ", message)
    assert "none of these records alone ends one; if memory ran out, take fewer --workers" in message
    assert message.endswith("; what is finished is kept; repeat the command to continue\n")
    assert not Path(f"/proc/{other}").exists()
    assert not (output / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("sent", "code", "what"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_a_preempting_machine_are_told_how_far_it_is_and_how_to_go_on(
    sent: signal.Signals,
    code: int,
    what: str,
    tiny_bundle: Bundle,
    corpus: Path,
    warm_jobs: WarmJobs,
    whole: dict[str, str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    said = warm_jobs.errors.stat().st_size
    job = warm_jobs.start(command(tiny_bundle, corpus, output), before=stop_before(f"{output}/part-", times=4))
    job.wait_until_stopped()
    workers = job.workers()
    job.send(sent)
    assert job.wait() == code
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert message.count("\n") == 1, message
    done = sum(
        json.loads(pq.read_schema(part).metadata[b"sepline.counts"])["records"] for part in output.glob("part-*")
    )
    # The total may not be known yet.
    wanted = rf"sepline: {what}; {done}( of about 1\d\d)? records are done\. Repeat the command to continue\n"
    assert re.fullmatch(wanted, message)
    assert warm_jobs.run(command(tiny_bundle, corpus, output)) == 0
    assert tree(output) == whole


def test_a_second_job_in_the_same_folder_is_refused_while_the_first_runs(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, whole: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = corpus.parent / "twice"
    job = warm_jobs.start(command(tiny_bundle, corpus, output), before=stop_before(f"{output}/part-", times=2))
    job.wait_until_stopped()
    assert main(command(tiny_bundle, corpus, output)) == 2
    assert "another sepline is writing there" in capsys.readouterr().err
    job.send(signal.SIGCONT)
    assert job.wait() == 0
    assert tree(output) == whole


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, whole: dict[str, str], small_disk: tuple[Path, int]
) -> None:
    disk, holder = small_disk
    seen = Path(f"/proc/{holder}/root{disk}")
    see = see_mounts(holder)
    (seen / "ballast").write_bytes(bytes(1_700_000))
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(command(tiny_bundle, corpus, disk / "out"), before=see) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert message.count("\n") == 1, message
    assert "cannot be written: No space left on device" in message and "repeat the command to continue" in message
    assert 0 < len(parts(seen / "out")) < len(parts(corpus.parent / "whole"))
    assert not list((seen / "out").rglob(".*")) and not (seen / "out" / "_SUCCESS").exists()
    for name, digest in tree(seen / "out").items():
        assert whole[name] == digest
    (seen / "ballast").unlink()
    assert warm_jobs.run(command(tiny_bundle, corpus, disk / "out"), before=see) == 0
    assert tree(seen / "out") == whole


def copy_of(corpus: Path, folder: Path) -> Path:
    shutil.copytree(corpus, folder)
    (folder / "c.parquet").unlink()
    (folder / "d.jsonl.gz").unlink()
    return folder


def test_new_files_are_added_and_the_others_are_left_alone(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    inputs, output = copy_of(corpus, tmp_path / "inputs"), tmp_path / "out"
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0
    before = {part: (output / part).stat().st_mtime_ns for part in parts(output)}
    (inputs / "e.jsonl").write_text('{"doc_id": "e", "text": "We used it."}\n', encoding="utf-8")
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0
    assert {part: (output / part).stat().st_mtime_ns for part in before} == before
    assert len(parts(output)) == len(before) + 1
    assert warm_jobs.run(command(tiny_bundle, inputs, tmp_path / "fresh")) == 0
    assert tree(output) == tree(tmp_path / "fresh")


def test_files_that_change_or_are_gone_are_redone_and_removed_on_request_only(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    inputs, output = copy_of(corpus, tmp_path / "inputs"), tmp_path / "out"
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0
    finished = tree(output)
    with open(inputs / "b.csv", "a", encoding="utf-8") as stream:
        stream.write("more,We measured it.\n")
    (inputs / "a.jsonl").rename(inputs / "z.jsonl")
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 2
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert message.count("\n") == 1
    assert f"1 is changed ({inputs / 'b.csv'}) and 1 is not named now ({inputs / 'a.jsonl'})" in message
    assert "--resume" in message and "--overwrite" in message
    assert tree(output) == finished
    assert warm_jobs.run(command(tiny_bundle, inputs, output, "--resume")) == 0
    assert warm_jobs.run(command(tiny_bundle, inputs, tmp_path / "fresh")) == 0
    assert tree(output) == tree(tmp_path / "fresh")


def test_parts_of_other_versions_are_mixed_on_request_only(
    tiny_bundle: Bundle, corpus: Path, warm_jobs: WarmJobs, tmp_path: Path
) -> None:
    inputs, output = copy_of(corpus, tmp_path / "inputs"), tmp_path / "out"
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0
    job = json.loads((output / "_job.json").read_text(encoding="utf-8"))
    job["versions"]["tensorflow"] = "2.20.0"
    (output / "_job.json").write_text(json.dumps(job), encoding="utf-8")
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0  # it is finished, so that nothing gets mixed
    min(output.glob("part-*")).unlink()
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 2
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert 'tensorflow "2.20.0"' in message and "--resume" in message
    assert warm_jobs.run(command(tiny_bundle, inputs, output, "--resume")) == 0
    manifest = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))
    assert [versions["tensorflow"] for versions in manifest["earlier_versions"]] == ["2.20.0"]
    assert warm_jobs.run(command(tiny_bundle, inputs, output)) == 0


def test_the_warm_jobs_are_the_command_line(
    tiny_bundle: Bundle, corpus: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    """A process started the usual way gives the same bytes.

    It shows that the terminal stays quiet, too: what TensorFlow prints on import comes from C++.
    """
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *command(tiny_bundle, corpus, tmp_path / "out")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    counts = "197 records = 180 scored + 17 rejected (broken_record 1, no_text 16); 569 sentences in 198 windows"
    predictor, told = result.stdout.splitlines()[:2]
    assert predictor.startswith("predictor: openvino ")
    assert told == f"{counts}, 3 truncated"
    assert tree(tmp_path / "out") == whole
