"""Runs a bundle's SavedModel with TensorFlow, in float32."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from model.bundles.bundle import Bundle
from model.inference.kinds import BatchError, Classify, Outputs, Tokenize
from model.threads import given_threads


class TensorFlowPredictor:
    """A `PredictorKind`. It imports TensorFlow when it loads something, not before."""

    modules = ("model.text.tokenization",)
    packages = ("tensorflow", "tensorflow-text")

    def examine(self, bundle: Bundle) -> tuple[str, ...]:
        """Checks that the bundle's graph only computes."""
        bundle.check_graph()
        return ("f32",)

    def open_tokenizer(self, bundle: Bundle) -> Tokenize:
        """Returns the tokenizer of tf.text, which is also in the bundle."""
        _use_given_threads()
        from model.text.tokenization import Tokenizer

        return Tokenizer(bundle.vocabulary, mask_outliers=bundle.mask_outliers).ids

    def load(self, bundle: Bundle, precision: str) -> Classify:
        """Loads the SavedModel, whose signature `classify` is run.

        Raises:
            UserError: its graph can do more than compute, and it is not trusted.
        """
        assert precision == "f32"
        bundle.check_graph()
        return load_signature(bundle.path)


def load_signature(folder: Path) -> Classify:
    """Returns the signature `classify` of a SavedModel that may be run; threads may share it."""
    _use_given_threads()
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the operations of the tokenizer in the SavedModel

    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):  # TensorFlow has run already
            tf.config.experimental.set_memory_growth(gpu, True)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["classify"]

    def classify(batch: Mapping[str, np.ndarray]) -> Outputs:
        # The signature has only weak references to its variables; `loaded` keeps them alive.
        assert loaded is not None
        try:
            outputs = signature(**{name: tf.constant(array) for name, array in batch.items()})
            return {name: output.numpy() for name, output in outputs.items()}
        except (tf.errors.OpError, MemoryError) as error:
            raise BatchError(_reason(str(error))) from error

    return classify


def _use_given_threads() -> None:
    threads = given_threads()
    if threads is not None:
        import tensorflow as tf

        with suppress(RuntimeError):  # it has run already, with this number
            tf.config.threading.set_intra_op_parallelism_threads(threads)


def _reason(message: str) -> str:
    """Returns the message of a TensorFlow error in one line, without traces and function names, which vary."""
    said = re.split(r"\s*\[\[\{\{|\s*\[Op:", message)[0].strip()
    return said.rpartition("\n")[2] or "the model failed"
