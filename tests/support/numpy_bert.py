"""BERT's forward pass in plain numpy, and inputs for it: what encoders are compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def bert_forward(
    weights: Weights, shape: dict[str, Any], token_ids: np.ndarray, segment_ids: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Returns the last hidden states `[batch, tokens, width]` in float64, written after the paper and its code."""
    erf = np.vectorize(math.erf)

    def dense(name: str, states: np.ndarray) -> np.ndarray:
        return states @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]

    def normalize(name: str, states: np.ndarray) -> np.ndarray:
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + shape["layer_norm_eps"])
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        if shape["hidden_act"] == "gelu":
            return x * 0.5 * (1 + erf(x / np.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    batch, tokens = token_ids.shape
    heads, width = shape["num_attention_heads"], shape["hidden_size"]
    states = weights["embeddings.word_embeddings.weight"][token_ids].astype(np.float64)
    states += weights["embeddings.position_embeddings.weight"][:tokens]
    states += weights["embeddings.token_type_embeddings.weight"][segment_ids]
    states = normalize("embeddings.LayerNorm", states)
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        query, key, value = (
            dense(f"{prefix}.attention.self.{name}", states).reshape(batch, tokens, heads, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(width / heads)
        scores = np.where(mask[:, None, None, :] == 1, scores, -np.inf)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = np.einsum("bhij,bjhd->bihd", attention, value).reshape(batch, tokens, width)
        states = normalize(
            f"{prefix}.attention.output.LayerNorm", states + dense(f"{prefix}.attention.output.dense", mixed)
        )
        expanded = gelu(dense(f"{prefix}.intermediate.dense", states))
        states = normalize(f"{prefix}.output.LayerNorm", states + dense(f"{prefix}.output.dense", expanded))
    return states


def padded_batch(vocabulary_size: int, lengths: tuple[int, ...], *, seed: int = 3) -> tuple[np.ndarray, ...]:
    """Returns random ids, segment ids and mask, `[batch, tokens]`; ids at padding are random too, not [PAD]."""
    draw = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1])[None, :] < np.array(lengths)[:, None]).astype(np.int32)
    token_ids = draw.integers(0, vocabulary_size, shape).astype(np.int32)
    return token_ids, draw.integers(0, 2, shape).astype(np.int32), mask


def encode(encoder: Any, *inputs: np.ndarray) -> np.ndarray:
    return np.asarray(encoder(*inputs, training=False))
