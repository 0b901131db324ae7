"""The rule for documents of several windows: a sentence's value comes from the window that owns the sentence.

Other windows show the sentence only as context. Scoring, evaluation, calibration and retraining all use this function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from model.records import Window


def take_owned(windows: Iterable[Window], values: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the values of all sentences in order, `[sentences, ...]` by name, each from the window that owns it.

    Args:
        windows: the windows of one document in order, or of several documents one after another; at least one.
        values: for each window, `[sentences, ...]` by name, context included. Rows of padding after the sentences that
            the window shows are ignored.
    """
    owned: dict[str, list[np.ndarray]] = {}
    for window, shown in zip(windows, values, strict=True):
        for name, rows in shown.items():
            owned.setdefault(name, []).append(rows[window.owned])
    return {name: np.concatenate(rows) for name, rows in owned.items()}
