"""Layer mixing, frozen layers, precision, and Keras's JAX backend."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT, TINY_SHAPE, tiny_weights
from support.hub_modules import write_hub_bert
from support.numpy_bert import bert_forward, encode, padded_batch
from support.requirements import skip_unless_required
from test_bert import refusal

from model.config import EncoderSettings
from model.encoders.bert import BertConfig, BertEncoder
from model.encoders.encoder import open_encoder


def states_by_layer(*inputs: np.ndarray) -> list[np.ndarray]:
    """Returns what the embeddings and each layer give: a BERT of fewer layers ends where they do."""
    counts = range(TINY_SHAPE["num_hidden_layers"] + 1)
    return [bert_forward(tiny_weights(TINY_SHAPE), {**TINY_SHAPE, "num_hidden_layers": n}, *inputs) for n in counts]


def test_the_mixture_starts_as_the_mean_of_all_layers(tiny_encoder: Path) -> None:
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), mix_layers=True)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), np.mean(states_by_layer(*inputs), axis=0), atol=1e-5)


def test_the_mixture_is_a_scaled_softmax(tiny_encoder: Path) -> None:
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), mix_layers=True)).build()
    assert encoder.mix is not None
    encoder.mix.set_weights([np.array([0.5, -1.0, 2.0]), np.array(1.7)])
    shares = np.exp([0.5, -1.0, 2.0]) / np.exp([0.5, -1.0, 2.0]).sum()
    expected = 1.7 * sum(share * states for share, states in zip(shares, states_by_layer(*inputs), strict=True))
    np.testing.assert_allclose(encode(encoder, *inputs), expected, atol=1e-5)
    positions = np.array([[8, 0], [29, 3]], np.int32)
    expected = np.take_along_axis(expected, positions[:, :, None], axis=1)
    np.testing.assert_allclose(encode(encoder, *inputs, positions), expected, atol=1e-5)


def gradients(encoder: BertEncoder, *inputs: np.ndarray) -> dict[str, bool]:
    """Returns for each weight whether a loss of the last states moves it."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(*inputs, training=True)[:, :, 0] ** 2)
    variables = encoder.trainable_variables
    moved = {variable.path for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True)
             if gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 0}  # fmt: skip
    return {variable.path: variable.path in moved for variable in encoder.weights}


def test_the_mixture_learns(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), mix_layers=True)).build()
    moved = gradients(encoder, *padded_batch(TINY_SHAPE["vocab_size"], (9, 30)))
    assert moved["encoder/mix/logits"] and moved["encoder/mix/scale"]


@pytest.mark.parametrize(
    ("frozen", "parts"),
    [
        (None, set()),
        (0, {"word_embeddings", "position_embeddings", "segment_embeddings", "embeddings_norm"}),
        (1, {"word_embeddings", "position_embeddings", "segment_embeddings", "embeddings_norm", "layer_0"}),
        (2, {"word_embeddings", "position_embeddings", "segment_embeddings", "embeddings_norm", "layer_0", "layer_1"}),
    ],
)
def test_frozen_layers(tiny_encoder: Path, frozen: int | None, parts: set[str]) -> None:
    settings = EncoderSettings(handle=str(tiny_encoder), frozen_layers=frozen, mix_layers=True)
    encoder = open_encoder(settings).build()
    moved = gradients(encoder, *padded_batch(TINY_SHAPE["vocab_size"], (9, 30)))
    still = {path for path, moves in moved.items() if not moves and not path.endswith("key/bias")}
    assert {path.split("/")[1] for path in still} == parts
    assert {path.split("/")[1] for path, moves in moved.items() if moves} & parts == set()
    assert len(encoder.weights) == 5 + 2 * 16 + 2


def test_dropout_acts_in_frozen_layers_too(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), frozen_layers=2)).build()
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (20,))
    assert np.abs(np.asarray(encoder(*inputs, training=True)) - encode(encoder, *inputs)).max() > 1e-3


def test_more_frozen_layers_than_there_are(tiny_encoder: Path) -> None:
    message = refusal(tiny_encoder, frozen_layers=2, layers=1)
    assert message == "encoder.frozen_layers is 2, but the encoder has 1 layers"


