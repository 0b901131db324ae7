"""The encoder against BERT's forward pass in plain numpy, and what is said of checkpoints that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SPECIAL_TOKENS, TINY_SHAPE, TINY_VOCABULARY, tiny_weights, write_checkpoint
from support.numpy_bert import bert_forward, encode, padded_batch

from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
from model.errors import UserError


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_forward_pass(tmp_path: Path, activation: str) -> None:
    shape = {**TINY_SHAPE, "hidden_act": activation}
    weights = tiny_weights(shape, seed=11)
    folder = write_checkpoint(tmp_path / "bert", shape=shape, weights=weights)
    encoder = open_encoder(EncoderSettings(handle=str(folder))).build()
    token_ids, segment_ids, mask = padded_batch(shape["vocab_size"], (40, 1, 17, 128))
    expected = bert_forward(weights, shape, token_ids, segment_ids, mask)
    np.testing.assert_allclose(encode(encoder, token_ids, segment_ids, mask), expected, atol=1e-5)


def test_the_two_gelus_differ(tmp_path: Path) -> None:
    """Otherwise the test above could not tell them apart."""
    weights = tiny_weights(TINY_SHAPE)
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (20,))
    erf = bert_forward(weights, {**TINY_SHAPE, "hidden_act": "gelu"}, *inputs)
    tanh = bert_forward(weights, {**TINY_SHAPE, "hidden_act": "gelu_new"}, *inputs)
    assert np.abs(erf - tanh).max() > 1e-4


def test_first_layers_only(tiny_encoder: Path) -> None:
    weights = tiny_weights(TINY_SHAPE)
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), layers=1)).build()
    assert len(encoder.transformer_layers) == 1
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    expected = bert_forward(weights, {**TINY_SHAPE, "num_hidden_layers": 1}, *inputs)
    np.testing.assert_allclose(encode(encoder, *inputs), expected, atol=1e-5)


def test_weights_under_a_bert_prefix(tmp_path: Path, tiny_encoder: Path) -> None:
    """As `BertForPreTraining` and its kin save them, with tensors that the encoder has no use for."""
    weights = {f"bert.{name}": tensor for name, tensor in tiny_weights(TINY_SHAPE).items()}
    weights["cls.predictions.bias"] = np.zeros(TINY_SHAPE["vocab_size"], np.float32)
    folder = write_checkpoint(tmp_path / "bert", weights=weights)
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    plain = open_encoder(EncoderSettings(handle=str(tiny_encoder))).build()
    np.testing.assert_array_equal(
        encode(open_encoder(EncoderSettings(handle=str(folder))).build(), *inputs), encode(plain, *inputs)
    )


def test_half_precision_weights(tmp_path: Path) -> None:
    weights = {name: tensor.astype(np.float16) for name, tensor in tiny_weights(TINY_SHAPE).items()}
    folder = write_checkpoint(tmp_path / "bert", weights=weights)
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(EncoderSettings(handle=str(folder))).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(weights, TINY_SHAPE, *inputs), atol=1e-5)


POSITIONS = np.array([[3, 39, 0], [0, 0, 0], [16, 0, 0]], np.int32)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_some_positions_only(tmp_path: Path, activation: str) -> None:
    shape = {**TINY_SHAPE, "hidden_act": activation}
    weights = tiny_weights(shape, seed=11)
    encoder = open_encoder(
        EncoderSettings(handle=str(write_checkpoint(tmp_path / "bert", weights=weights, shape=shape)))
    )
    inputs = padded_batch(shape["vocab_size"], (40, 1, 17))
    expected = np.take_along_axis(bert_forward(weights, shape, *inputs), POSITIONS[:, :, None], axis=1)
    np.testing.assert_allclose(encode(encoder.build(), *inputs, POSITIONS), expected, atol=1e-5)


def test_one_layer_and_no_windows(tiny_encoder: Path) -> None:
    """The only layer is the last one, and batches may be empty: `cls` groups sentences by length."""
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder), layers=1)).build()
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (40, 1, 17))
    whole = bert_forward(tiny_weights(TINY_SHAPE), {**TINY_SHAPE, "num_hidden_layers": 1}, *inputs)
    expected = np.take_along_axis(whole, POSITIONS[:, :, None], axis=1)
    np.testing.assert_allclose(encode(encoder, *inputs, POSITIONS), expected, atol=1e-5)
    nothing = [array[:0] for array in (*inputs, POSITIONS)]
    assert encode(encoder, *nothing).shape == (0, 3, 16)
    assert encode(encoder, *nothing[:3]).shape == (0, 40, 16)


@pytest.mark.parametrize("training", [False, True])
def test_the_last_layer_reads_all_tokens_but_computes_some(tiny_encoder: Path, training: bool) -> None:
    """Products of two dimensions, which take their bias along, and in the last layer with few rows."""
    import tensorflow as tf

    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder))).build()
    inputs = [tf.TensorSpec([2, count], tf.int32) for count in (10, 10, 10, 3)]
    function = tf.function(lambda *given: encoder(*given, training=training), autograph=False)
    graph = function.get_concrete_function(*inputs).graph
    products = [node for node in graph.get_operations() if node.type == "MatMul"]
    rows = [(node.name.split("/")[-2].removesuffix("_1"), node.outputs[0].shape.as_list()) for node in products]
    width, wide = 16, 32
    every, some = (
        [
            ("query", [count, width]),
            ("key", [20, width]),
            ("value", [20, width]),
            ("attention_output", [count, width]),
            ("intermediate", [count, wide]),
            ("output", [count, width]),
        ]
        for count in (20, 6)
    )
    assert rows == every + some
    assert {node.outputs[0].consumers()[0].type for node in products} == {"BiasAdd"}
    assert "Erfc" not in {node.type for node in graph.get_operations()}


def test_padding_never_changes_real_tokens(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder))).build()
    lengths = (2, 7, 23, 64)
    token_ids, segment_ids, mask = padded_batch(TINY_SHAPE["vocab_size"], lengths)
    together = encode(encoder, token_ids, segment_ids, mask)
    for row, length in enumerate(lengths):
        real = slice(0, length)
        alone = encode(encoder, *(array[row : row + 1, real] for array in (token_ids, segment_ids, mask)))
        np.testing.assert_allclose(together[row, real], alone[0], atol=1e-5)


def test_dropout_acts_in_training_only(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder))).build()
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (20,))
    np.testing.assert_array_equal(encode(encoder, *inputs), encode(encoder, *inputs))
    assert np.abs(np.asarray(encoder(*inputs, training=True)) - encode(encoder, *inputs)).max() > 1e-3


def test_attention_dropout_can_be_set(tiny_encoder: Path) -> None:
    assert open_encoder(EncoderSettings(handle=str(tiny_encoder))).build().config.attention_dropout == 0.02
    assert (
        open_encoder(EncoderSettings(handle=str(tiny_encoder), attention_dropout=0.0)).build().config.attention_dropout
        == 0
    )


def test_minilm_forward_pass(minilm: Path) -> None:
    from safetensors.numpy import load_file

    shape = json.loads((minilm / "config.json").read_text(encoding="utf-8"))
    weights = load_file(minilm / "model.safetensors")
    inputs = padded_batch(shape["vocab_size"], (64, 5, 31))
    encoder = open_encoder(EncoderSettings(handle=str(minilm))).build()
    expected = bert_forward(weights, shape, *inputs)
    np.testing.assert_allclose(encode(encoder, *inputs), expected, atol=5e-6)
    positions = np.array([[63, 5, 0], [4, 0, 0], [30, 2, 0]], np.int32)
    expected = np.take_along_axis(expected, positions[:, :, None], axis=1)
    np.testing.assert_allclose(encode(encoder, *inputs, positions), expected, atol=5e-6)


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_encoder(EncoderSettings(handle=str(folder), **settings)).build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent")
    assert str(tmp_path / "absent") in message
    assert "no such folder; give minilm-l6, a BERT checkpoint folder, or the https:// address" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / name).unlink()
    assert f"{folder}: {name} missing" in refusal(folder)
    with pytest.raises(UserError, match=f"{name} missing"):
        open_encoder(EncoderSettings(handle=str(folder)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "roberta"}, ("config.json", "model_type", "'roberta'", "BERT")),
        ({"hidden_act": "relu"}, ("config.json", "hidden_act", "'relu'", "gelu_new")),
        ({"hidden_act": None}, ("config.json", "hidden_act", "None")),
        ({"position_embedding_type": "relative_key"}, ("config.json", "position_embedding_type", "'relative_key'")),
        ({"num_attention_heads": ...}, ("config.json", "num_attention_heads is missing")),
        ({"hidden_size": 24}, ("model.safetensors", "config.json")),
        ({"intermediate_size": 64}, ("model.safetensors", "config.json")),
        ({"num_hidden_layers": 3}, ("model.safetensors", "encoder.layer.2")),
        ({"vocab_size": 7}, ("7",)),
        ({"num_attention_heads": 3}, ("num_attention_heads", "3", "16")),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    shape = {name: value for name, value in {**TINY_SHAPE, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    message = refusal(folder)
    assert str(folder) in message
    assert [word for word in words if word not in message] == []


def test_more_layers_than_there_are(tiny_encoder: Path) -> None:
    assert f"encoder.layers is 3, but {tiny_encoder} has 2 layers" in refusal(tiny_encoder, layers=3)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_unreadable_config(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert str(folder / "config.json") in refusal(folder)


@pytest.mark.parametrize("kept", [0, 5, 2000])
def test_truncated_weights(tmp_path: Path, kept: int) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert f"{weights}: not the weights that config.json describes" in refusal(folder)


@pytest.mark.parametrize("missing", [token for token in SPECIAL_TOKENS if token != "[MASK]"])
def test_vocabulary_without_a_special_token(tmp_path: Path, missing: str) -> None:
    pieces = tuple("x" if piece == missing else piece for piece in TINY_VOCABULARY)
    folder = write_checkpoint(tmp_path / "bert", vocabulary=pieces)
    with pytest.raises(UserError, match="no " + missing.replace("[", r"\[")):
        open_encoder(EncoderSettings(handle=str(folder)))


def test_vocabulary_longer_than_the_embeddings(tmp_path: Path) -> None:
    """Its last pieces would be looked up past the end of the weights."""
    folder = write_checkpoint(tmp_path / "bert", vocabulary=(*TINY_VOCABULARY, "surplus"))
    size = len(TINY_VOCABULARY)
    with pytest.raises(UserError, match=f"{size + 1} wordpieces, its embeddings only {size}"):
        open_encoder(EncoderSettings(handle=str(folder)))


def test_vocabulary_that_is_not_text(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"vocab\.txt"):
        open_encoder(EncoderSettings(handle=str(folder)))


def test_a_config_with_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}), encoding="utf-8")
    with pytest.raises(UserError, match="hidden_size is 'wide'"):
        open_encoder(EncoderSettings(handle=str(folder)))
