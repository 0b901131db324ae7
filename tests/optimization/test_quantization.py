"""`sepline optimize --int8`: what it makes, what it measures, and when it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT, TINY_SHAPE, MakeOnce, tiny_weights, write_checkpoint
from support.relabelled import relabel_dev
from support.untrained import write_untrained
from support.variants import VARIANTS, operations, some_windows

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.training_data import open_training_data
from model.config import EncoderSettings, ModelSettings
from model.errors import DamagedFileError
from model.evaluation.calibration import expected_calibration_error
from model.evaluation.held_out import DocumentClassifier, read_held_out
from model.inference import openvino_predictor
from model.inference.kinds import PredictorChoice
from model.inference.openvino_predictor import compile_model, processor_precisions
from model.optimization.agreement import run_owned
from model.optimization.conversion import convert
from model.optimization.quantization import quantize
from pipelines.cli import main

pytestmark = pytest.mark.skipif("int8" not in processor_precisions(), reason="this processor has no VNNI")


@pytest.fixture
def sure_records(make_once: MakeOnce, tiny_bundle: Bundle, tiny_records: Path) -> Path:
    """Records on whose dev split the tiny bundle is right where it is sure, and wrong elsewhere.

    So the accuracy does not change where a label that was hardly the most probable one becomes another.
    """

    def make(folder: Path) -> None:
        held_out = read_held_out(open_training_data(tiny_records), "dev")
        probabilities = DocumentClassifier(tiny_bundle).run(held_out)["probabilities"]
        ascending = np.sort(probabilities, axis=1)
        sure = ascending[:, -1] - ascending[:, -2] > 0.3
        assert sure.sum() > len(sure) / 2
        ids = np.where(sure, probabilities.argmax(axis=1), probabilities.argmin(axis=1))
        relabel_dev(tiny_records, folder, [tiny_bundle.labels[index] for index in ids])

    return make_once("sure_records", make)


@pytest.fixture
def int8_bundle(make_once: MakeOnce, tiny_bundle: Bundle, sure_records: Path) -> Bundle:
    """The tiny bundle with a model in int8, too."""

    def make(folder: Path) -> None:
        command = ["optimize", str(tiny_bundle.path), "--int8", "--data", str(sure_records), "--output", str(folder)]
        assert main(command) == 0

    return load_bundle(make_once("int8", make))


def test_the_bundle_has_both_models_and_says_what_int8_costs(
    int8_bundle: Bundle, tiny_bundle: Bundle, sure_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["optimize", str(tiny_bundle.path), "--int8", "--data", str(sure_records)]
    assert main([*command, "--output", str(tmp_path / "again"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fingerprint"] == int8_bundle.fingerprint  # the same bytes
    files = said["files"]
    assert {name for name in files if name.startswith("openvino/")} == {
        f"openvino/{name}" for name in ("model.xml", "model.bin", "int8.xml", "int8.bin")
    }
    for name in tiny_bundle.description["files"]:
        assert files[name] == tiny_bundle.description["files"][name]

    held_out = read_held_out(open_training_data(sure_records), "dev")
    truth = held_out.labelled(tiny_bundle.labels).targets
    choices = (PredictorChoice(), PredictorChoice("openvino", "int8"))
    before, after = (DocumentClassifier(int8_bundle, choice).run(held_out) for choice in choices)
    facts = said["openvino"]["int8"]
    assert (facts["nncf"], facts["documents"]) == (version("nncf"), len(held_out.doc_ids))
    assert facts["calibration_documents"] == said["data"][0]["counts"]["documents"]["train"]
    accuracy = facts["accuracy"]
    for when, outputs in (("before", before), ("after", after)):
        correct = outputs["label_ids"] == truth
        assert accuracy[when] == np.mean(correct)
        error = expected_calibration_error(outputs["probabilities"].max(axis=1), correct)
        assert facts["calibration_error"][when] == pytest.approx(error)
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    dev = said["openvino"]["dev"]
    assert dev["int8"]["differing_labels"] == np.count_nonzero(before["label_ids"] != after["label_ids"])
    change = np.abs(before["probabilities"] - after["probabilities"]).max()
    assert dev["int8"]["largest_difference"] == pytest.approx(change)
    assert 1e-4 < change < 0.3


def test_its_figures_are_printed_and_nothing_is_reported(
    tiny_bundle: Bundle, sure_records: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pipelines.cli import main; assert main(sys.argv[1:]) == 0\n"
        "print('nncf' in sys.modules, {'openvino_telemetry', 'apache_beam', 'torch'} & set(sys.modules))"
    )
    command = ["optimize", str(tiny_bundle.path), "--int8", "--data", str(sure_records), "--output"]
    arguments = [sys.executable, "-c", program, *command, str(tmp_path / "new")]
    result = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=True)
    out = result.stdout.splitlines()
    assert len(out) == 5  # none of them nncf's
    assert out[1].endswith(" in int8")
    assert out[2].startswith(f"model in int8 by nncf {version('nncf')}: dev accuracy 0.")
    assert "95 % interval" in out[2] and "calibration error" in out[2]
    assert out[4] == "True set()"


def test_the_fingerprint_covers_it(int8_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(int8_bundle.path, tmp_path / "copy")
    weights = tmp_path / "copy" / "openvino" / "int8.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"openvino/int8\.bin changed since the export"):
        load_bundle(tmp_path / "copy")


def test_scoring_uses_it(
    int8_bundle: Bundle, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--model", str(int8_bundle.path), "--input", str(tiny_corpus), "--output"]
    assert main([*command, str(tmp_path / "int8"), "--precision", "int8"]) == 0
    assert main([*command, str(tmp_path / "f32"), "--precision", "f32"]) == 0
    assert main([*command, str(tmp_path / "chosen")]) == 0
    capsys.readouterr()
    tables = {name: pq.read_table(tmp_path / name) for name in ("int8", "f32", "chosen")}
    made = {name: json.loads(table.schema.metadata[b"sepline.predictor"]) for name, table in tables.items()}
    assert made["int8"] == {"name": "openvino", "version": version("openvino"), "precision": "int8"}
    assert made["chosen"]["precision"] == processor_precisions()[0]
    one, other = (np.array(tables[name]["probabilities"].to_pylist()) for name in ("int8", "f32"))
    assert 1e-4 < np.abs(one - other).max() < 0.3
    assert main([*command, str(tmp_path / "int8"), "--precision", "f32"]) == 2
    assert 'predictor.precision "int8", which is now "f32"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["crf", "cls and crf", "mixed layers", "features"])
def test_a_quantized_variant_is_near_and_keeps_what_was_put_together(
    name: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    encoder = EncoderSettings(handle=str(tiny_encoder), **variant.get("encoder", {}))
    features = variant.get("features", 0)
    bundle = write_untrained(tmp_path / "bundle", encoder, ModelSettings(**variant.get("model", {})), features=features)
    windows = some_windows(bundle, documents=24)
    model = convert(bundle.path)
    there = operations(model)
    expected = run_owned(compile_model(openvino.Core(), model, "f32"), windows[:12], pad_id=0)
    quantized = quantize(model, windows[12:], pad_id=0)
    found = run_owned(compile_model(openvino.Core(), quantized, "int8"), windows[:12], pad_id=0)
    assert 1e-5 < np.abs(found["probabilities"] - expected["probabilities"]).mean() < 0.05
    now = operations(quantized)
    for kind in ("MVN", "ScaledDotProductAttention", "Gelu", "MatMul"):
        assert now[kind] == there[kind]
    weights = [node for node in quantized.get_ops() if node.get_type_name() == "MatMul"]
    assert sum(in_int8(node) for node in weights) >= 0.9 * len(weights)


def in_int8(product: openvino.Node) -> bool:
    """Returns True if the second factor of a product is a constant of int8, made to numbers before."""
    node = product.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        if not node.inputs():
            return False
        node = node.input_value(0).get_node()
    return bool(node.get_element_type() == openvino.Type.i8)


def test_a_model_that_int8_harms_is_refused(
    tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Channels with large values leave few of the 256 steps to the others. The true labels are what f32 predicts."""
    shape = {**TINY_SHAPE, "num_hidden_layers": 6}
    weights = tiny_weights(shape)
    for name, values in weights.items():
        if name.endswith("LayerNorm.weight"):
            values[::8] *= 10
    write_checkpoint(tmp_path / "encoder", shape=shape, weights=weights)
    bundle = write_untrained(tmp_path / "bundle", EncoderSettings(handle=str(tmp_path / "encoder")), ModelSettings())
    predicted = DocumentClassifier(bundle).run(read_held_out(open_training_data(tiny_records), "dev"))["label_ids"]
    relabel_dev(tiny_records, tmp_path / "records", [bundle.labels[index] for index in predicted])
    command = ["optimize", str(bundle.path), "--data", str(tmp_path / "records"), "--output", str(tmp_path / "new")]
    assert main([*command, "--int8"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sepline: not written: in int8 the accuracy is lower by more than 1 point: 0.")
    assert " after 1.0000 on 11 documents of dev, a difference of -" in said
    assert not (tmp_path / "new").exists() and not (tmp_path / ".new.writing").exists()
    assert main(command) == 0  # without int8 it is written


def test_what_can_not_be_quantized_is_one_line(
    tiny_bundle: Bundle,
    tiny_records: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(bundle: Path, *data: str) -> str:
        assert main(["optimize", str(bundle), "--int8", *data, "--output", str(tmp_path / "new")]) == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    records = ("--data", str(tiny_records))
    assert refused(tiny_bundle.path) == (
        "sepline: --int8 needs --data: the train split of the records calibrates the model, dev judges it\n"
    )
    scores = write_untrained(tmp_path / "scores", EncoderSettings(handle=str(tiny_encoder)), ModelSettings(), labels=())
    assert refused(scores.path, *records) == (
        f"sepline: {scores.path}: predicts scores, and only models of labels are quantized to int8\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(openvino_predictor, "_processor_flags", frozenset)
        assert refused(tiny_bundle.path, *records) == (
            "sepline: a model in int8 can't be judged here: this processor has no instructions for it (VNNI)\n"
        )
    monkeypatch.setitem(sys.modules, "nncf", None)  # as if it were not installed
    assert refused(tiny_bundle.path, *records) == (
        "sepline: a model in int8 needs the package nncf, which is missing; install it with: pip install "
        "'sepline[int8]'\n"
    )


def test_optimizing_again_without_int8_leaves_it_out(int8_bundle: Bundle, tmp_path: Path) -> None:
    assert main(["optimize", str(int8_bundle.path), "--output", str(tmp_path / "new")]) == 0
    new = load_bundle(tmp_path / "new")
    assert new.openvino is not None and "int8" not in new.openvino
    assert not [name for name in new.description["files"] if "int8" in name]
