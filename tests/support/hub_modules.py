"""SavedModels with the interface of TF Hub's text encoders, as their own exporters write them, but tiny.

One is BERT in plain TensorFlow under Google's variable names, the other has an architecture of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from conftest import TINY_SHAPE, TINY_VOCABULARY

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")


def google_weights(weights: Mapping[str, np.ndarray], shape: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the weights of `conftest.tiny_weights` by Google's names and in Google's shapes, with a pooler."""
    width, heads = shape["hidden_size"], shape["num_attention_heads"]
    size = width // heads
    named = {
        "word_embeddings/embeddings": weights["embeddings.word_embeddings.weight"],
        "position_embedding/embeddings": weights["embeddings.position_embeddings.weight"],
        "type_embeddings/embeddings": weights["embeddings.token_type_embeddings.weight"],
        "embeddings/layer_norm/gamma": weights["embeddings.LayerNorm.weight"],
        "embeddings/layer_norm/beta": weights["embeddings.LayerNorm.bias"],
    }
    for index in range(shape["num_hidden_layers"]):
        theirs, ours = f"encoder.layer.{index}", f"transformer/layer_{index}"
        for name in ("query", "key", "value"):
            kernel = weights[f"{theirs}.attention.self.{name}.weight"].T
            named[f"{ours}/self_attention/{name}/kernel"] = kernel.reshape(width, heads, size)
            bias = weights[f"{theirs}.attention.self.{name}.bias"]
            named[f"{ours}/self_attention/{name}/bias"] = bias.reshape(heads, size)
        kernel = weights[f"{theirs}.attention.output.dense.weight"].T
        named[f"{ours}/self_attention/attention_output/kernel"] = kernel.reshape(heads, size, width)
        named[f"{ours}/self_attention/attention_output/bias"] = weights[f"{theirs}.attention.output.dense.bias"]
        for name in ("intermediate", "output"):
            named[f"{ours}/{name}/kernel"] = weights[f"{theirs}.{name}.dense.weight"].T
            named[f"{ours}/{name}/bias"] = weights[f"{theirs}.{name}.dense.bias"]
        for norm, name in (("attention.output", "self_attention_layer_norm"), ("output", "output_layer_norm")):
            named[f"{ours}/{name}/gamma"] = weights[f"{theirs}.{norm}.LayerNorm.weight"]
            named[f"{ours}/{name}/beta"] = weights[f"{theirs}.{norm}.LayerNorm.bias"]
    named["pooler_transform/kernel"] = np.eye(width, dtype=np.float32)
    named["pooler_transform/bias"] = np.zeros(width, np.float32)
    return named


