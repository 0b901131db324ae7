"""The ways to run a bundle, behind one interface, and which of them a job uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from model.bundles.bundle import Bundle

Outputs = Mapping[str, np.ndarray]
"""A bundle's outputs by name: `probabilities` `[..., labels]` and `label_ids`, or `scores`."""

Classify = Callable[[Mapping[str, np.ndarray]], Outputs]
"""From the arrays of `schema.classify_signature` to outputs `[batch, sentences, ...]`; raises `BatchError`."""

Tokenize = Callable[[Sequence[str]], list[np.ndarray]]
"""From sentences to the wordpiece ids of each, int32 `[tokens]`, without special tokens."""


class BatchError(Exception):
    """The classifier could not run a micro-batch: it is out of memory, or can't handle a value."""


class PredictorKind(Protocol):
    """One way to run bundles. The same bundle, precision and arrays give the same bits, in any number of threads.

    Attributes:
        modules: what a process should have loaded before it forks others that run bundles.
        packages: those on whose versions the bytes of predictions depend; the first one runs the bundle.
    """

    modules: Sequence[str]
    packages: Sequence[str]

    def examine(self, bundle: Bundle) -> tuple[str, ...]:
        """Returns the precisions in which this machine can run the bundle, the fastest first.

        Raises:
            UserError: the bundle is not trusted, or the predictor is not installed.
        """
        ...

    def open_tokenizer(self, bundle: Bundle) -> Tokenize:
        """Returns the bundle's tokenizer."""
        ...

    def load(self, bundle: Bundle, precision: str) -> Classify:
        """Loads the bundle's classifier into this process; threads may share it.

        Raises:
            UserError: the bundle is not trusted.
            JobFailure: it can't be run here.
        """
        ...


_KINDS = {
    "tensorflow": "model.inference.tensorflow_predictor:TensorFlowPredictor",
    "openvino": "model.inference.openvino_predictor:OpenVinoPredictor",
}


@dataclass(frozen=True, slots=True)
class PredictorChoice:
    """What runs a job's bundle: chosen once, and the same for all of the job's workers.

    Attributes:
        name: of the predictor.
        precision: in which it computes.
    """

    name: str = "tensorflow"
    precision: str = "f32"

    def kind(self) -> PredictorKind:
        """Returns the predictor; neither TensorFlow nor another library is loaded for that."""
        module, _, name = _KINDS[self.name].partition(":")
        kind: PredictorKind = getattr(import_module(module), name)()
        return kind

    def versions(self) -> dict[str, str]:
        """Returns the versions of the predictor's packages, by name."""
        return {package: _version(package) for package in self.kind().packages}

    def identity(self) -> dict[str, str]:
        """Returns name and precision as JSON values."""
        return asdict(self)

    def describe(self) -> dict[str, Any]:
        """Returns name, version and precision as JSON values."""
        return {"name": self.name, "version": _version(self.kind().packages[0]), "precision": self.precision}

    def describe_in_words(self) -> str:
        """Returns the same as text, such as `openvino 2026.4.1 in bf16`."""
        return "{name} {version} in {precision}".format(**self.describe())


@cache
def _version(package: str) -> str:
    return version(package)


TENSORFLOW = PredictorChoice()
