"""`sepline verify`: whatever happens to a file of a folder is found; and what a repeated job makes of it."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.bundles.bundle import Bundle
from model.bundles.registry import Registry
from model.bundles.training_data import open_training_data
from pipelines.cli import main
from pipelines.inspection.verify import verify

FIXTURE = Path(__file__).parent / "fixtures" / "format_before_3.tar.xz"


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in files_of(folder)}


def score_command(bundle: Bundle, source: Path, output: Path) -> list[str]:
    flags = ["--chunk-records", "10", "--output", str(output)]
    return ["score", "--model", str(bundle.path), "--input", str(source), *flags]


@pytest.fixture(scope="module")
def source(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("source") / "a.jsonl"
    file.write_text(tiny_corpus.read_text(encoding="utf-8")[:8000] + "\n{broken\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def scored(tiny_bundle: Bundle, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scored") / "out"
    assert main(score_command(tiny_bundle, source, output)) == 0
    return output


@pytest.fixture(scope="module")
def registry(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Registry(tmp_path_factory.mktemp("registry") / "tiny")
    made.promote(made.add(tiny_bundle, why="test"), why="test")
    return made.folder


@pytest.fixture(params=["scored", "records", "bundle", "registry"])
def folder(
    request: pytest.FixtureRequest,
    scored: Path,
    tiny_records: Path,
    tiny_bundle: Bundle,
    registry: Path,
    tmp_path: Path,
) -> Path:
    """A copy of a folder of each kind."""
    there = {"scored": scored, "records": tiny_records, "bundle": tiny_bundle.path, "registry": registry}
    copy = tmp_path / "copy"
    shutil.copytree(there[request.param], copy)
    for file in files_of(copy):
        file.chmod(0o644)
    return copy


def without_checksum(folder: Path, file: Path) -> bool:
    """Whether a file of a registry has no checksum: the log, the records of a version, the lock, the pointer."""
    return folder.joinpath("versions").is_dir() and file.parent == folder


def test_the_champion_is_compared_with_the_log(registry: Path, tmp_path: Path) -> None:
    shutil.copytree(registry, tmp_path / "copy")
    pointer = tmp_path / "copy" / "champion.json"
    written = pointer.read_text(encoding="utf-8")
    for damage in (written.replace("1", "2", 1), written.replace(" ", "\t", 1), written[:-4], ""):
        pointer.write_text(damage, encoding="utf-8")
        assert [problem for problem in verify(str(tmp_path / "copy")).problems if "champion.json" in problem], damage
    shutil.rmtree(tmp_path / "copy" / "versions" / "000001")
    assert "version 1 is missing" in verify(str(tmp_path / "copy")).problems


def test_what_is_as_it_was_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    assert ": as it was written" in capsys.readouterr().out
    found = verify(str(folder))
    assert found.problems == () and found.files > 5


def test_one_changed_byte_anywhere_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    for file in files_of(folder):
        if without_checksum(folder, file) or file.stat().st_size == 0:
            continue
        content = file.read_bytes()
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        assert main(["verify", "--json", str(folder)]) == 1, file
        (found,) = json.loads(capsys.readouterr().out)
        assert found["problems"], file
        file.write_bytes(content)
    assert verify(str(folder)).problems == ()


def test_files_that_are_missing_or_surplus_are_named(folder: Path) -> None:
    for file in files_of(folder):
        if without_checksum(folder, file):
            continue
        file.rename(folder.parent / "away")
        assert verify(str(folder)).problems, file
        (folder.parent / "away").rename(file)
    bundle = folder / "versions" / "000001"
    more = (bundle if bundle.exists() else folder) / "part-more.parquet"
    more.write_bytes(b"more")
    (problem,) = verify(str(folder)).problems
    assert "part-more.parquet" in problem


def test_what_is_no_folder_of_sepline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").touch()
    assert main(["verify", str(tmp_path)]) == 2
    assert "is no scored folder, no records" in capsys.readouterr().err


def _truncate_all(folder: Path) -> None:
    shutil.rmtree(folder / "_rejects")
    for part in folder.glob("part-*"):
        part.write_bytes(b"")


def _lose_rejects(folder: Path) -> None:
    shutil.rmtree(folder / "_rejects")


def _lose_the_list(folder: Path) -> None:
    (folder / "_parts.parquet").unlink()


def _write_late(folder: Path) -> None:
    """As a writer of an earlier job does, which a cluster had lost sight of."""
    (part, *_) = folder.glob("part-*")
    shutil.copy(part, folder / f"part-a-{'f' * 16}-000000-last.parquet")


def _break_off(folder: Path) -> None:
    """As a crash of the machine leaves it on a disk that lies about what it has written."""
    for name in ("_SUCCESS", "_manifest.json", "_parts.parquet"):
        (folder / name).unlink()
    first, second, *_ = sorted(folder.glob("part-*"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_truncate_all, _lose_rejects, _lose_the_list, _write_late, _break_off])
def test_a_repeated_job_makes_a_damaged_folder_whole(
    tiny_bundle: Bundle, source: Path, scored: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(scored, tmp_path / "out")
    damage(tmp_path / "out")
    assert tree(tmp_path / "out") != tree(scored)
    assert main(score_command(tiny_bundle, source, tmp_path / "out")) == 0
    assert tree(tmp_path / "out") == tree(scored)


def test_readers_can_take_the_list_of_parts_from_the_folder(scored: Path) -> None:
    manifest = json.loads((scored / "_manifest.json").read_text(encoding="utf-8"))
    parts = pq.read_table(scored / manifest["parts"]["list"]).to_pylist()
    assert [part["name"] for part in parts] == sorted(
        str(file.relative_to(scored)) for file in scored.rglob("part-*.parquet")
    )
    predictions = [scored / part["name"] for part in parts if "/" not in part["name"]]
    assert sum(part["rows"] for part in parts if "/" not in part["name"]) == manifest["counts"]["sentences"]
    assert pq.read_table(predictions).num_rows == manifest["counts"]["sentences"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that sepline wrote before format 3."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_folders_of_the_format_before_are_used_and_verified(
    before: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(before)
    assert main(["verify", "records", "bundle", "scored", "unfinished"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", ")[0] for line in lines if not line.startswith("  ")] == [
        "records: records",
        "bundle: bundle",
        "scored: scored folder",
        "unfinished: scored folder",
    ]
    assert sum("has no checksums" in line for line in lines) == 2
    assert "  _SUCCESS is missing: the job has not ended, or its mark was lost" in lines
    assert open_training_data("records").labels == ("background", "methods", "results", "conclusions")
    assert main(["evaluate", "--model", "bundle", "--data", "records", "--json"]) == 0
    was = pq.read_table("scored")
    command = ["score", "--model", "bundle", "--input", "corpus/a.jsonl", "corpus/b.jsonl", "--chunk-records", "5"]
    assert main([*command, "--output", "again"]) == 0
    now = pq.read_table("again")
    assert now.drop_columns(["probability", "probabilities"]).equals(was.drop_columns(["probability", "probabilities"]))
    for name in ("scored", "unfinished"):
        capsys.readouterr()
        assert main([*command, "--output", name]) == 2
        assert capsys.readouterr().err == (
            f"sepline: {name}: has format 1, and this sepline writes format 3; its parts can be read as they are; name "
            "another --output, or --overwrite it\n"
        )
    victim = next(iter(sorted(Path("scored").glob("part-*"))))
    victim.write_bytes(victim.read_bytes()[:100])
    assert main(["verify", "scored"]) == 1


def test_an_earlier_sepline_refuses_what_this_one_writes(scored: Path, tiny_records: Path) -> None:
    """It compared the numbers for equality: 1 in the job of a scored folder, 2 in the statistics of records."""
    assert json.loads((scored / "_job.json").read_text(encoding="utf-8"))["format"] == 3
    assert json.loads((tiny_records / "stats.json").read_text(encoding="utf-8"))["format"] == 3
