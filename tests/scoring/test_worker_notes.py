"""Sources that can't be read, that break off, or that change while the job runs; what lost workers had in hand."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.bundle import Bundle
from pipelines.cli import main
from pipelines.corpora.chunks import NOTHING, cut_source, finished_chunks, prefix_of
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.scoring.pipeline import ReadAndTokenize
from pipelines.scoring.scored_folder import finished_parts
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.scoring.worker_notes import describe_work, read_notes, read_or_note


def lines(count: int, *, first: int = 0) -> str:
    return "".join(f'{{"doc_id": "{i}", "text": "We used drug {i}."}}\n' for i in range(first, first + count))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_one_that_cannot_be_read_is_read_again_by_the_next_call_and_the_others_are_finished(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text(lines(5), encoding="utf-8")
    (corpus / "b.jsonl").symlink_to("elsewhere")
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(corpus / "a.jsonl"), str(corpus / "b.jsonl")]
    for _ in range(2):
        assert main([*command, "--output", str(output)]) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            f"sepline: {corpus}/b.jsonl: cannot be read: No such file or directory; 1 of 2 sources failed, what is "
            "finished is kept; repeat the command to read them again"
        )
        assert pq.read_table(output)["doc_id"].to_pylist() == list("01234")
        assert not (output / "_SUCCESS").exists() and not (output / "_rejects").exists()
    (corpus / "elsewhere").write_text(lines(3, first=5), encoding="utf-8")
    assert main([*command, "--output", str(output)]) == 0
    assert main([*command, "--output", str(tmp_path / "fresh")]) == 0
    assert tree(output) == tree(tmp_path / "fresh")

    # Once finished, nothing is taken back, but the command says that it could not look.
    (corpus / "elsewhere").rename(corpus / "gone")
    assert main([*command, "--output", str(output)]) == 1
    assert tree(output) == tree(tmp_path / "fresh")


@pytest.mark.parametrize("verb", ["score", "preprocess"])
def test_content_that_breaks_off_is_a_reject_and_costs_the_exit_code_each_time(
    tiny_bundle: Bundle,
    tiny_command: list[str],
    tiny_corpus: Path,
    tmp_path: Path,
    verb: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = gzip.compress(tiny_corpus.read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-200])
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output"]
    command = [*(command if verb == "score" else tiny_command), str(tmp_path / "out")]
    command[command.index(str(tiny_corpus))] = str(tmp_path / "a.jsonl.gz")
    rejects = tmp_path / "out" / ("_rejects" if verb == "score" else "rejects")
    for _ in range(2):
        assert main(command) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"sepline: 1 of the sources broke off, and what came after that is lost; {rejects} says where"
        assert pq.read_table(rejects)["reason"].to_pylist() == ["broken_source"]
    assert main([*command, "--allow-broken-sources"]) == 0
    assert "1 of the sources broke off" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["score", "preprocess"])
def test_one_that_changes_while_the_job_runs_fails_and_leaves_no_rows(
    tiny_bundle: Bundle, tiny_command: list[str], tiny_corpus: Path, tmp_path: Path, verb: str, warm_jobs: WarmJobs
) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_bytes(tiny_corpus.read_bytes())
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output"]
    command = [*(command if verb == "score" else tiny_command), str(output)]
    command[command.index(str(tiny_corpus))] = str(source)
    job = warm_jobs.start(command, before=stop_before(r"/(_job|preprocess)\.json$"))
    job.wait_until_stopped()  # the fingerprint is taken
    documents = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    source.write_text("".join(json.dumps({**one, "doc_id": "other"}) + "\n" for one in documents), encoding="utf-8")
    said = warm_jobs.errors.stat().st_size
    job.send(signal.SIGCONT)
    assert job.wait() == 1
    printed = warm_jobs.errors.read_bytes()[said:].decode()
    assert f"{source}: has changed since this command began" in printed
    assert "Traceback" not in printed
    assert not list(output.rglob("part-*")) and not list(output.glob("[_C][SO]*"))


def test_names_that_are_not_utf8_are_scored(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    source.write_text(lines(2) + "{broken\n", encoding="utf-8")
    output = tmp_path / "out"
    command = ["score", "--model", str(tiny_bundle.path), "--input", f"{tmp_path}/*.jsonl", "--output", str(output)]
    assert main(command) == 0
    assert pq.read_table(output)["source"].to_pylist() == [f"{tmp_path}/caf\\xe9.jsonl"] * 2
    assert pq.read_table(output / "_rejects")["source"].to_pylist() == [f"{tmp_path}/caf\\xe9.jsonl"]
    assert main(command) == 0  # it is the same source


def test_a_worker_that_is_lost_has_left_a_note_about_its_chunk(
    tiny_bundle: Bundle, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    """Beam's runner in the process stands for a cluster: its worker has nobody whom it could tell.

    This runner predicts all chunks before it writes the first.
    """
    output = tmp_path / "out"
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(lines(25))
    command = ["score", "--model", str(tiny_bundle.path), "--chunk-records", "10", "--input", str(tmp_path / "*.gz")]
    flags = ["--", "--runner=BundleBasedDirectRunner"]

    def described() -> str:
        parts = finished_parts(str(output))
        paths = {prefix_of(part) or "": str(tmp_path / "b.jsonl.gz") for part in parts}
        return describe_work(str(output), paths, finished_chunks(parts), size=10)

    job = warm_jobs.start([*command, "--output", str(output), *flags], before=stop_before(r"-000001\.parquet$"))
    job.wait_until_stopped()
    assert described() == f"the workers had in hand: {tmp_path}/b.jsonl.gz, records 20 to 24 (predicting)"
    job.kill()
    first = next(output.glob("part-*-000000*"))
    first.with_name(first.name.replace("-000000", "-000002")).touch()  # as if it had read on
    assert described() == f"the workers had in hand: {tmp_path}/b.jsonl.gz, after record 24 (reading)"
    assert warm_jobs.run([*command, "--output", str(output), *flags]) == 0
    assert described() == "" and not (output / "_working").exists()
    assert warm_jobs.run([*command, "--output", str(tmp_path / "fresh")]) == 0
    assert tree(output) == tree(tmp_path / "fresh")


def test_the_other_units_of_a_failed_source_are_not_tried(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.write_text(lines(20), encoding="utf-8")
    sources = fingerprint_sources([str(path) for path in paths])
    units = [
        unit
        for source in sources
        for unit in cut_source(
            source.path, f"part-{Path(source.path).stem}-0", ReadOptions(), size=5, finished=NOTHING, state=source.state
        )
    ]
    assert len(units) == 8
    paths[0].rename(tmp_path / "gone")
    failed: set[str] = set()
    read = [list(read_or_note(unit, str(tmp_path), ReadOptions(), size=5, failed=failed)) for unit in units[:1]]
    (tmp_path / "gone").rename(paths[0])  # it could be read now, but the others are not tried
    read += [list(read_or_note(unit, str(tmp_path), ReadOptions(), size=5, failed=failed)) for unit in units[1:]]
    assert [len(chunks) for chunks in read] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert read_notes(str(tmp_path)) == {str(paths[0]): f"{paths[0]}: cannot be read: No such file or directory"}


def test_a_failed_source_waits_once_in_a_worker(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Each of its units would be tried for seconds, and leave its note again."""
    (tmp_path / "a.jsonl").write_text(lines(20), encoding="utf-8")
    (source,) = fingerprint_sources([f"{tmp_path}/a.jsonl"])
    units = cut_source(source.path, "part-a-0", ReadOptions(), size=5, finished=NOTHING, state=source.state)
    context = ScoringContext(tiny_bundle, str(tmp_path), ScoreSettings(chunk_records=5), ReadOptions())
    os.utime(source.path, ns=(0, 0))
    reader = pickle.loads(pickle.dumps(ReadAndTokenize(context)))
    reader.setup()
    assert list(reader.process(units[0])) == []
    (note,) = (tmp_path / "_failed").iterdir()
    note.unlink()
    assert [chunk for unit in units[1:] for chunk in reader.process(unit)] == []
    assert not note.exists()
