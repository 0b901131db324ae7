"""The registry: numbered versions, an atomic pointer, a log, and changes that are cut short at any point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.registry import Registry, open_model
from model.config import WindowSettings
from model.errors import UserError
from model.text.vocabulary import Vocabulary
from pipelines.cli import main


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    """Five bundles that differ in one file; nothing here runs their models."""
    from model.bundles.bundle import write_bundle

    vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]"), lower_case=True)

    def make(number: int) -> Bundle:
        def export(folder: Path) -> None:
            (folder / "variables").mkdir()
            (folder / "variables" / "variables.index").write_bytes(b"index")
            (folder / "saved_model.pb").write_bytes(bytes([number]) * 1000)

        return write_bundle(
            tmp_path / "trained" / str(number),
            export,
            labels=("a", "b"),
            window=WindowSettings(),
            vocabulary=vocabulary,
            facts={"number": number},
        )

    return [make(number) for number in range(5)]


def damage(file: Path, size: str) -> None:
    """Removes a file, or makes it empty, or half as long."""
    content = file.read_bytes()
    file.unlink()
    if size != "gone":
        file.write_bytes(content[: len(content) // 2] if size == "half" else b"")


def registry_of(folder: Path, bundles: list[Bundle]) -> Registry:
    registry = Registry(folder / "registry" / "medline")
    for bundle in bundles:
        registry.promote(registry.add(bundle, why="test"), why="test")
    return registry


def test_versions_are_numbered_and_the_champion_is_what_readers_get(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry" / "medline")
    assert (registry.versions(), registry.champion()) == ([], None)
    assert registry.add(bundles[0], why="first", who="ann") == 1
    with pytest.raises(UserError, match="has no champion yet; promote"):
        open_model(registry.folder)
    registry.promote(1, why="first", who="ann")
    reader = open_model(registry.folder)
    assert reader.path == tmp_path / "registry" / "medline" / "versions" / "000001"
    assert reader.fingerprint == bundles[0].fingerprint

    assert registry.add(bundles[1], why="second", who="bob") == 2
    assert open_model(registry.folder).fingerprint == bundles[0].fingerprint
    registry.promote(2, why="second", who="bob")
    assert open_model(registry.folder).fingerprint == bundles[1].fingerprint
    assert load_bundle(reader.path) == reader  # who resolved a version keeps it
    assert [(change.change, change.version, change.who, change.why) for change in registry.changes()] == [
        ("add", 1, "ann", "first"),
        ("promote", 1, "ann", "first"),
        ("add", 2, "bob", "second"),
        ("promote", 2, "bob", "second"),
    ]
    assert all(change.when.endswith("+00:00") for change in registry.changes())


def test_a_version_is_added_once_and_never_changes(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:2])
    record = tmp_path / "note.json"
    record.write_text("{}")
    assert registry.add(bundles[0], why="again", records=[record]) == 1
    assert registry.versions() == [1, 2]
    for file in registry.version_path(1).rglob("*"):
        if file.is_file():
            assert not file.stat().st_mode & 0o222, file
    # TensorFlow Serving loads the folders of `versions` whose names are numbers, and nothing else lies there.
    assert sorted(path.name for path in (registry.folder / "versions").iterdir()) == ["000001", "000002"]
    assert (registry.version_path(1) / "saved_model.pb").is_file()


def test_records_are_kept_beside_a_version(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    (tmp_path / "note.json").write_text('{"a": 1}')
    version = registry.add(bundles[0], why="test", records=[tmp_path / "note.json"])
    assert json.loads((registry.record_path(version) / "note.json").read_text()) == {"a": 1}


def test_rollback_goes_back_step_by_step(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:3])
    assert registry.rollback(why="bad") == 2
    assert registry.rollback(why="bad too") == 1
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback(why="still bad")
    registry.promote(3, why="it was fine")
    assert registry.champion() == 3
    assert registry.rollback(why="it was not") == 1
    assert open_model(registry.folder).fingerprint == bundles[0].fingerprint


def test_publishing_wants_the_champion_that_was_compared(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:2])
    assert registry.add(bundles[2], why="run") == 3
    with pytest.raises(UserError, match="the champion was version 1 and is now version 2; run again"):
        registry.publish(3, champion=1, why="run")
    registry.publish(3, champion=2, why="run")
    assert registry.champion() == 3
    registry.rollback(why="bad")
    registry.publish(3, champion=2, why="run, repeated after a crash")  # the rollback since then stands
    assert registry.champion() == 2


def test_prune_spares_what_is_needed(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles)
    registry.promote(3, why="better after all")
    registry.pin(1, "run")
    assert registry.prune(keep=9, why="space") == registry.prune(keep=4, why="space") == []
    assert registry.prune(keep=1, why="space", dry_run=True) == [2, 4]
    assert registry.versions() == [1, 2, 3, 4, 5]
    # 5 is the newest and what a rollback brings back, 3 the champion, 1 is pinned.
    assert registry.prune(keep=1, why="space") == [2, 4]
    assert registry.versions() == [1, 3, 5]
    registry.unpin("run")
    assert registry.prune(keep=1, why="space") == [1]
    assert [registry.rollback(why="bad") for _ in range(2)] == [5, 3]
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback(why="none of its predecessors is left")
    assert [change.version for change in registry.changes() if change.change == "prune"] == [2, 4, 1]
    shutil.rmtree(registry.version_path(5))
    assert registry.add(bundles[4], why="numbers are not used again") == 6


def test_a_change_that_was_cut_short_is_completed(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:3])
    log = registry.folder / "changes.jsonl"
    # Killed between the log and the pointer, with a line begun after it and a version half copied.
    (registry.folder / "champion.json").write_text('{"version": 2}')
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"change": "promo')
    (registry.folder / "versions" / ".000004.writing").mkdir()
    assert open_model(registry.folder).fingerprint == bundles[1].fingerprint  # readers have the old one until then
    assert registry.add(bundles[3], why="next") == 4
    assert registry.champion() == 3
    assert [change.change for change in registry.changes()] == ["add", "promote"] * 3 + ["add"]
    assert json.loads(log.read_text().splitlines()[-1])["why"] == "next"
    (registry.folder / "champion.json").write_text("not JSON")
    assert open_model(registry.folder).fingerprint == bundles[2].fingerprint  # the log tells


@pytest.mark.parametrize("size", ["gone", "empty", "half"])
@pytest.mark.parametrize("name", ["champion.json", "changes.jsonl", "pins/run.json", "versions/000001/bundle.json"])
def test_a_damaged_file_of_a_registry(bundles: list[Bundle], tmp_path: Path, name: str, size: str) -> None:
    """The champion is still the champion, also after the next change."""
    registry = registry_of(tmp_path, bundles[:3])
    registry.rollback(why="test")
    registry.pin(1, "run")
    damage(registry.folder / name, size)
    assert registry.champion() == 2
    assert open_model(registry.folder).fingerprint == bundles[1].fingerprint
    assert registry.add(bundles[3], why="next") == 4
    assert registry.champion() == 2
    if name.startswith("pins") and size != "gone":
        with pytest.raises(UserError, match=r"run\.json: is damaged .*; remove it if no retraining"):
            registry.prune(keep=1, why="test")
        (registry.folder / name).unlink()
    registry.unpin("run")
    registry.prune(keep=1, why="test")
    assert {2, 4} <= set(registry.versions())
    assert registry.champion() == 2


def test_a_damaged_line_of_the_log_is_named(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:2])
    log = registry.folder / "changes.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(UserError, match=r"changes\.jsonl: line 2 is damaged; restore the file, or remove that line"):
        registry.promote(1, why="test")
    assert registry.champion() == 2


CHANGE_FOREVER = """
import itertools, sys
from model.bundles.bundle import load_bundle
from model.bundles.registry import Registry, open_model
registry, bundles = Registry(sys.argv[1]), [load_bundle(path) for path in sys.argv[2:]]
for number in itertools.count():
    version = registry.add(bundles[number % len(bundles)], why=str(number))
    registry.promote(version, why=str(number))
    if number % 3 == 2:
        registry.prune(keep=1, why=str(number))
    print(number, flush=True)
