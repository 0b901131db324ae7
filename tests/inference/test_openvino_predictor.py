"""The predictor openvino: the same bits each time, in any number of threads, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, TINY_SHAPE, write_checkpoint
from support.untrained import write_untrained

from model.bundles.bundle import Bundle, load_bundle, rewrite_bundle
from model.config import EncoderSettings, ModelSettings, WindowSettings
from model.errors import JobFailure, UserError
from model.evaluation.held_out import HeldOut
from model.inference import openvino_predictor
from model.inference.choice import choose_name, choose_precision, differing_share
from model.inference.kinds import BatchError, PredictorChoice
from model.inference.openvino_predictor import order_precisions, processor_precisions
from model.inference.predictor import Predictor
from model.optimization.optimize import add_openvino
from model.optimization.quantization import Quantization
from model.text.windowing import encode_windows

F32, BF16, INT8 = (PredictorChoice("openvino", precision) for precision in ("f32", "bf16", "int8"))

NO_DOCUMENTS = HeldOut(doc_ids=(), sources=(), sentences=(), labels=(), scores=(), features=(), highlights=())

PREDICT = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from model.bundles.bundle import load_bundle
from model.inference.kinds import PredictorChoice
from model.inference.predictor import Predictor
from model.text.windowing import encode_windows
from model.threads import limit_threads

folder, precision, threads = sys.argv[1:]
limit_threads(int(threads))
bundle = load_bundle(folder)
draw = np.random.default_rng(0)
windows = []
for _ in range(40):
    sentences = [draw.integers(5, 60, size).astype(np.int32) for size in draw.integers(1, 15, draw.integers(1, 6))]
    windows += encode_windows(sentences, bundle.window, cls_id=2, sep_id=3)
predictor = Predictor.load(bundle, PredictorChoice("openvino", precision), batch_tokens=400)
rows = [row["probabilities"] for row in predictor.run(windows)]
different = len({one.tobytes() for one in rows})
print(hashlib.sha256(b"".join(one.tobytes() for one in rows)).hexdigest(), different > 30, "tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a model for OpenVINO whose products are as wide as MiniLM's, so that threads share them."""
    folder = tmp_path_factory.mktemp("wide")
    shape = {**TINY_SHAPE, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    write_checkpoint(folder / "encoder", shape=shape)
    encoder = EncoderSettings(handle=str(folder / "encoder"))
    draw = np.random.default_rng(1)
    sentences = [[draw.integers(5, 60, size).astype(np.int32) for size in draw.integers(1, 15, 4)] for _ in range(20)]
    calibration = [
        window
        for document in sentences
        for window in encode_windows(document, WindowSettings(max_tokens=48, context=1), cls_id=2, sep_id=3)
    ]
    quantization = Quantization(calibration, len(sentences), NO_DOCUMENTS, ())
    return write_untrained(
        folder / "bundle",
        encoder,
        ModelSettings(),
        add=lambda fresh: add_openvino(fresh, [], pad_id=0, quantization=quantization),
    )


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_threads_and_processes_change_no_bit_and_tensorflow_is_not_loaded(wide_bundle: Bundle, precision: str) -> None:
    if precision not in processor_precisions():
        pytest.skip(f"this processor does not compute in {precision}")
    said = set()
    for threads in (1, 2, 1):
        command = [sys.executable, "-c", PREDICT, str(wide_bundle.path), precision, str(threads)]
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        said.add(result.stdout)
    assert len(said) == 1
    assert said.pop().endswith(" True False\n")


def test_a_trained_bundle_has_a_model_that_agrees_with_tensorflow(tiny_bundle: Bundle) -> None:
    facts = tiny_bundle.openvino
    assert facts is not None
    files = tiny_bundle.description["files"]
    for name in ("openvino/model.xml", "openvino/model.bin"):
        content = (tiny_bundle.path / name).read_bytes()
        assert files[name] == hashlib.sha256(content).hexdigest()
    assert set(facts["dev"]) == {"sentences", *processor_precisions()} - {"int8"}
    assert facts["dev"]["sentences"] == tiny_bundle.description["dev"]["sentences"]
    assert facts["dev"]["f32"]["differing_labels"] == 0
    assert 0 < facts["dev"]["f32"]["largest_difference"] < 1e-5
    windows = [
        window
        for length in range(1, 9)
        for window in encode_windows([np.arange(5, 5 + length)] * 3, tiny_bundle.window, cls_id=2, sep_id=3)
    ]
    expected = Predictor.load(tiny_bundle).run(windows)
    for one, other in zip(Predictor.load(tiny_bundle, F32).run(windows), expected, strict=True):
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)


def test_what_openvino_can_not_run_fails_the_batch(tiny_bundle: Bundle) -> None:
    classify = F32.kind().load(tiny_bundle, "f32")
    batch = {name: np.zeros((2, 16), np.int32) for name in ("token_ids", "segment_ids", "padding_mask")}
    with pytest.raises(BatchError):
        classify({**batch, "sep_positions": np.zeros((3, 8), np.int32)})
    assert classify({**batch, "sep_positions": np.zeros((2, 8), np.int32)})["label_ids"].shape == (2, 8)


@pytest.mark.parametrize("choice", [BF16, INT8])
def test_a_processor_without_the_precision_is_one_line(
    choice: PredictorChoice, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_predictor, "_precisions", lambda core: ("f32",))
    message = f"a worker's processor does not compute in {choice.precision}, which the job is in; give --precision f32"
    with pytest.raises(JobFailure, match=f"^{message}$"):
        Predictor.load(tiny_bundle, choice)


