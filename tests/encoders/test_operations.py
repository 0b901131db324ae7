"""Dropout by bytes, and layer norms: their values and gradients against plain computations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.encoders.operations import Dropout, LayerNorm, gelu


@pytest.mark.parametrize(("rate", "dropped"), [(0.1, 26), (0.02, 5), (0.5, 128)])
def test_dropout_drops_its_share_and_scales_the_rest(rate: float, dropped: int) -> None:
    keras.utils.set_random_seed(1)
    layer = Dropout(rate)
    draw = tf.function(lambda states: layer(states, training=True), input_signature=[tf.TensorSpec([None, 3, None])])
    found = np.stack([draw(tf.ones([11, 3, 1001])).numpy() for _ in range(30)])  # 33,033 numbers: not a multiple of 4
    assert np.unique(found).tolist() == pytest.approx([0.0, 256 / (256 - dropped)])
    share = (found == 0).mean()
    assert abs(share - dropped / 256) < 4 * np.sqrt(rate * (1 - rate) / found.size)
    assert found.mean() == pytest.approx(1.0, abs=0.005)
    flat = (found == 0).reshape(30, -1)
    for distance in (1, 2, 3, 4, 1001):  # within a random number and beyond
        assert abs(np.corrcoef(flat[:, :-distance].ravel(), flat[:, distance:].ravel())[0, 1]) < 0.005
    assert abs(np.corrcoef(flat[0], flat[1])[0, 1]) < 0.03


def test_dropout_follows_its_seed() -> None:
    states = np.ones((64, 8), np.float32)
    first, second = (np.asarray(Dropout(0.3, seed=seed)(states, training=True)) for seed in (5, 5))
    np.testing.assert_array_equal(first, second)
    assert (first != np.asarray(Dropout(0.3, seed=6)(states, training=True))).any()


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_dropout_of_nothing(rate: float) -> None:
    layer = Dropout(rate)
    states = np.ones((64, 64), np.float32)
    np.testing.assert_array_equal(layer(states, training=True), states)
    assert layer.scale == 1.0


def test_dropout_acts_in_training_only() -> None:
    states = np.ones((64, 64), np.float32)
    np.testing.assert_array_equal(Dropout(0.5)(states), states)
    np.testing.assert_array_equal(Dropout(0.5)(states, training=False), states)


def test_a_gradient_passes_where_a_state_does() -> None:
    states, layer = tf.ones([50, 8]), Dropout(0.25)
    with tf.GradientTape() as tape:
        tape.watch(states)
        found = layer(states, training=True)
    np.testing.assert_array_equal(tape.gradient(found, states), found)


def test_gradient_of_a_softmax_with_dropout() -> None:
    scores = tf.constant(np.random.default_rng(4).normal(size=(3, 2, 5, 7)), tf.float32)
    given = tf.constant(np.random.default_rng(5).normal(size=scores.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        found = Dropout(0.25, seed=7).masked_softmax(scores)
    share = (np.asarray(found) == 0).mean()
    assert 0.1 < share < 0.4
    with tf.GradientTape() as plain:
        plain.watch(scores)
        expected = tf.nn.softmax(scores) * tf.cast(found != 0, tf.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    gradient = tape.gradient(found, scores, output_gradients=given)
    np.testing.assert_allclose(gradient, plain.gradient(expected, scores, output_gradients=given), atol=1e-6)
    np.testing.assert_allclose(Dropout(0.0).masked_softmax(scores), tf.nn.softmax(scores), atol=1e-6)


def layer_norm(width: int) -> tuple[LayerNorm, np.random.Generator]:
    layer, draw = LayerNorm(epsilon=1e-12), np.random.default_rng(3)
    layer.build((None, width))
    layer.set_weights([draw.normal(size=width), draw.normal(size=width)])
    return layer, draw


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_layer_norm(training: bool, rows: int) -> None:
    layer, draw = layer_norm(24)
    states = draw.normal(2.0, 3.0, size=(rows, 24)).astype(np.float32)
    centred = states - states.mean(-1, keepdims=True, dtype=float)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True)) * layer.gamma.numpy() + layer.beta.numpy()
    np.testing.assert_allclose(layer(states, training=training), expected, atol=2e-6)


def gradients(function: Any, *values: Any) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        for value in values:
            tape.watch(value)
        total = tf.reduce_sum(function() * tf.cast(tf.range(24), function().dtype))
    return [np.asarray(gradient) for gradient in tape.gradient(total, values)]


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_layer_norm(training: bool) -> None:
    layer, draw = layer_norm(24)
    states = tf.constant(draw.normal(2.0, 3.0, size=(5, 24)), tf.float32)
    found = gradients(lambda: layer(states, training=training), states, layer.gamma.value, layer.beta.value)
    wide = [tf.cast(value, tf.float64) for value in (states, layer.gamma.value, layer.beta.value)]

    def plain() -> tf.Tensor:
        x, gamma, beta = wide
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance) * gamma + beta

    for one, expected in zip(found, gradients(plain, *wide), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_gelu_and_its_gradient(tanh: bool, training: bool) -> None:
    states = tf.linspace(-6.0, 6.0, 401)
    wide = tf.cast(states, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([states, wide])
        found, expected = gelu(states, tanh=tanh, training=training), tf.nn.gelu(wide, approximate=tanh)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    np.testing.assert_allclose(tape.gradient(found, states), tape.gradient(expected, wide), atol=5e-6)