"""


def test_a_reader_always_finds_a_whole_champion_while_writers_are_killed(bundles: list[Bundle], tmp_path: Path) -> None:
    registry = registry_of(tmp_path, bundles[:1])
    fingerprints = {bundle.fingerprint for bundle in bundles}
    command = [sys.executable, "-c", CHANGE_FOREVER, str(registry.folder), *(str(one.path) for one in bundles)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    read = 0
    for kill in range(12):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            deadline = time.monotonic() + 0.05 + 0.013 * kill
            while time.monotonic() < deadline or read < 2 * (kill + 1):
                assert open_model(registry.folder).fingerprint in fingerprints
                read += 1
            writer.send_signal(signal.SIGKILL)
        assert open_model(registry.folder).fingerprint in fingerprints
    registry.prune(keep=1, why="whatever was cut short is completed")
    promoted = [change.version for change in registry.changes() if change.change == "promote"]
    assert registry.champion() == promoted[-1]
    assert not list((registry.folder / "versions").glob(".*.going"))
    assert read >= 24


def test_the_verbs(bundles: list[Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_of(tmp_path, bundles)
    model = str(registry.folder)
    assert main(["models", "list", model, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["version"], one["champion"]) for one in listed] == [(n, n == 5) for n in range(1, 6)]
    assert main(["models", "promote", model, "2", "--why", "a hunch"]) == 0
    assert main(["models", "rollback", model, "--why", "no good"]) == 0
    assert main(["models", "prune", model, "--keep", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "version 2 is the champion",
        "version 5 is the champion again",
        "removed: version 1, version 2, version 3",
    ]
    assert main(["models", "list", model]) == 0
    assert "champion" in capsys.readouterr().out
    assert main(["models", "show", model, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["fingerprint"] == bundles[4].fingerprint
    assert [(change["change"], change["why"]) for change in shown["changes"]][-1] == ("rollback", "no good")
    assert main(["models", "show", model, "5"]) == 0
    assert bundles[4].fingerprint in capsys.readouterr().out
    for wrong, words in (
        (["promote", model, "9"], "has no version 9; there are: 4, 5"),
        (["show", model, "9"], "has no version 9"),
        (["list", str(tmp_path / "nowhere")], "no versions of a model here"),
    ):
        assert main(["models", *wrong]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
