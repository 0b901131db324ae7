"""`sepline optimize`: a bundle without a model for OpenVINO becomes one with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from model.bundles.bundle import Bundle, load_bundle, rewrite_bundle
from model.errors import UserError
from model.optimization import optimize as optimization
from model.training.train import _add_openvino
from pipelines.cli import main


@pytest.fixture
def bare(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle as it would be without OpenVINO."""

    def change(folder: Path) -> dict[str, None]:
        shutil.rmtree(folder / "openvino")
        return {"openvino": None}

    return rewrite_bundle(tiny_bundle, tmp_path / "bare", change)


def test_the_new_bundle_is_as_if_it_had_been_trained_so(
    bare: Bundle, tiny_bundle: Bundle, tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["optimize", str(bare.path), "--data", str(tiny_records), "--output", str(tmp_path / "new")]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    new = load_bundle(tmp_path / "new")
    assert (said["bundle"], said["fingerprint"]) == (str(new.path), new.fingerprint)
    assert new.openvino is not None and tiny_bundle.openvino is not None
    assert new.openvino["dev"]["sentences"] == tiny_bundle.openvino["dev"]["sentences"]
    assert new.openvino["dev"]["f32"]["differing_labels"] == 0
    for name in tiny_bundle.description["files"]:
        assert (new.path / name).read_bytes() == (tiny_bundle.path / name).read_bytes(), name
    assert main(["verify", str(new.path)]) == 0
    assert main(command) == 2
    assert "exists already; name another --output" in capsys.readouterr().err


def test_without_records_nothing_is_compared(bare: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", str(bare.path), "--output", str(tmp_path / "new")]) == 0
    assert "not compared with TensorFlow's" in capsys.readouterr().out
    facts = load_bundle(tmp_path / "new").openvino
    assert facts is not None and "dev" not in facts


def test_a_training_ends_without_it_where_it_can_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> None:
        raise UserError("no rule")

    monkeypatch.setattr(optimization, "convert", fail)
    assert _add_openvino(tmp_path, [], None, pad_id=0) == {}
    assert capsys.readouterr().err == "the bundle has no model for openvino: no rule\n"
