"""The paired bootstrap, against plain loops and against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from model.evaluation.bootstrap import SliceComparison, compare_slices, paired_bootstrap


def some_predictions(
    documents: int, *, first: float, second: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns truth, two models' labels with these accuracies, and the documents, of 1 to 12 sentences each."""
    random = np.random.default_rng(seed)
    of_sentence = np.repeat(np.arange(documents), random.integers(1, 13, documents))
    truth = random.integers(0, 4, len(of_sentence))
    given = [
        np.where(random.random(len(truth)) < accuracy, truth, (truth + random.integers(1, 4, len(truth))) % 4)
        for accuracy in (first, second)
    ]
    return truth, given[0], given[1], of_sentence


def test_the_draws_are_those_of_a_plain_loop() -> None:
    truth, first, second, documents = some_predictions(40, first=0.8, second=0.6)
    found = paired_bootstrap(truth, first, second, documents=documents, samples=60, confidence=0.9, seed=5)
    weights = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=60)
    drawn = []
    for times in weights:
        chosen = np.repeat(np.arange(len(truth)), times[documents])
        drawn.append(
            [
                figure(truth[chosen], first[chosen]) - figure(truth[chosen], second[chosen])
                for figure in (accuracy_score, lambda *pair: f1_score(*pair, average="macro"))
            ]
        )
    for interval, values in ((found.accuracy, np.array(drawn)[:, 0]), (found.macro_f1, np.array(drawn)[:, 1])):
        assert interval.low == pytest.approx(np.quantile(values, 0.05))
        assert interval.high == pytest.approx(np.quantile(values, 0.95))
    assert found.accuracy.difference == pytest.approx(accuracy_score(truth, first) - accuracy_score(truth, second))
    macro = [f1_score(truth, given, average="macro") for given in (first, second)]
    assert found.macro_f1.difference == pytest.approx(macro[0] - macro[1])
    assert (found.documents, found.samples, found.confidence) == (40, 60, 0.9)


def test_a_model_does_not_differ_from_itself() -> None:
    truth, first, _, documents = some_predictions(30, first=0.7, second=0.7)
    found = paired_bootstrap(truth, first, first, documents=documents, samples=100)
    assert (found.accuracy.low, found.accuracy.difference, found.accuracy.high) == (0, 0, 0)


def test_the_order_of_the_models_and_the_seed() -> None:
    truth, first, second, documents = some_predictions(50, first=0.9, second=0.7)
    one = paired_bootstrap(truth, first, second, documents=documents, samples=300)
    other = paired_bootstrap(truth, second, first, documents=documents, samples=300)
    assert one.accuracy.low == pytest.approx(-other.accuracy.high)
    assert one == paired_bootstrap(truth, first, second, documents=documents, samples=300)
    assert one.accuracy.low > 0.1 and other.accuracy.high < -0.1


def test_the_interval_covers_the_true_difference() -> None:
    """Of many data sets with a true difference of 0.1, about nine in ten have it in their 90 % interval."""
    covered = 0
    for seed in range(100):
        truth, first, second, documents = some_predictions(60, first=0.8, second=0.7, seed=seed)
        found = paired_bootstrap(truth, first, second, documents=documents, samples=400, confidence=0.9)
        covered += found.accuracy.low <= 0.1 <= found.accuracy.high
    assert 80 <= covered <= 97


def test_blocks_of_draws_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, first, second, documents = some_predictions(40, first=0.8, second=0.6)
    whole = paired_bootstrap(truth, first, second, documents=documents, samples=100)
    monkeypatch.setattr("model.evaluation.bootstrap._CELLS_A_BLOCK", 40 * 7)
    assert paired_bootstrap(truth, first, second, documents=documents, samples=100) == whole


def test_slices() -> None:
    documents = np.array([0, 0, 1, 2, 2, 2])
    first = np.array([True, True, False, True, True, False])
    second = np.array([True, False, True, True, True, True])
    assert compare_slices(first, second, documents=documents, slices=["b", "a", "b"]) == (
        SliceComparison("a", 1, 0.0, 1.0),
        SliceComparison("b", 2, 0.8, 0.8),
    )