def test_settings_survive_serialization(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), frozen_layers=1, mix_layers=True)).build()
    again = BertEncoder.from_config(encoder.get_config())
    again.build()
    assert (again.mix_layers, again.frozen_layers, again.config) == (True, 1, encoder.config)
    again.set_weights(encoder.get_weights())
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    np.testing.assert_array_equal(encode(again, *inputs), encode(encoder, *inputs))


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.15)], indirect=["policy"]
)
@pytest.mark.parametrize("mix_layers", [False, True])
def test_half_precision(tiny_encoder: Path, policy: str, tolerance: float, mix_layers: bool) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), mix_layers=mix_layers)).build()
    assert {variable.dtype for variable in encoder.trainable_variables} == {"float32"}
    token_ids, segment_ids, mask = padded_batch(TINY_SHAPE["vocab_size"], (40, 1, 17, 64))
    mask[3] = 0  # a window of nothing but padding
    states = encoder(token_ids, segment_ids, mask, training=False)
    assert states.dtype == ("float32" if mix_layers else policy.removeprefix("mixed_"))
    states = np.asarray(tf.cast(states, tf.float32))
    assert np.isfinite(states).all()
    every = states_by_layer(token_ids[:3], segment_ids[:3], mask[:3])
    expected = np.mean(every, axis=0) if mix_layers else every[-1]
    assert np.abs(states[:3] - expected)[mask[:3] == 1].max() < tolerance
    other = np.where(mask == 1, token_ids, (token_ids + 7) % TINY_SHAPE["vocab_size"]).astype(np.int32)
    again = np.asarray(tf.cast(encoder(other, segment_ids, mask, training=False), tf.float32))
    np.testing.assert_array_equal(again[mask == 1], states[mask == 1])


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_large_scores_in_half_precision(policy: str) -> None:
    """Products of queries and keys that only fit into float16 once they are scaled."""
    encoder = BertEncoder(BertConfig(9, width=64, layers=1, heads=1, intermediate_width=8, positions=8))
    encoder.build()
    layer = encoder.transformer_layers[0]
    for dense in (layer.query, layer.key):
        dense.set_weights([np.eye(64) * 45, np.zeros(64)])
    inputs = padded_batch(9, (8, 3))
    assert np.isfinite(encode(encoder, *inputs).astype(np.float32)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_a_module_is_read_under_a_policy_of_half_precision(policy: str, tmp_path: Path) -> None:
    """Its copy is compared with it in full precision."""
    weights = tiny_weights(TINY_SHAPE)
    encoder = open_encoder(EncoderSettings(handle=str(write_hub_bert(tmp_path / "bert", weights)))).build()
    assert {layer.compute_dtype for layer in encoder._flatten_layers()} == {"bfloat16"}
    np.testing.assert_array_equal(encoder.get_weights()[0], weights["embeddings.word_embeddings.weight"])


JAX = """
import sys
import numpy as np, keras
from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
assert keras.backend.backend() == "jax"
folder, inputs, outputs = sys.argv[1:]
inputs = np.load(inputs)
arrays = [inputs[name] for name in ("token_ids", "segment_ids", "mask")]
encoder = open_encoder(EncoderSettings(handle=folder)).build()
mixed = open_encoder(EncoderSettings(handle=folder, mix_layers=True, frozen_layers=1)).build()
positions = np.array([[39, 0], [0, 0], [16, 3]], np.int32)
np.savez(outputs, plain=encoder(*arrays, training=False), some=encoder(*arrays, positions, training=False),
         mixed=mixed(*arrays, training=False),
         dropped=encoder(*arrays, training=True))
"""


@pytest.mark.engines
def test_the_same_under_jax(tiny_encoder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("jax") is None:
        skip_unless_required("jax", "jax is not installed")
    token_ids, segment_ids, mask = padded_batch(TINY_SHAPE["vocab_size"], (40, 1, 17))
    np.savez(tmp_path / "inputs.npz", token_ids=token_ids, segment_ids=segment_ids, mask=mask)
    command = [sys.executable, "-c", JAX, str(tiny_encoder), str(tmp_path / "inputs.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, "KERAS_BACKEND": "jax"}, check=True)
    outputs, expected = np.load(tmp_path / "out.npz"), states_by_layer(token_ids, segment_ids, mask)
    np.testing.assert_allclose(outputs["plain"], expected[-1], atol=1e-5)
    np.testing.assert_allclose(outputs["some"], expected[-1][[[0], [1], [2]], [[39, 0], [0, 0], [16, 3]]], atol=1e-5)
    np.testing.assert_allclose(outputs["mixed"], np.mean(expected, axis=0), atol=1e-5)
    assert np.abs(outputs["dropped"] - outputs["plain"]).max() > 1e-3
