"""Reads from `saved_model.pb` what a TF Hub SavedModel is, without running it.

Its signature, the names and shapes of its variables, and the operations of its graph show whether it is a text encoder,
and whether that encoder is Google's BERT.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.encoders.bert import BertConfig
from model.errors import UserError
from model.graphs import SAVED_MODEL

WORDS, POSITIONS = "word_embeddings/embeddings", "position_embedding/embeddings"
SEGMENTS = "type_embeddings/embeddings"
_INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
_OUTPUT = "sequence_output"
_BESIDE_THE_ENCODER = ("pooler_transform/", "cls/", "predictions/")
_TANH_GELU = np.float32(0.044715)
_DROPOUT_NOTES = {
    "dropout": rb'"(?:output_dropout|dropout_rate)": ([0-9.eE-]+)',
    "attention_dropout": rb'"attention_dropout(?:_rate)?": ([0-9.eE-]+)',
}

Shapes = dict[str, tuple[int, ...]]


def sequence_width(graph: Any, folder: Path) -> int:
    """Returns the width of `sequence_output`.

    Raises:
        UserError: the module is not a text encoder, or reads windows of one length only.
    """
    inputs, outputs = _call_signature(graph.object_graph_def)
    if set(inputs) != set(_INPUTS) or _OUTPUT not in outputs:
        has = f"{', '.join(sorted(inputs)) or 'nothing'} -> {', '.join(sorted(outputs)) or 'nothing'}"
        raise UserError(
            f"{folder}: not a TF Hub text encoder: called by name, it maps {has}; sepline needs "
            f"{', '.join(_INPUTS)} -> {_OUTPUT}"
        )
    lengths = {length for name in _INPUTS for length in inputs[name][1:]} - {-1}
    if lengths:
        raise UserError(f"{folder}: reads windows of exactly {max(lengths)} tokens; sepline needs one for all lengths")
    if len(outputs[_OUTPUT]) != 3 or outputs[_OUTPUT][2] < 1:
        raise UserError(f"{folder}: its {_OUTPUT} is not [batch, tokens, width]; sepline needs a text encoder")
    return outputs[_OUTPUT][2]


def _call_signature(objects: Any) -> tuple[Shapes, Shapes]:
    """Returns the names and shapes of the module's inputs and outputs when it is called with a mapping.

    The module's signatures are no help: exporters choose their own names for the outputs.
    """
    calls = [child.node_id for child in objects.nodes[0].children if child.local_name == "__call__"]
    names = [name for node in calls for name in objects.nodes[node].function.concrete_functions]
    for name in names:
        function = objects.concrete_functions[name]
        arguments = function.canonicalized_input_signature.tuple_value.values[:1]
        first = [value for argument in arguments for value in argument.tuple_value.values[:1]]
        inputs = [_tensor_shapes(value) for value in first]
        return (inputs or [{}])[0], _tensor_shapes(function.output_signature)
    return {}, {}


def _tensor_shapes(structure: Any) -> Shapes:
    """Returns the shapes of the tensors in a mapping, with -1 for variable lengths."""
    fields = structure.dict_value.fields
    return {name: tuple(dim.size for dim in fields[name].tensor_spec_value.shape.dim) for name in fields}


def bert_config(shapes: Shapes, graph: Any, folder: Path) -> tuple[BertConfig | None, str]:
    """Returns the shape of the BERT that a module's variables form, or None and the reason why they don't form one."""
    wanted = {name: shape for name, shape in shapes.items() if not name.startswith(_BESIDE_THE_ENCODER)}
    numbers = [int(match[1]) for name in wanted if (match := re.match(r"transformer/layer_(\d+)/", name))]
    try:
        vocabulary_size, width = wanted[WORDS]
        _, heads, _ = wanted["transformer/layer_0/self_attention/query/kernel"]
        config = BertConfig(
            vocabulary_size=vocabulary_size,
            width=width,
            layers=max(numbers) + 1,
            heads=heads,
            intermediate_width=wanted["transformer/layer_0/intermediate/kernel"][1],
            positions=wanted[POSITIONS][0],
            segments=wanted[SEGMENTS][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        return None, f"its variables are not BERT's ({error})"
    expected = _expected_shapes(config)
    different = sorted(name for name in wanted.keys() | expected.keys() if wanted.get(name) != expected.get(name))
    if different:
        return None, f"its variables are not BERT's ({different[0]})"
    activation = _find_activation(graph)
    if activation is None:
        return None, "its activation is not GELU"
    return replace(config, activation=activation, **_find_dropout(folder)), ""


def _expected_shapes(config: BertConfig) -> Shapes:
    """Returns the names and shapes of the variables of Google's BERT."""
    width, wide, heads = config.width, config.intermediate_width, config.heads
    by_head = (heads, width // heads)
    shapes: Shapes = {
        WORDS: (config.vocabulary_size, width),
        POSITIONS: (config.positions, width),
        SEGMENTS: (config.segments, width),
        "embeddings/layer_norm/gamma": (width,),
        "embeddings/layer_norm/beta": (width,),
    }
    for index in range(config.layers):
        layer = f"transformer/layer_{index}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}/self_attention/{name}/kernel"] = (width, *by_head)
            shapes[f"{layer}/self_attention/{name}/bias"] = by_head
        shapes[f"{layer}/self_attention/attention_output/kernel"] = (*by_head, width)
        shapes[f"{layer}/self_attention/attention_output/bias"] = (width,)
        shapes[f"{layer}/intermediate/kernel"], shapes[f"{layer}/intermediate/bias"] = (width, wide), (wide,)
        shapes[f"{layer}/output/kernel"], shapes[f"{layer}/output/bias"] = (wide, width), (width,)
        for norm in ("self_attention_layer_norm", "output_layer_norm"):
            shapes[f"{layer}/{norm}/gamma"] = shapes[f"{layer}/{norm}/beta"] = (width,)
    return shapes


def _find_activation(graph: Any) -> Literal["gelu_erf", "gelu_tanh"] | None:
    """Returns which GELU the graph computes: with the error function, or with the constant of its approximation."""
    import tensorflow as tf

    nodes = [node for function in graph.graph_def.library.function for node in function.node_def]
    if any(node.op in ("Erf", "Erfc") for node in nodes):
        return "gelu_erf"
    scalars = (tf.make_ndarray(node.attr["value"].tensor) for node in nodes if node.op == "Const")
    tanh = any(value.dtype == np.float32 and value.ndim == 0 and value == _TANH_GELU for value in scalars)
    return "gelu_tanh" if tanh else None


def _find_dropout(folder: Path) -> dict[str, Any]:
    """Returns the dropout rates in the metadata that Keras saved with the graph; empty if there are none."""
    rates = {}
    for name in ("keras_metadata.pb", SAVED_MODEL):  # the latter up to TensorFlow 2.4
        notes = (folder / name).read_bytes() if (folder / name).is_file() else b""
        for rate, pattern in _DROPOUT_NOTES.items():
            if rate not in rates and (match := re.search(pattern, notes)):
                rates[rate] = float(match[1])
    return rates
