"""Adds to a bundle the model that OpenVINO runs: at the end of a training, or to a bundle that lacks it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from model.bundles.bundle import OPENVINO_INT8_MODEL, OPENVINO_MODEL, Bundle, load_bundle, rewrite_bundle
from model.bundles.registry import open_model
from model.bundles.training_data import open_training_data
from model.errors import JobFailure, UserError
from model.evaluation.held_out import check_features, read_held_out
from model.extras import import_openvino
from model.inference.kinds import TENSORFLOW, Outputs
from model.inference.openvino_predictor import compile_model, processor_precisions
from model.inference.tensorflow_predictor import load_signature
from model.optimization.agreement import measure_agreement, run_owned
from model.optimization.conversion import convert
from model.optimization.quantization import Quantization, quantize
from model.records import EncodedWindow


def is_installed() -> bool:
    """Returns True if openvino is installed."""
    return find_spec("openvino") is not None


def add_openvino(
    folder: Path,
    windows: Sequence[EncodedWindow],
    expected: Outputs | None = None,
    *,
    pad_id: int,
    quantization: Quantization | None = None,
) -> dict[str, Any]:
    """Converts the SavedModel in a folder, writes the converted model beside it, and returns facts for the description.

    Args:
        folder: of a bundle that is being written.
        windows: of dev, on which the two models are compared; none if there is no dev split.
        expected: what TensorFlow makes of the windows, `[sentences, ...]` by name; None to let it.
        pad_id: the vocabulary's `[PAD]`.
        quantization: for the model in int8, too; the windows are those of its held-out documents.

    Raises:
        UserError: openvino is not installed, or can't convert the model; or the one in int8 is not good enough.
        JobFailure: the converted model can't be written, or read again.
    """
    openvino = import_openvino("a model for the predictor openvino")
    model = convert(folder)
    (folder / OPENVINO_MODEL).parent.mkdir(exist_ok=True)
    written = {"f32": _write(model, folder / OPENVINO_MODEL)}
    written["bf16"] = written["f32"]
    if quantization is not None:
        quantized = quantize(model, quantization.calibration, pad_id=pad_id)
        written["int8"] = _write(quantized, folder / OPENVINO_INT8_MODEL)
    facts: dict[str, Any] = {"version": version("openvino")}
    if windows:
        core, there = openvino.Core(), processor_precisions()
        if expected is None:
            expected = run_owned(load_signature(folder), windows, pad_id=pad_id)
        found = {
            precision: run_owned(compile_model(core, again, precision), windows, pad_id=pad_id)
            for precision, again in written.items()
            if precision in there
        }
        facts["dev"] = measure_agreement(expected, found)
        if quantization is not None:
            facts["int8"] = quantization.judge(expected, found["int8"])
    return {"openvino": facts}


def _write(model: Any, file: Path) -> Any:
    """Writes an `openvino.Model`, and returns what is read from the file then.

    Raises:
        JobFailure: it can't be written, or is another one when it is read; openvino does not notice all errors.
    """
    openvino = import_openvino("a model for the predictor openvino")
    try:
        openvino.save_model(model, file, compress_to_fp16=False)
        again = openvino.Core().read_model(file)
    except RuntimeError as error:
        raise JobFailure(f"{file}: cannot be written or read again; is the disk full? Repeat the command") from error
    constants, found = _constants(model), _constants(again)
    if constants.keys() != found.keys() or not all(np.array_equal(constants[name], found[name]) for name in found):
        raise JobFailure(f"{file}: is not what was written; repeat the command")
    return again


def _constants(model: Any) -> dict[str, np.ndarray]:
    constants = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return {node.get_friendly_name(): node.data for node in constants}


def optimize(
    bundle_dir: str, output: str, *, data_dir: str | None = None, int8: bool = False, trust_model: bool = False
) -> Bundle:
    """Writes a copy of a bundle with a model for OpenVINO, and returns it.

    Args:
        bundle_dir: the bundle, or REGISTRY/NAME.
        output: the folder of the new one; it must not exist.
        data_dir: training records, on whose dev split both models are compared; None for no comparison.
        int8: True to quantize the model, too: the train split calibrates it, and the dev split decides whether it is
            good enough.
        trust_model: True to run the model although its graph can do more than compute.

    Raises:
        UserError: bundle, records or folder can't be used, openvino or nncf is missing or can't convert the model, or
            in int8 it is not good enough.
    """
    if int8 and data_dir is None:
        raise UserError("--int8 needs --data: the train split of the records calibrates the model, dev judges it")
    bundle = open_model(bundle_dir, trusted=trust_model)
    bundle.check_graph()
    folder = Path(output)
    if folder.exists():
        raise UserError(f"{output}: exists already; name another --output")
    windows: list[EncodedWindow] = []
    quantization = None
    if data_dir is not None:
        data = open_training_data(data_dir)
        check_features(bundle, data, hint="name records of documents that have them")
        held_out = read_held_out(data, "dev")
        tokenize = TENSORFLOW.kind().open_tokenizer(bundle)
        if int8:
            quantization = Quantization.prepare(bundle, data, held_out, tokenize)
        windows = held_out.windows(bundle, tokenize)

    def change(fresh: Path) -> dict[str, Any]:
        shutil.rmtree((fresh / OPENVINO_MODEL).parent, ignore_errors=True)
        return add_openvino(fresh, windows, pad_id=bundle.vocabulary.pad_id, quantization=quantization)

    rewrite_bundle(bundle, folder, change)
    return load_bundle(folder, trusted=trust_model)
