"""What the commands do on disks whose reads fail, and with names that are no files."""

from __future__ import annotations

import bz2
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import tiny_documents
from support.requirements import skip_unless_required
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.bundle import Bundle, load_bundle
from pipelines.cli import main

Command = Callable[[str, str, Path], list[str]]


@pytest.fixture
def command(tiny_bundle: Bundle, tiny_command: list[str], tiny_corpus: Path) -> Command:
    """Returns the command that scores or preprocesses an input into a folder."""

    def made(verb: str, source: str, output: Path) -> list[str]:
        score = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output"]
        words = [*(score if verb == "score" else tiny_command), str(output)]
        words[words.index(str(tiny_corpus))] = source
        return words

    return made


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        skip_unless_required("strace", "strace is not here")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "transform" not in file.parts and file.name not in ("files.json", "COMPLETED")
    }


def printed(jobs: WarmJobs, since: int) -> str:
    return jobs.errors.read_bytes()[since:].decode()


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("verb", ["score", "preprocess"])
def test_a_source_on_a_bad_disk_fails_and_is_read_by_the_next_call(
    command: Command, tmp_path: Path, verb: str, warm_jobs: WarmJobs
) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "out"
    documents = tiny_documents(1000)
    source.write_text("".join(json.dumps(one) + "\n" for one in documents), encoding="utf-8")
    words = command(verb, str(source), output)
    said = warm_jobs.errors.stat().st_size
    bad = ["-P", str(source), "-e", "inject=read,pread64:error=EIO:when=3+"]
    assert warm_jobs.run_traced(words, bad) == 1
    message = printed(warm_jobs, said)
    assert f"{source}: cannot be read: Input/output error" in message and "Traceback" not in message, message
    assert not (output / "_SUCCESS").exists() and not (output / "COMPLETED").exists()
    assert warm_jobs.run(words) == 0
    assert warm_jobs.run(command(verb, str(source), tmp_path / "fresh")) == 0
    assert tree(output) == tree(tmp_path / "fresh")


