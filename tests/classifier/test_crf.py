"""The CRF against the enumeration of every path, on small chains with holes in them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.classifier.crf import Potentials, best_path, log_likelihood, log_partition, marginals

LABELS = 3


def chains(seed: int, *, batch: int = 6, sentences: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray, Potentials]:
    """Returns emissions, labels, a mask with holes (one row without any sentence), and potentials."""
    draw = np.random.default_rng(seed)
    emissions = draw.normal(0, 2, (batch, sentences, LABELS)).astype(np.float32)
    labels = draw.integers(0, LABELS, (batch, sentences)).astype(np.int32)
    mask = draw.random((batch, sentences)) < 0.7
    mask[0], mask[1], mask[1, 2] = True, False, True
    mask[-1] = False
    sizes = ((LABELS, LABELS), LABELS, LABELS)
    potentials = Potentials(*(draw.normal(0, 1, size).astype(np.float32) for size in sizes))
    return emissions, labels, mask, potentials


def path_score(path: tuple[int, ...], emissions: np.ndarray, potentials: Potentials) -> float:
    """Returns the score of a path over sentences that are all there, in double precision."""
    score = float(potentials.start[path[0]]) + float(potentials.end[path[-1]])
    score += sum(float(emission[label]) for emission, label in zip(emissions, path, strict=True))
    return score + sum(float(potentials.transitions[one, two]) for one, two in itertools.pairwise(path))


def enumerate_paths(emissions: np.ndarray, mask: np.ndarray, potentials: Potentials) -> dict[tuple[int, ...], float]:
    """Returns the score of every path over the present sentences of one row."""
    present = emissions[mask]
    paths = itertools.product(range(LABELS), repeat=len(present))
    return {path: path_score(path, present, potentials) for path in paths}


@pytest.mark.parametrize("seed", range(5))
def test_partition_marginals_and_best_path_equal_enumeration(seed: int) -> None:
    emissions, _, mask, potentials = chains(seed)
    partition = np.asarray(log_partition(emissions, mask, potentials))
    probabilities = np.asarray(marginals(emissions, mask, potentials))
    best = np.asarray(best_path(emissions, mask, potentials))
    for row in range(len(emissions)):
        places = np.flatnonzero(mask[row])
        absent = np.flatnonzero(~mask[row])
        assert not best[row, absent].any() and not probabilities[row, absent].any()
        if not len(places):
            assert partition[row] == 0
            continue
        scores = enumerate_paths(emissions[row], mask[row], potentials)
        total = np.logaddexp.reduce(list(scores.values()))
        assert partition[row] == pytest.approx(total, abs=1e-4)
        expected = np.zeros((len(places), LABELS))
        for path, score in scores.items():
            for place, label in enumerate(path):
                expected[place, label] += np.exp(score - total)
        np.testing.assert_allclose(probabilities[row, places], expected, atol=1e-5)
        assert tuple(best[row, places]) == max(scores, key=lambda path: scores[path])


@pytest.mark.parametrize("seed", range(5))
def test_likelihood_sums_over_what_is_not_observed(seed: int) -> None:
    emissions, labels, mask, potentials = chains(seed)
    observed = mask & (np.random.default_rng(seed + 100).random(mask.shape) < 0.6)
    found = np.asarray(log_likelihood(emissions, labels, observed, mask, potentials))
    for row in range(len(emissions)):
        if not mask[row].any():
            assert found[row] == 0
            continue
        scores = enumerate_paths(emissions[row], mask[row], potentials)
        known = [(place, labels[row, t]) for place, t in enumerate(np.flatnonzero(mask[row])) if observed[row, t]]
        matching = [score for path, score in scores.items() if all(path[place] == label for place, label in known)]
        expected = np.logaddexp.reduce(matching) - np.logaddexp.reduce(list(scores.values()))
        assert found[row] == pytest.approx(expected, abs=1e-4)


def test_gradients_are_finite_and_right() -> None:
    """Every potential's gradient of the likelihood is what a small change of it makes."""
    emissions, labels, mask, potentials = chains(3)
    variables = [tf.Variable(value) for value in (emissions, potentials.transitions, potentials.start, potentials.end)]

    @tf.function
    def loss() -> Any:
        return -tf.reduce_sum(log_likelihood(variables[0], labels, mask, mask, Potentials(*variables[1:])))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, variables)
    draw = np.random.default_rng(0)
    for variable, gradient in zip(variables, gradients, strict=True):
        assert np.isfinite(gradient.numpy()).all()
        direction = draw.normal(size=variable.shape).astype(np.float32)
        before = variable.numpy()
        variable.assign(before + 1e-2 * direction)
        ahead = float(loss())
        variable.assign(before - 1e-2 * direction)
        behind = float(loss())
        variable.assign(before)
        assert (ahead - behind) / 2e-2 == pytest.approx(float(np.sum(gradient * direction)), rel=1e-2, abs=1e-2)
    assert not gradients[0].numpy()[~mask].any()  # padding has no say


def test_huge_potentials_stay_finite() -> None:
    emissions, labels, mask, potentials = chains(4)
    big = Potentials(potentials.transitions * 1e4, potentials.start, potentials.end)
    variable = tf.Variable(emissions * 1e4)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_sum(log_likelihood(variable, labels, mask, mask, big))
    assert np.isfinite(float(loss)) and np.isfinite(tape.gradient(loss, variable).numpy()).all()
    probabilities = np.asarray(marginals(variable, mask, big))
    np.testing.assert_allclose(probabilities[mask].sum(axis=1), 1, atol=1e-5)


def test_padding_changes_nothing() -> None:
    emissions, labels, mask, potentials = chains(5)
    wide_emissions = np.pad(emissions, [(0, 0), (0, 4), (0, 0)], constant_values=9)
    wide_labels, wide_mask = np.pad(labels, [(0, 0), (0, 4)]), np.pad(mask, [(0, 0), (0, 4)])
    for function in (marginals, best_path):
        padded = np.asarray(function(wide_emissions, wide_mask, potentials))
        np.testing.assert_allclose(padded[:, :5], function(emissions, mask, potentials), atol=1e-5)
        assert not padded[:, 5:].any()
    np.testing.assert_allclose(
        log_likelihood(wide_emissions, wide_labels, wide_mask, wide_mask, potentials),
        log_likelihood(emissions, labels, mask, mask, potentials),
        atol=1e-5,
    )


def test_a_factor_scales_every_potential() -> None:
    _, _, _, potentials = chains(6)
    scaled = potentials.scaled(0.5)
    np.testing.assert_array_equal(scaled.transitions, potentials.transitions * np.float32(0.5))
    np.testing.assert_array_equal(scaled.start, potentials.start * np.float32(0.5))
    np.testing.assert_array_equal(scaled.end, potentials.end * np.float32(0.5))
