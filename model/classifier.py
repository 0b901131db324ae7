"""The sequential sentence classifier of Cohan et al. (EMNLP 2019, arXiv 1909.04054): each `[SEP]` state classified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops


class SentenceClassifier(keras.Model):
    """Windows to logits: one vector over the labels for each sentence's `[SEP]`.

    The inputs are those of `schema.classify_signature`; the encoder is injected, and anything that takes
    `(token_ids, segment_ids, padding_mask, training=)` and returns `[batch, tokens, width]` will do.
    """

    def __init__(self, encoder: keras.layers.Layer, num_labels: int, *, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.dropout = keras.layers.Dropout(dropout, name="dropout")
        self.head = keras.layers.Dense(num_labels, dtype="float32", name="head")

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Returns logits, float32 `[batch, sentences, labels]`; those at padded sentences mean nothing."""
        states = self.encoder(inputs["token_ids"], inputs["segment_ids"], inputs["padding_mask"], training=training)
        positions = ops.maximum(inputs["sep_positions"], 0)
        sep_states = ops.take_along_axis(states, positions[:, :, None], axis=1)
        return self.head(self.dropout(sep_states, training=training))
