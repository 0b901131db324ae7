"""A bundle is whole and unchanged, or it is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.bundles.bundle import BUNDLE_FORMAT, Bundle, load_bundle, write_bundle
from model.config import WindowSettings
from model.errors import UserError
from model.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"), lower_case=False)


def export(folder: Path) -> None:
    """Stands for the SavedModel, which the bundle keeps as opaque files."""
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"index")


def write(path: Path, **facts: Any) -> Bundle:
    window = WindowSettings(max_tokens=99, context=3, segment_ids="alternating")
    return write_bundle(path, export, labels=("b", "a"), window=window, vocabulary=VOCABULARY, facts=facts)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_bundle(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    written = write(tmp_path / "bundle", best_epoch=2)
    loaded = load_bundle(str(tmp_path / "bundle"))
    assert loaded == written
    assert loaded.labels == ("b", "a")
    assert loaded.window == WindowSettings(max_tokens=99, context=3, segment_ids="alternating")
    assert loaded.vocabulary == VOCABULARY
    assert loaded.description["best_epoch"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]
    assert loaded.description["files"]["saved_model.pb"] == hashlib.sha256(b"graph").hexdigest()
    assert sorted(loaded.description["files"]) == ["saved_model.pb", "variables/variables.index", "vocab.txt"]


def test_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    first = write(tmp_path / "one", best_epoch=2)
    assert write(tmp_path / "two", best_epoch=2).fingerprint == first.fingerprint
    assert write(tmp_path / "three", best_epoch=3).fingerprint != first.fingerprint
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert load_bundle(tmp_path / "copy").fingerprint == first.fingerprint


def test_changed_file(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "variables" / "variables.index").write_bytes(b"other")
    assert "variables/variables.index changed since the export; export it again" in refusal(tmp_path / "bundle")


def test_missing_and_surplus_files(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "saved_model.pb").unlink()
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    assert "notes.txt, saved_model.pb changed since the export" in refusal(tmp_path / "bundle")


def test_changed_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nb\n")
    assert "vocab.txt changed" in refusal(tmp_path / "bundle")


@pytest.mark.parametrize(("key", "value"), [("labels", ["a", "b"]), ("lower_case", True), ("best_epoch", 9)])
def test_changed_description(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path / "bundle", best_epoch=2)
    file = tmp_path / "bundle" / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert "bundle.json changed since the export" in refusal(tmp_path / "bundle")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "7"])
def test_not_a_description(tmp_path: Path, content: str) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").write_text(content)
    assert "not a bundle (bundle.json is missing or unreadable)" in refusal(tmp_path / "bundle")


def test_a_description_cut_down_to_its_format(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps({"format": BUNDLE_FORMAT}))
    assert "saved_model.pb, variables/variables.index, vocab.txt changed" in refusal(tmp_path / "bundle")


def test_no_description(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").unlink()
    assert "not a bundle" in refusal(tmp_path / "bundle")
    assert "sepline train" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("text")
    assert "not a bundle" in refusal(tmp_path / "file")


def test_other_format(tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    file = tmp_path / "bundle" / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    assert f"bundle format 99, this sepline reads {BUNDLE_FORMAT}; export it again" in refusal(tmp_path / "bundle")


def test_writing_replaces_all_of_an_older_bundle(tmp_path: Path) -> None:
    first = write(tmp_path / "bundle", best_epoch=2)
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    (tmp_path / ".bundle.writing").mkdir()
    (tmp_path / ".bundle.writing" / "half").write_text("left by a killed export")
    second = write(tmp_path / "bundle", best_epoch=3)
    assert second.fingerprint != first.fingerprint
    assert load_bundle(tmp_path / "bundle") == second
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_an_export_that_fails_leaves_the_older_bundle(tmp_path: Path) -> None:
    first = write(tmp_path / "bundle")

    def fail(folder: Path) -> None:
        (folder / "saved_model.pb").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_bundle(tmp_path / "bundle", fail, labels=("a",), window=WindowSettings(), vocabulary=VOCABULARY, facts={})
    assert load_bundle(tmp_path / "bundle") == first


def test_the_trained_bundle_says_what_it_is(tiny_bundle: Bundle, tiny_encoder: Path) -> None:
    description = tiny_bundle.description
    assert set(tiny_bundle.labels) == {"background", "methods", "results", "conclusions"}
    assert tiny_bundle.window == WindowSettings(max_tokens=48, context=1)
    assert description["encoder"]["handle"] == str(tiny_encoder)
    assert description["encoder"]["layers"] == 2
    assert (description["encoder"]["kind"], description["encoder"]["lower_case"]) == ("native", True)
    (data,) = description["data"]
    assert data["counts"]["records"] == 60
    assert description["dev"]["sentences"] == data["counts"]["sentences"]["dev"]
    assert {"saved_model.pb", "vocab.txt"} < set(description["files"])
    assert json.loads((tiny_bundle.path / "bundle.json").read_text()) == dict(description)
