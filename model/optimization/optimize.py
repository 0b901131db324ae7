"""Adds to a bundle the model that OpenVINO runs: at the end of a training, or to a bundle that lacks it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.bundles.bundle import OPENVINO_MODEL, Bundle, load_bundle, rewrite_bundle
from model.bundles.registry import open_model
from model.bundles.training_data import TrainingData, open_training_data
from model.errors import UserError
from model.evaluation.held_out import check_features, read_held_out
from model.extras import import_openvino
from model.inference.document_windows import encode_documents
from model.inference.kinds import TENSORFLOW
from model.inference.openvino_predictor import compile_model, processor_precisions
from model.inference.tensorflow_predictor import load_signature
from model.optimization.agreement import measure_agreement
from model.optimization.conversion import convert
from model.records import EncodedWindow


def is_installed() -> bool:
    """Returns True if openvino is installed."""
    return find_spec("openvino") is not None


def add_openvino(folder: Path, windows: Sequence[EncodedWindow], *, pad_id: int) -> dict[str, Any]:
    """Converts the SavedModel in a folder, writes the converted model beside it, and returns facts for the description.

    Args:
        folder: of a bundle that is being written.
        windows: of dev, on which the two models are compared; none if there is no dev split.
        pad_id: the vocabulary's `[PAD]`.

    Raises:
        UserError: openvino is not installed, or can't convert the model.
    """
    openvino = import_openvino("a model for the predictor openvino")
    model = convert(folder)
    file = folder / OPENVINO_MODEL
    file.parent.mkdir(exist_ok=True)
    openvino.save_model(model, file, compress_to_fp16=False)
    facts: dict[str, Any] = {"version": version("openvino")}
    if windows:
        core = openvino.Core()
        compiled = {each: compile_model(core, core.read_model(file), each) for each in processor_precisions()}
        facts["dev"] = measure_agreement(windows, load_signature(folder), compiled, pad_id=pad_id)
    return {"openvino": facts}


def optimize(bundle_dir: str, output: str, *, data_dir: str | None = None, trust_model: bool = False) -> Bundle:
    """Writes a copy of a bundle with a model for OpenVINO, and returns it.

    Args:
        bundle_dir: the bundle, or REGISTRY/NAME.
        output: the folder of the new one; it must not exist.
        data_dir: training records, on whose dev split both models are compared; None for no comparison.
        trust_model: True to run the model although its graph can do more than compute.

    Raises:
        UserError: bundle, records or folder can't be used, openvino is missing, or it can't convert the model.
    """
    bundle = open_model(bundle_dir, trusted=trust_model)
    bundle.check_graph()
    folder = Path(output)
    if folder.exists():
        raise UserError(f"{output}: exists already; name another --output")
    windows = _dev_windows(bundle, open_training_data(data_dir)) if data_dir is not None else []

    def change(fresh: Path) -> dict[str, Any]:
        shutil.rmtree((fresh / OPENVINO_MODEL).parent, ignore_errors=True)
        return add_openvino(fresh, windows, pad_id=bundle.vocabulary.pad_id)

    rewrite_bundle(bundle, folder, change)
    return load_bundle(folder, trusted=trust_model)


def _dev_windows(bundle: Bundle, data: TrainingData) -> list[EncodedWindow]:
    """Returns the windows of the dev split's documents, with the bundle's own tokenizer and windows."""
    check_features(bundle, data, hint="name records of documents that have them")
    held_out = read_held_out(data, "dev")
    tokenize = TENSORFLOW.kind().open_tokenizer(bundle)
    documents = list(zip(held_out.sentences, held_out.features, strict=True))
    return [window for windows in encode_documents(documents, bundle, tokenize) for window in windows]
