"""How far a converted model agrees with TensorFlow's on the same windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.inference.kinds import Classify, Outputs
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.records import EncodedWindow


def measure_agreement(
    windows: Sequence[EncodedWindow], reference: Classify, others: Mapping[str, Classify], *, pad_id: int
) -> dict[str, Any]:
    """Returns how each of some classifiers differs from a reference, as JSON values.

    Args:
        windows: of whole documents, at least one.
        reference: TensorFlow's classifier.
        others: classifiers by precision.
        pad_id: the vocabulary's `[PAD]`.

    Returns:
        `sentences`, and by precision `differing_labels`, the number of sentences with another label (not for scores),
        and `largest_difference` of a probability or score.
    """

    def run(classify: Classify) -> Outputs:
        return take_owned((one.window for one in windows), Predictor(classify, pad_id=pad_id).run(windows))

    expected = run(reference)
    values = "scores" if "scores" in expected else "probabilities"
    found: dict[str, Any] = {"sentences": len(expected[values])}
    for precision, classify in others.items():
        outputs = run(classify)
        differences: dict[str, Any] = {}
        if values == "probabilities":
            differences["differing_labels"] = int(np.count_nonzero(outputs["label_ids"] != expected["label_ids"]))
        differences["largest_difference"] = float(np.abs(outputs[values] - expected[values]).max())
        found[precision] = differences
    return found