@pytest.mark.usefixtures("strace")
def test_checkpoints_on_a_bad_disk_are_kept(
    tiny_records: Path, tiny_encoder: Path, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    """The run can't go on while they can't be read, and goes on from them when they can."""
    settings, run = tmp_path / "settings.yaml", tmp_path / "run"
    training = "{epochs: 2, batch_tokens: 96, checkpoint_seconds: 0}"
    settings.write_text(f"encoder: {{handle: {tiny_encoder}}}\ntraining: {training}\n", encoding="utf-8")
    words = ["train", "--config", str(settings), "--data", str(tiny_records), "--output", str(run)]
    job = warm_jobs.start(words, before=stop_before(r"/checkpoints/\d+$", times=4))
    job.wait_until_stopped()
    job.kill()
    there = sorted((run / "checkpoints").glob("[0-9]*"))
    assert len(there) == 2
    said, told = warm_jobs.errors.stat().st_size, warm_jobs.output.stat().st_size
    weights = there[-1] / "variables.data-00000-of-00001"
    bad = ["-P", str(weights), "-e", "inject=read,pread64:error=EIO:when=1+"]
    assert warm_jobs.run_traced(words, bad) == 1
    message = printed(warm_jobs, said)
    assert f"{weights}: Input/output error; repeat the command" in message and "Traceback" not in message, message
    assert sorted((run / "checkpoints").glob("[0-9]*")) == there
    assert warm_jobs.run(words) == 0
    assert "is damaged" not in warm_jobs.output.read_bytes()[told:].decode()


@pytest.mark.usefixtures("strace")
def test_weights_that_the_disk_does_not_take_end_the_training(
    tiny_records: Path, tiny_encoder: Path, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    """No block of the best epoch's weights is lost without a word; the repeated command ends as if nothing was."""
    settings = tmp_path / "settings.yaml"
    training = "{epochs: 1, batch_tokens: 384, learning_rate: 0.01}"
    settings.write_text(f"encoder: {{handle: {tiny_encoder}}}\ntraining: {training}\n", encoding="utf-8")
    words = ["train", "--config", str(settings), "--data", str(tiny_records), "--output"]
    run, said = tmp_path / "run", warm_jobs.errors.stat().st_size
    bad = ["-P", str(run / ".best-1.npz.writing"), "-e", "inject=write,pwrite64:error=EIO:when=1"]
    assert warm_jobs.run_traced([*words, str(run)], bad) == 1
    message = printed(warm_jobs, said)
    assert f"{run}/best-1.npz" in message and "Input/output error" in message and "Traceback" not in message, message
    assert warm_jobs.run([*words, str(run)]) == 0
    assert warm_jobs.run([*words, str(tmp_path / "fresh")]) == 0
    weights = [folder / "bundle/variables/variables.data-00000-of-00001" for folder in (run, tmp_path / "fresh")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("strace")
def test_a_converted_model_that_the_disk_does_not_take_is_one_line(
    tiny_bundle: Bundle, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    words = ["optimize", str(tiny_bundle.path), "--output", str(tmp_path / "new")]
    said, file = warm_jobs.errors.stat().st_size, tmp_path / ".new.writing" / "openvino" / "model.bin"
    assert warm_jobs.run_traced(words, ["-P", str(file), "-e", "inject=write,writev:error=ENOSPC:when=1+"]) == 1
    message = printed(warm_jobs, said)
    assert "openvino/model.xml: cannot be written" in message and "Traceback" not in message, message
    assert not (tmp_path / "new").exists()
    assert warm_jobs.run(words) == 0
    assert load_bundle(tmp_path / "new").openvino is not None


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("verb", "make"),
    [("score", _pipe), ("score", _device), ("score", Path.mkdir), ("preprocess", _pipe)],
    ids=["score-pipe", "score-device", "score-folder", "preprocess-pipe"],
)
def test_what_is_no_file_is_a_reject_and_never_waited_for(
    command: Command, tiny_corpus: Path, tmp_path: Path, verb: str, make: Callable[[Path], Any]
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    shutil.copy(tiny_corpus, corpus / "a.jsonl")
    make(corpus / "b.jsonl")
    code = main(command(verb, f"{corpus}/*.jsonl", output))
    rejects = output / ("_rejects" if verb == "score" else "rejects")
    if make is Path.mkdir:  # a glob names files
        assert code == 0 and not rejects.exists()
        return
    table = pq.read_table(rejects)
    assert table["source"].to_pylist() == [str(corpus / "b.jsonl")]
    assert table["reason"].to_pylist() == ["unreadable_source"]
    assert "not a file" in table["message"][0].as_py() or "is a" in table["message"][0].as_py()


def _zstandard(content: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.compress(content)
    import pyarrow as pa

    return pa.compress(content, "zstd", asbytes=True)


def _bzip2(content: bytes) -> bytes:
    return bz2.compress(content, 1)  # in blocks of 100 kB


@pytest.mark.parametrize(("suffix", "compress"), [("bz2", _bzip2), ("zst", _zstandard)])
@pytest.mark.parametrize("verb", ["score", "preprocess"])
def test_compressed_files_that_break_off_cost_the_exit_code(
    command: Command,
    tmp_path: Path,
    verb: str,
    suffix: str,
    compress: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = tmp_path / f"a.jsonl.{suffix}", tmp_path / "out"
    content = "".join(json.dumps(one) + "\n" for one in tiny_documents(1000)).encode()
    source.write_bytes(compress(content)[:-100])
    assert main(command(verb, str(source), output)) == 1
    assert "1 of the sources broke off" in capsys.readouterr().err
    rejects = output / ("_rejects" if verb == "score" else "rejects")
    assert pq.read_table(rejects)["reason"].to_pylist() == ["broken_source"]
    source.write_bytes(compress(content))
    assert main([*command(verb, str(source), output), "--overwrite"]) == 0
    assert not rejects.exists()


@pytest.mark.parametrize("verb", ["score", "preprocess"])
def test_a_folder_whose_mark_is_damaged_can_be_overwritten(
    command: Command, tiny_corpus: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = command(verb, str(tiny_corpus), output)
    assert main(words) == 0
    mark = output / ("_job.json" if verb == "score" else "preprocess.json")
    whole = tree(output)
    mark.write_bytes(mark.read_bytes()[:50])
    assert main(words) in (1, 2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(mark) in said and "--overwrite" in said
    assert main([*words, "--overwrite"]) == 0
    assert tree(output) == whole


def test_a_split_whose_path_looks_like_a_glob_is_that_file(
    tiny_command: list[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    documents = tiny_corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("a[1].jsonl", documents[:40]), ("a1.jsonl", documents[40:])):
        (tmp_path / name).write_text("".join(part), encoding="utf-8")
    words = [*tiny_command, str(tmp_path / "out")]
    place = words.index("--input")
    words[place : place + 2] = ["--train", str(tmp_path / "a[1].jsonl"), "--dev", str(tmp_path / "a1.jsonl")]
    assert main(words) == 0
    stats = json.loads((tmp_path / "out" / "stats.json").read_text(encoding="utf-8"))
    assert (stats["counts"]["documents"]["train"], stats["counts"]["documents"]["dev"]) == (40, 20)
