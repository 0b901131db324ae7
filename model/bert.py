"""A BERT encoder in plain Keras layers (Devlin et al., NAACL 2019, arXiv 1810.04805), after layer normalization."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
from keras import ops


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT encoder.

    Attributes:
        vocabulary_size: wordpieces.
        width: of the hidden states.
        layers: transformer layers.
        heads: attention heads; they divide the width.
        intermediate_width: of the feed-forward part.
        positions: the longest window the encoder can read, in wordpieces.
        segments: kinds of segment ids.
        activation: `gelu_erf`, Hugging Face's "gelu", or `gelu_tanh`, its "gelu_new" and Google's own. The wrong one
            moves hidden states by up to 0.14.
        layer_norm_epsilon: added to the variance.
        dropout: on embeddings and on the output of each sublayer.
        attention_dropout: on the attention weights.
    """

    vocabulary_size: int
    width: int
    layers: int
    heads: int
    intermediate_width: int
    positions: int
    segments: int = 2
    activation: Literal["gelu_erf", "gelu_tanh"] = "gelu_erf"
    layer_norm_epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1


@keras.saving.register_keras_serializable("sepline")
class BertEncoder(keras.layers.Layer):
    """Windows to hidden states: `[batch, tokens]` ids and mask in, `[batch, tokens, width]` out."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        self.word_embeddings = keras.layers.Embedding(
            config.vocabulary_size, config.width, embeddings_initializer=start, name="word_embeddings"
        )
        self.position_embeddings = keras.layers.Embedding(
            config.positions, config.width, embeddings_initializer=start, name="position_embeddings"
        )
        self.segment_embeddings = keras.layers.Embedding(
            config.segments, config.width, embeddings_initializer=start, name="segment_embeddings"
        )
        self.embeddings_norm = keras.layers.LayerNormalization(
            epsilon=config.layer_norm_epsilon, name="embeddings_norm"
        )
        self.embeddings_dropout = keras.layers.Dropout(config.dropout, name="embeddings_dropout")
        self.transformer_layers = [TransformerLayer(config, name=f"layer_{index}") for index in range(config.layers)]

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.width)
        for embedding in (self.word_embeddings, self.position_embeddings, self.segment_embeddings):
            embedding.build((None, None))
        self.embeddings_norm.build(states)
        for layer in self.transformer_layers:
            layer.build(states)
        self.built = True

    def call(self, token_ids: Any, segment_ids: Any, padding_mask: Any, training: bool | None = None) -> Any:
        """Returns the last hidden states, `[batch, tokens, width]`.

        Args:
            token_ids, segment_ids: int32 `[batch, tokens]`.
            padding_mask: int32 `[batch, tokens]`, 1 for real tokens; padding is attended by no token.
            training: True to apply dropout.
        """
        positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        states = (
            self.word_embeddings(token_ids)
            + self.segment_embeddings(segment_ids)
            + self.position_embeddings(positions)[None, :, :]
        )
        states = self.embeddings_dropout(self.embeddings_norm(states), training=training)
        mask = ops.cast(padding_mask, states.dtype)[:, None, None, :]
        attention_bias = (1.0 - mask) * -1e9 if states.dtype != "float16" else (1.0 - mask) * -6e4
        for layer in self.transformer_layers:
            states = layer(states, attention_bias, training=training)
        return states

    def compute_output_shape(self, token_ids_shape: Any, *_: Any) -> tuple[Any, ...]:
        return (*token_ids_shape, self.config.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": asdict(self.config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BertEncoder:
        return cls(BertConfig(**config.pop("config")), **config)


class TransformerLayer(keras.layers.Layer):
    """Self-attention and a feed-forward part, each with dropout, a residual and layer normalization."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        start = keras.initializers.TruncatedNormal(stddev=0.02)

        def dense(width: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(width, kernel_initializer=start, name=name)

        def norm(name: str) -> keras.layers.LayerNormalization:
            return keras.layers.LayerNormalization(epsilon=config.layer_norm_epsilon, name=name)

        self.query = dense(config.width, "query")
        self.key = dense(config.width, "key")
        self.value = dense(config.width, "value")
        self.attention_output = dense(config.width, "attention_output")
        self.attention_norm = norm("attention_norm")
        self.intermediate = dense(config.intermediate_width, "intermediate")
        self.output_dense = dense(config.width, "output")
        self.output_norm = norm("output_norm")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.attention_dropout = keras.layers.Dropout(config.attention_dropout)

    def build(self, states_shape: Any) -> None:
        for layer in (self.query, self.key, self.value, self.attention_output, self.intermediate):
            layer.build(states_shape)
        self.output_dense.build((*states_shape[:-1], self.config.intermediate_width))
        self.attention_norm.build(states_shape)
        self.output_norm.build(states_shape)
        self.built = True

    def call(self, states: Any, attention_bias: Any, training: bool | None = None) -> Any:
        attended = self.attention_output(self._attend(states, attention_bias, training))
        states = self.attention_norm(states + self.dropout(attended, training=training))
        expanded = ops.gelu(self.intermediate(states), approximate=self.config.activation == "gelu_tanh")
        transformed = self.output_dense(expanded)
        return self.output_norm(states + self.dropout(transformed, training=training))

    def compute_output_shape(self, states_shape: Any, *_: Any) -> Any:
        return states_shape

    def _attend(self, states: Any, attention_bias: Any, training: bool | None) -> Any:
        batch, tokens = ops.shape(states)[0], ops.shape(states)[1]
        size = self.config.width // self.config.heads

        def by_head(projected: Any) -> Any:
            return ops.transpose(ops.reshape(projected, (batch, tokens, self.config.heads, size)), (0, 2, 1, 3))

        query, key, value = by_head(self.query(states)), by_head(self.key(states)), by_head(self.value(states))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(size)
        weights = self.attention_dropout(ops.softmax(scores + attention_bias, axis=-1), training=training)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return ops.reshape(mixed, (batch, tokens, self.config.width))
