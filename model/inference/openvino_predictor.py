"""Runs the model for OpenVINO that a bundle may have, on the processor and without TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from model.bundles.bundle import OPENVINO_INT8_MODEL, OPENVINO_MODEL, Bundle
from model.errors import JobFailure, UserError
from model.extras import import_openvino
from model.inference.choice import has_int8
from model.inference.kinds import BatchError, Classify, Outputs, Tokenize
from model.threads import given_threads

_PURPOSE = "the predictor openvino"
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
"""Instructions that add products of int8 exactly; earlier ones can overflow."""


class OpenVinoPredictor:
    """A `PredictorKind`. It imports openvino when it loads something, not before."""

    modules = ("model.inference.openvino_imports",)
    packages = ("openvino", "tokenizers")

    def examine(self, bundle: Bundle) -> tuple[str, ...]:
        """Returns what the processor computes in. Converted models have no operations that do more than compute."""
        return tuple(each for each in processor_precisions() if each != "int8" or has_int8(bundle.openvino))

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
        file = OPENVINO_INT8_MODEL if precision == "int8" else OPENVINO_MODEL
        return compile_model(core, core.read_model(bundle.path / file), precision)


def compile_model(core: Any, model: Any, precision: str) -> Classify:
    """Returns a function that runs an `openvino.Model`; threads may share it, but take turns.

    What a model in int8 doesn't compute in int8, it computes in float32: bfloat16 is hardly faster there.
    """
    threads = given_threads()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
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
    """Returns the precisions in which this machine's processor computes, the fastest first.

    Raises:
        UserError: openvino is not installed.
    """
    return _precisions(import_openvino(_PURPOSE).Core())


def _precisions(core: Any) -> tuple[str, ...]:
    return order_precisions(_processor_flags(), core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def order_precisions(flags: Set[str], capabilities: Sequence[str]) -> tuple[str, ...]:
    """Returns the precisions that a processor has instructions for, the fastest first.

    The others would run, too, but slower than float32.

    Args:
        flags: of the processor, by Linux.
        capabilities: by openvino, which names int8 among those of every processor.
    """
    found = ["f32"]
    if "BF16" in capabilities:
        found.insert(0, "bf16")
    if flags & _VNNI:
        # Where the processor multiplies whole matrices, int8 saves less than quantizing activations takes.
        found.insert(1 if found[0] == "bf16" and "amx_bf16" in flags else 0, "int8")
    return tuple(found)


@cache
def _processor_flags() -> frozenset[str]:
    """Returns what Linux says of the processor's instructions; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())


def _reason(message: str) -> str:
    """Returns the last line of an openvino error, which says what is wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "the model failed"