def write_hub_module(
    folder: Path,
    weights: Mapping[str, np.ndarray],
    encode: Any,
    *,
    vocabulary: tuple[str, ...] = TINY_VOCABULARY,
    lower_case: bool | None = True,
    asset: str = "vocab.txt",
) -> Path:
    """Exports a text encoder and returns its folder.

    Args:
        folder: of the SavedModel.
        weights: its variables by name.
        encode: computes the sequence output, `encode(variables by name, inputs, training)`.
        vocabulary: of its asset.
        lower_case: the value of its variable `do_lower_case`; None for a module without one.
        asset: the name of the vocabulary's file.
    """
    folder.mkdir(parents=True)
    (folder.parent / asset).write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    variables = {name: tf.Variable(value, name=name) for name, value in weights.items()}

    def run(inputs: Mapping[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        states = encode(variables, inputs, training)
        pooled = states[:, 0]
        if "pooler_transform/kernel" in variables:
            kernel, bias = variables["pooler_transform/kernel"], variables["pooler_transform/bias"]
            pooled = tf.tanh(tf.matmul(pooled, kernel) + bias)
        return {"sequence_output": states, "pooled_output": pooled, "default": pooled}

    root: Any = tf.train.Checkpoint()
    root.__call__ = tf.function(lambda inputs, training=None: run(inputs, bool(training)))
    root.variables = root.trainable_variables = list(variables.values())
    root.regularization_losses = []
    root.vocab_file = tf.saved_model.Asset(str(folder.parent / asset))
    if lower_case is not None:
        root.do_lower_case = tf.Variable(lower_case, trainable=False, name="do_lower_case")
    specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in INPUTS}
    for training in (False, True):
        root.__call__.get_concrete_function(specs, training=training)
    serve = tf.function(lambda **inputs: run(inputs, False)).get_concrete_function(**specs)
    tf.saved_model.save(root, str(folder), signatures=serve)
    return folder


def write_hub_bert(
    folder: Path, weights: Mapping[str, np.ndarray], *, shape: Mapping[str, Any] = TINY_SHAPE, **options: Any
) -> Path:
    """Exports BERT with the weights of `conftest.tiny_weights`."""
    norm_first, prefix = options.pop("norm_first", False), options.pop("prefix", "")
    named = {f"{prefix}{name}": value for name, value in google_weights(weights, shape).items()}
    rate = shape["hidden_dropout_prob"]

    def encode(prefixed: Mapping[str, tf.Variable], inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        variables = {name.removeprefix(prefix): variable for name, variable in prefixed.items()}

        def normalize(name: str, states: tf.Tensor) -> tf.Tensor:
            mean, variance = tf.nn.moments(states, -1, keepdims=True)
            gamma, beta = variables[f"{name}/gamma"], variables[f"{name}/beta"]
            return tf.nn.batch_normalization(states, mean, variance, beta, gamma, shape["layer_norm_eps"])

        def project(equation: str, name: str, states: tf.Tensor) -> tf.Tensor:
            return tf.einsum(equation, states, variables[f"{name}/kernel"]) + variables[f"{name}/bias"]

        def drop(states: tf.Tensor) -> tf.Tensor:
            return tf.nn.dropout(states, rate) if training else states

        tokens = tf.shape(inputs["input_word_ids"])[1]
        states = tf.gather(variables["word_embeddings/embeddings"], inputs["input_word_ids"])
        states += variables["position_embedding/embeddings"][:tokens]
        states += tf.gather(variables["type_embeddings/embeddings"], inputs["input_type_ids"])
        states = drop(normalize("embeddings/layer_norm", states))
        bias = tf.cast(1 - inputs["input_mask"], tf.float32)[:, None, None, :] * -1e9
        for index in range(shape["num_hidden_layers"]):
            layer = f"transformer/layer_{index}"
            read = normalize(f"{layer}/self_attention_layer_norm", states) if norm_first else states
            query, key, value = (
                tf.transpose(project("btw,whs->bths", f"{layer}/self_attention/{name}", read), [0, 2, 1, 3])
                for name in ("query", "key", "value")
            )
            scores = tf.matmul(query, key, transpose_b=True) / np.sqrt(query.shape[-1])
            mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores + bias), value), [0, 2, 1, 3])
            attended = drop(project("bths,hsw->btw", f"{layer}/self_attention/attention_output", mixed))
            states += attended
            if not norm_first:
                states = normalize(f"{layer}/self_attention_layer_norm", states)
            expanded = tf.nn.gelu(
                project("btw,wi->bti", f"{layer}/intermediate", states), shape["hidden_act"] != "gelu"
            )
            states += drop(project("bti,iw->btw", f"{layer}/output", expanded))
            states = normalize(f"{layer}/output_layer_norm", states)
        return states

    return write_hub_module(folder, named, encode, **options)


def write_hub_bag(folder: Path, *, width: int = 12, **options: Any) -> Path:
    """Exports an encoder of another architecture: each token beside the mean of its window, through one layer."""
    draw = np.random.default_rng(5)
    weights = {
        "word_embeddings/embeddings": draw.normal(size=(len(TINY_VOCABULARY), width)).astype(np.float32),
        "mix/kernel": draw.normal(size=(2 * width, width)).astype(np.float32),
        "mix/bias": draw.normal(size=width).astype(np.float32),
    }

    def encode(variables: Mapping[str, tf.Variable], inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        states = tf.gather(variables["word_embeddings/embeddings"], inputs["input_word_ids"])
        mask = tf.cast(inputs["input_mask"], tf.float32)[:, :, None]
        mean = tf.reduce_sum(states * mask, 1, keepdims=True) / tf.reduce_sum(mask, 1, keepdims=True)
        both = tf.concat([states, tf.broadcast_to(mean, tf.shape(states))], axis=-1)
        if training:
            both = tf.nn.dropout(both, 0.1)
        return tf.tanh(both @ variables["mix/kernel"] + variables["mix/bias"])

    return write_hub_module(folder, weights, encode, **options)
