"""A state for each sentence of a window: all sentences read together, or each alone. Written with `keras.ops` only.

`inputs` are those of `schema.classify_signature`; the states are `[batch, sentences, width]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from model.config import SentenceAttentionSettings

_LENGTH_GROUPS = 4


def sep_states(encoder: keras.layers.Layer, inputs: Mapping[str, Any], *, training: bool | None) -> Any:
    """Returns the states of the `[SEP]`s; a window's sentences are read together (Cohan et al. 2019)."""
    positions = ops.maximum(inputs["sep_positions"], 0)
    return encoder(inputs["token_ids"], inputs["segment_ids"], inputs["padding_mask"], positions, training=training)


def cls_states(encoder: keras.layers.Layer, inputs: Mapping[str, Any], *, training: bool | None) -> Any:
    """Returns for each sentence the `[CLS]` state of `[CLS] sentence [SEP]` read alone.

    The encoder reads sentences in a few groups of similar length, so that little of its input is padding.
    """
    token_ids, ends = inputs["token_ids"], inputs["sep_positions"]
    batch, sentences = ops.shape(ends)[0], ops.shape(ends)[1]
    tokens = ops.shape(token_ids)[1]
    starts = ops.concatenate([ops.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
    lengths = ops.reshape(ops.where(ends >= 0, ends - starts + 1, 1), (-1,))  # with [CLS] and [SEP]
    offsets = ops.reshape(starts + ops.arange(batch, dtype="int32")[:, None] * tokens, (-1,))
    rows = ops.reshape(ops.arange(batch, dtype="int32")[:, None] * tokens + ops.zeros_like(ends), (-1,))
    flat_ids = ops.reshape(token_ids, (-1,))

    def read(members: Any) -> Any:
        member_lengths = ops.take(lengths, members)
        width = ops.max(ops.concatenate([member_lengths, ops.full((1,), 2, "int32")]))  # a group may be empty
        place = ops.arange(width, dtype="int32")[None, :]
        mask = place < member_lengths[:, None]
        source = ops.where(place > 0, ops.take(offsets, members)[:, None] + place, ops.take(rows, members)[:, None])
        ids = ops.take(flat_ids, ops.where(mask, source, 0))
        mask = ops.cast(mask, "int32")
        return encoder(ids * mask, ops.zeros_like(ids), mask, ops.zeros_like(ids[:, :1]), training=training)[:, 0]

    order = ops.argsort(lengths)
    count = batch * sentences
    bounds = [count * group // _LENGTH_GROUPS for group in range(_LENGTH_GROUPS + 1)]
    groups = [read(order[bounds[group] : bounds[group + 1]]) for group in range(_LENGTH_GROUPS)]
    states = ops.take(ops.concatenate(groups, axis=0), ops.argsort(order), axis=0)
    return ops.reshape(states, (batch, sentences, states.shape[-1]))


class SentenceAttention(keras.layers.Layer):
    """A small transformer over a document's sentences; it gives sentences that were read alone their context.

    Sinusoidal positions are added first (Vaswani et al., NeurIPS 2017, section 3.5).
    """

    def __init__(self, settings: SentenceAttentionSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.blocks = [_Block(settings, name=f"block_{index}") for index in range(settings.layers)]

    def build(self, states_shape: Any) -> None:
        for block in self.blocks:
            block.build(states_shape)
            states_shape = (*states_shape[:-1], self.settings.width)
        self.built = True

    def call(self, states: Any, mask: Any, training: bool | None = None) -> Any:
        """Returns `[batch, sentences, settings.width]`; `mask` is bool `[batch, sentences]`, False for padding."""
        states = states + ops.cast(_sinusoids(ops.shape(states)[1], states.shape[-1]), states.dtype)[None, :, :]
        for block in self.blocks:
            states = block(states, mask, training=training)
        return states


class _Block(keras.layers.Layer):
    """A feed-forward part, with a residual if the width allows it, then self-attention; each is followed by a norm."""

    def __init__(self, settings: SentenceAttentionSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.inner = keras.layers.Dense(settings.feedforward_width, activation="relu", name="inner")
        self.outer = keras.layers.Dense(settings.width, name="outer")
        self.feedforward_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="feedforward_norm")
        self.attention = keras.layers.MultiHeadAttention(
            settings.heads, settings.width // settings.heads, name="attention"
        )
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="attention_norm")
        self.dropout = keras.layers.Dropout(settings.dropout)

    def build(self, states_shape: Any) -> None:
        narrow = (*states_shape[:-1], self.settings.width)
        self.inner.build(states_shape)
        self.outer.build((*states_shape[:-1], self.settings.feedforward_width))
        self.feedforward_norm.build(narrow)
        self.attention.build(query_shape=narrow, value_shape=narrow)
        self.attention_norm.build(narrow)
        self.built = True

    def call(self, states: Any, mask: Any, training: bool | None = None) -> Any:
        forward = self.dropout(self.outer(self.inner(states)), training=training)
        if states.shape[-1] == self.settings.width:
            forward = forward + states
        forward = self.feedforward_norm(forward)
        attended = self.attention(forward, forward, attention_mask=mask[:, None, :], training=training)
        return self.attention_norm(forward + self.dropout(attended, training=training))


def _sinusoids(count: Any, width: int) -> Any:
    """Returns float32 `[count, width]`: sines of increasing wavelengths in the first half, cosines in the second."""
    half = -(-width // 2)
    rates = ops.exp(ops.arange(half, dtype="float32") * (-math.log(10_000.0) / max(half - 1, 1)))
    angles = ops.cast(ops.arange(count), "float32")[:, None] * rates[None, :]
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=1)[:, :width]
