"""How far a converted model agrees with TensorFlow's on the same windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.inference.kinds import Classify, Outputs
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.records import EncodedWindow


def run_owned(classify: Classify, windows: Sequence[EncodedWindow], *, pad_id: int) -> Outputs:
    """Returns a classifier's outputs for all sentences of some documents in order, `[sentences, ...]` by name.

    Args:
        classify: the classifier.
        windows: of whole documents, at least one.
        pad_id: the vocabulary's `[PAD]`.
    """
    return take_owned((one.window for one in windows), Predictor(classify, pad_id=pad_id).run(windows))


def measure_agreement(reference: Outputs, others: Mapping[str, Outputs]) -> dict[str, Any]:
    """Returns how the outputs of some classifiers differ from those of a reference, as JSON values.

    Args:
        reference: of TensorFlow's classifier.
        others: of other classifiers for the same sentences, by precision.

    Returns:
        `sentences`, and by precision `differing_labels`, the number of sentences with another label (not for scores),
        and `largest_difference` of a probability or score.
    """
    values = "scores" if "scores" in reference else "probabilities"
    found: dict[str, Any] = {"sentences": len(reference[values])}
    for precision, outputs in others.items():
        differences: dict[str, Any] = {}
        if values == "probabilities":
            differences["differing_labels"] = int(np.count_nonzero(outputs["label_ids"] != reference["label_ids"]))
        differences["largest_difference"] = float(np.abs(outputs[values] - reference[values]).max())
        found[precision] = differences
    return found