@pytest.mark.parametrize(
    ("flags", "capabilities", "precisions"),
    [
        ({"amx_bf16", "amx_int8", "avx512_vnni"}, ["BF16", "INT8"], ("bf16", "int8", "f32")),
        ({"avx512_bf16", "avx512_vnni"}, ["BF16", "INT8"], ("int8", "bf16", "f32")),
        ({"avx_vnni"}, ["INT8"], ("int8", "f32")),
        ({"avx2"}, ["INT8"], ("f32",)),
        (set(), ["BF16", "INT8"], ("bf16", "f32")),
    ],
)
def test_precisions_of_processors_the_fastest_first(
    flags: set[str], capabilities: list[str], precisions: tuple[str, ...]
) -> None:
    """OpenVINO names INT8 on every processor."""
    assert order_precisions(flags, capabilities) == precisions


def test_a_worker_without_openvino_is_one_line(tiny_bundle: Bundle) -> None:
    program = (
        "import sys; sys.modules['openvino'] = None\n"
        "from model.bundles.bundle import load_bundle\n"
        "from model.errors import JobFailure\n"
        "from model.inference.kinds import PredictorChoice\n"
        "from model.inference.predictor import Predictor\n"
        "try:\n"
        "    Predictor.load(load_bundle(sys.argv[1]), PredictorChoice('openvino'))\n"
        "except JobFailure as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bundle.path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.stdout == (
        "a worker can't run the model: the predictor openvino needs the package openvino, which is missing; install it "
        "with: pip install 'sepline[fast]'\n"
    ), result.stderr


def facts(*, bf16: int, sentences: int = 1000) -> dict[str, object]:
    return {
        "version": "1",
        "dev": {"sentences": sentences, "f32": {"differing_labels": 0}, "bf16": {"differing_labels": bf16}},
    }


def test_what_is_chosen() -> None:
    both = ("bf16", "f32")
    assert choose_name("b", None, None, None) == "tensorflow"
    assert choose_name("b", facts(bf16=0), None, None) == "openvino"
    assert choose_name("b", facts(bf16=0), "tensorflow", None) == "tensorflow"
    assert choose_name("b", facts(bf16=0), None, None, gpu=True) == "tensorflow"
    assert choose_name("b", facts(bf16=0), "openvino", None, gpu=True) == "openvino"
    assert choose_precision(facts(bf16=5), "openvino", None, both) == BF16
    assert choose_precision(facts(bf16=6), "openvino", None, both) == F32
    assert choose_precision(facts(bf16=6), "openvino", "bf16", both) == BF16
    assert choose_precision(facts(bf16=0), "openvino", None, ("f32",)) == F32
    assert choose_precision({"version": "1"}, "openvino", None, both) == F32
    with_int8 = {**facts(bf16=0), "int8": {}}
    assert choose_precision(with_int8, "openvino", None, ("int8", "bf16", "f32")) == INT8
    assert choose_precision(with_int8, "openvino", None, ("bf16", "int8", "f32")) == BF16
    assert choose_precision({**facts(bf16=6), "int8": {}}, "openvino", None, ("bf16", "int8", "f32")) == INT8
    assert choose_precision(with_int8, "openvino", None, ("f32",)) == F32
    assert choose_name("b", with_int8, None, "int8") == "openvino"
    assert choose_precision(facts(bf16=0), "tensorflow", None, ("f32",)) == PredictorChoice("tensorflow", "f32")
    assert differing_share(facts(bf16=6), "bf16") == 0.006
    assert differing_share({"dev": {"sentences": 5, "f32": {"largest_difference": 0.1}}}, "f32") is None


@pytest.mark.parametrize(
    ("there", "name", "precision", "message"),
    [
        (facts(bf16=0), "tensorflow", "bf16", "the predictor tensorflow computes in f32 alone"),
        (None, "openvino", None, "b: has no model for openvino; `sepline optimize b --output NEW` makes"),
        (None, None, "bf16", "b: has no model for openvino"),
        (
            None,
            None,
            "int8",
            "b: has no model for openvino; `sepline optimize b --int8 --data RECORDS --output NEW` makes",
        ),
        (
            facts(bf16=0),
            None,
            "int8",
            "b: has no model in int8; `sepline optimize b --int8 --data RECORDS --output NEW`",
        ),
        (facts(bf16=0), "tensorflow", "int8", "the predictor tensorflow computes in f32 alone"),
    ],
)
def test_what_can_not_be_chosen(
    there: dict[str, object] | None, name: str | None, precision: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_name("b", there, name, precision)


def test_a_precision_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="this processor does not compute in bf16; give --precision f32"):
        choose_precision(facts(bf16=0), "openvino", "bf16", ("f32",))


def test_a_copy_of_a_bundle_without_the_model_is_run_by_tensorflow(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def change(folder: Path) -> dict[str, object]:
        for file in (folder / "openvino").iterdir():
            file.unlink()
        return {"openvino": None}

    bare = rewrite_bundle(tiny_bundle, tmp_path / "bare", change)
    assert bare.fingerprint != tiny_bundle.fingerprint
    assert bare.openvino is None
    assert load_bundle(bare.path) == bare
    assert choose_name("b", bare.openvino, None, None) == "tensorflow"
    description = json.loads((bare.path / "bundle.json").read_text(encoding="utf-8"))
    assert sorted(description["files"]) == sorted(
        name for name in tiny_bundle.description["files"] if not name.startswith("openvino/")
    )
