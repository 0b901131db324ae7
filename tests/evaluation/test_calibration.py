"""Calibration on probabilities whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from model.evaluation.calibration import expected_calibration_error, fit_temperature


def test_error_by_hand() -> None:
    # Bins of 1/15: 0.50 and 0.52 share one (7), 0.95 is alone (14), 1.0 goes into the last (14) too.
    confidences = np.array([0.50, 0.52, 0.95, 1.0])
    correct = np.array([True, False, True, False])
    expected = (abs(1.02 - 1) + abs(1.95 - 1)) / 4
    assert expected_calibration_error(confidences, correct) == pytest.approx(expected)


def test_honest_probabilities_have_little_error() -> None:
    draw = np.random.default_rng(0)
    confidences = draw.uniform(0.3, 1, 100_000)
    honest = draw.random(100_000) < confidences
    assert expected_calibration_error(confidences, honest) < 0.01
    assert expected_calibration_error(np.minimum(confidences + 0.2, 1), honest) > 0.1


def test_temperature_is_found_again() -> None:
    """Labels drawn at temperature 2.5 are most likely at 2.5."""
    draw = np.random.default_rng(1)
    logits = draw.normal(0, 4, (20_000, 4))
    probabilities = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) < draw.random((len(logits), 1))).sum(1).clip(max=3)

    def negative_log_likelihood(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.sum(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]))

    assert fit_temperature(negative_log_likelihood) == pytest.approx(2.5, rel=0.05)


def test_one_sentence_and_none() -> None:
    assert expected_calibration_error(np.array([0.75]), np.array([True])) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([0.75]), np.array([False])) == pytest.approx(0.75)
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_fifteen_bins_of_equal_width() -> None:
    """Neighbours in one bin even out; those in two bins do not. 7/15 is 0.4667, and 1 belongs to the last bin."""
    correct = np.array([True, False])
    assert expected_calibration_error(np.array([0.47, 0.53]), correct) == pytest.approx(0)
    assert expected_calibration_error(np.array([0.46, 0.47]), correct) == pytest.approx((0.54 + 0.47) / 2)
    assert expected_calibration_error(np.array([1.0, 0.94]), correct) == pytest.approx(0.94 / 2)


@pytest.mark.parametrize(
    ("best", "found"), [(0.25, 0.25), (1.0, 1.0), (3.0, 3.0), (100.0, np.exp(3)), (1e-4, np.exp(-3))]
)
def test_the_temperature_is_the_best_one_within_its_bounds(best: float, found: float) -> None:
    temperature = fit_temperature(lambda tried: float((np.log(tried) - np.log(best)) ** 2))
    assert temperature == pytest.approx(found, rel=1e-4)
