"""Calibration of probabilities: the expected calibration error, and the temperature that reduces it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_BINS = 15
_LOG_TEMPERATURES = (-3.0, 3.0)


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Returns the mean difference of confidence and accuracy over 15 bins of equal width (Guo et al. 2017).

    Args:
        confidences: `[sentences]`, the probability of each predicted label.
        correct: bool `[sentences]`.
    """
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gaps = np.bincount(bins, confidences, _BINS) - np.bincount(bins, correct.astype(float), _BINS)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def fit_temperature(negative_log_likelihood: Callable[[float], float]) -> float:
    """Returns the temperature with the lowest negative log likelihood (Guo et al., ICML 2017, arXiv 1706.04599).

    Args:
        negative_log_likelihood: of held-out labels, as a function of the temperature that divides the logits.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda logarithm: negative_log_likelihood(float(np.exp(logarithm))), bounds=_LOG_TEMPERATURES, method="bounded"
    )
    return float(np.exp(found.x))
