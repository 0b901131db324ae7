"""Runs the model for OpenVINO that a bundle may have, on the processor and without TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.bundles.bundle import OPENVINO_MODEL, Bundle
from model.errors import JobFailure, UserError
from model.extras import import_openvino
from model.inference.kinds import BatchError, Classify, Outputs, Tokenize
from model.threads import given_threads

_PURPOSE = "the predictor openvino"


class OpenVinoPredictor:
    """A `PredictorKind`. It imports openvino when it loads something, not before."""

    modules = ("model.inference.openvino_imports",)
    packages = ("openvino", "tokenizers")

    def examine(self, bundle: Bundle) -> tuple[str, ...]:
        """Returns what the processor computes in. Converted models have no operations that do more than compute."""
        return processor_precisions()

    def open_tokenizer(self, bundle: Bundle) -> Tokenize:
        """Returns the tokenizer of Hugging Face."""
        from model.text.wordpiece import WordPiece

        return WordPiece(bundle.vocabulary, mask_outliers=bundle.mask_outliers).ids

    def load(self, bundle: Bundle, precision: str) -> Classify:
        """Loads the converted model.

        Raises:
            JobFailure: openvino is missing here, or the processor doesn't have the precision.
        """
        try:
            core = import_openvino(_PURPOSE).Core()
        except UserError as error:
            raise JobFailure(f"a worker can't run the model: {error}") from error
        if precision not in _precisions(core):
            raise JobFailure(
                f"a worker's processor does not compute in {precision}, which the job is in; give --precision f32"
            )
        return compile_model(core, core.read_model(bundle.path / OPENVINO_MODEL), precision)


def compile_model(core: Any, model: Any, precision: str) -> Classify:
    """Returns a function that runs an `openvino.Model`; threads may share it, but take turns."""
    threads = given_threads()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several workers would all be pinned to the same cores
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    inputs = [given.get_any_name() for given in compiled.inputs]  # not all: some models need no mask
    names = [output.get_any_name() for output in compiled.outputs]
    lock = threading.Lock()

    def classify(batch: Mapping[str, np.ndarray]) -> Outputs:
        with lock:
            try:
                request.infer({name: batch[name] for name in inputs}, share_inputs=True)
            except (RuntimeError, MemoryError) as error:
                raise BatchError(_reason(str(error))) from error
            return {name: request.get_tensor(name).data.copy() for name in names}

    return classify


def processor_precisions() -> tuple[str, ...]:
    """Returns the precisions in which this machine's processor computes, by openvino.

    Raises:
        UserError: openvino is not installed.
    """
    return _precisions(import_openvino(_PURPOSE).Core())


def _precisions(core: Any) -> tuple[str, ...]:
    """bfloat16 would run everywhere, slower than float32 where the processor has no instructions for it."""
    return ("f32", "bf16") if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


def _reason(message: str) -> str:
    """Returns the last line of an openvino error, which says what is wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "the model failed"
