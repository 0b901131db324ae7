"""A BERT encoder in plain Keras layers (Devlin et al., NAACL 2019, arXiv 1810.04805), normalized after sublayers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
from keras import ops

from model.encoders.operations import Dropout, LayerNorm, gelu


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT encoder.

    Attributes:
        vocabulary_size: number of wordpieces.
        width: of the hidden states.
        layers: number of transformer layers.
        heads: number of attention heads; must divide the width.
        intermediate_width: of the feed-forward part.
        positions: the longest window that the encoder can read, in wordpieces.
        segments: number of different segment ids.
        activation: `gelu_erf`, Hugging Face's "gelu", or `gelu_tanh`, its "gelu_new" and Google's own. With the wrong
            one, hidden states are off by up to 0.14.
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

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        embeddings = self.vocabulary_size + self.positions + self.segments
        attention = 4 * (self.width + 1) * self.width
        feed_forward = (self.width + 1) * self.intermediate_width + (self.intermediate_width + 1) * self.width
        norm = 2 * self.width
        return embeddings * self.width + norm + self.layers * (attention + feed_forward + 2 * norm)


@keras.saving.register_keras_serializable("sepline")
class BertEncoder(keras.layers.Layer):
    """Maps windows to hidden states: `[batch, tokens]` ids and mask to `[batch, tokens, width]`.

    It runs on all of Keras's backends. Inside, states are `[batch * tokens, width]`, since only in products of two
    dimensions TensorFlow adds the bias within the product.
    """

    def __init__(
        self, config: BertConfig, *, mix_layers: bool = False, frozen_layers: int | None = None, **kwargs: Any
    ) -> None:
        """Makes an encoder with random weights.

        Args:
            config: its shape.
            mix_layers: True to return a learned mixture of all layers' states, see `LayerMix`.
            frozen_layers: excludes the embeddings and this many layers, counted from the input, from training; 0
                excludes only the embeddings, None nothing. Dropout still acts in them.
            kwargs: for `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.config = config
        self.mix_layers, self.frozen_layers = mix_layers, frozen_layers
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        policy = self.dtype_policy

        def embedding(rows: int, name: str) -> keras.layers.Embedding:
            return keras.layers.Embedding(rows, config.width, embeddings_initializer=start, dtype=policy, name=name)

        self.word_embeddings = embedding(config.vocabulary_size, "word_embeddings")
        self.position_embeddings = embedding(config.positions, "position_embeddings")
        self.segment_embeddings = embedding(config.segments, "segment_embeddings")
        self.embeddings_norm = LayerNorm(epsilon=config.layer_norm_epsilon, dtype=policy, name="embeddings_norm")
        self.embeddings_dropout = Dropout(config.dropout, dtype=policy, name="embeddings_dropout")
        self.transformer_layers = [
            TransformerLayer(config, dtype=policy, name=f"layer_{index}") for index in range(config.layers)
        ]
        self.mix = LayerMix(config.layers + 1, name="mix") if mix_layers else None

    def build(self, input_shape: Any = None) -> None:
        states = (None, self.config.width)
        for embedding in (self.word_embeddings, self.position_embeddings, self.segment_embeddings):
            embedding.build((None, None))
        self.embeddings_norm.build(states)
        for layer in self.transformer_layers:
            layer.build(states)
        if self.mix is not None:
            self.mix.build()
        if self.frozen_layers is not None:
            for layer in (*self._embedding_layers, *self.transformer_layers[: self.frozen_layers]):
                layer.trainable = False
        self.built = True

    @property
    def _embedding_layers(self) -> tuple[keras.layers.Layer, ...]:
        return self.word_embeddings, self.position_embeddings, self.segment_embeddings, self.embeddings_norm

    @property
    def pretrained_weights(self) -> dict[str, keras.Variable]:
        """The variables that come from a checkpoint, by names such as `layer_0/query/kernel`."""
        layers = (*self._embedding_layers, *self.transformer_layers)
        start = len(self.path) + 1
        return {variable.path[start:]: variable for layer in layers for variable in layer.weights}

    def call(
        self,
        token_ids: Any,
        segment_ids: Any,
        padding_mask: Any,
        positions: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Returns the last layer's hidden states, or the mixture of all layers', `[batch, tokens, width]`.

        Args:
            token_ids, segment_ids: int32 `[batch, tokens]`.
            padding_mask: int32 `[batch, tokens]`, 1 for real tokens; no token attends to padding.
            positions: int32 `[batch, positions]`, indices of tokens, to return only their states,
                `[batch, positions, width]`: the last layer then computes little else. None for all.
            training: True to apply dropout.
        """
        batch, tokens = ops.shape(token_ids)[0], ops.shape(token_ids)[1]
        places = ops.arange(tokens, dtype="int32")
        states = (
            self.word_embeddings(token_ids)
            + self.segment_embeddings(segment_ids)
            + self.position_embeddings(places)[None, :, :]
        )
        states = ops.reshape(states, (-1, self.config.width))
        states = self.embeddings_dropout(self.embeddings_norm(states, training=training), training=training)
        rows = None if positions is None else positions + ops.arange(batch, dtype="int32")[:, None] * tokens
        all_states = [states]
        for layer in self.transformer_layers[:-1]:
            all_states.append(layer(all_states[-1], padding_mask, training=training))
        all_states.append(self.transformer_layers[-1](all_states[-1], padding_mask, rows, training=training))
        if self.mix is None:
            states = all_states[-1]
        else:
            if rows is not None:
                all_states[:-1] = [ops.take(states, ops.reshape(rows, (-1,)), axis=0) for states in all_states[:-1]]
            states = self.mix(all_states)
        return ops.reshape(states, (batch, tokens if rows is None else ops.shape(rows)[1], self.config.width))

    def compute_output_shape(self, token_ids_shape: Any, *_: Any) -> tuple[Any, ...]:
        return (*token_ids_shape, self.config.width)

    def get_config(self) -> dict[str, Any]:
        settings = {"mix_layers": self.mix_layers, "frozen_layers": self.frozen_layers}
        return {**super().get_config(), "config": asdict(self.config), **settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BertEncoder:
        return cls(BertConfig(**config.pop("config")), **config)


class TransformerLayer(keras.layers.Layer):
    """Self-attention and a feed-forward part, each with dropout, a residual and layer normalization."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        start, policy = keras.initializers.TruncatedNormal(stddev=0.02), self.dtype_policy

        def dense(width: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(width, kernel_initializer=start, dtype=policy, name=name)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(epsilon=config.layer_norm_epsilon, dtype=policy, name=name)

        self.query = dense(config.width, "query")
        self.key = dense(config.width, "key")
        self.value = dense(config.width, "value")
        self.attention_output = dense(config.width, "attention_output")
        self.attention_norm = norm("attention_norm")
        self.intermediate = dense(config.intermediate_width, "intermediate")
        self.output_dense = dense(config.width, "output")
        self.output_norm = norm("output_norm")
        self.dropout = Dropout(config.dropout, dtype=policy)
        self.attention_dropout = Dropout(config.attention_dropout, dtype=policy)

    def build(self, states_shape: Any) -> None:
        for layer in (self.query, self.key, self.value, self.attention_output, self.intermediate):
            layer.build(states_shape)
        self.output_dense.build((*states_shape[:-1], self.config.intermediate_width))
        self.attention_norm.build(states_shape)
        self.output_norm.build(states_shape)
        self.built = True

    def call(self, states: Any, padding_mask: Any, rows: Any = None, training: bool | None = None) -> Any:
        """Returns the new states of all tokens, or of some, `[batch * tokens, width]`.

        Args:
            states: of all tokens, `[batch * tokens, width]`.
            padding_mask: `[batch, tokens]`.
            rows: int32 `[batch, some tokens]`, the rows of `states` of those whose new states are wanted. None for all.
            training: True to apply dropout.
        """
        wanted = states if rows is None else ops.take(states, ops.reshape(rows, (-1,)), axis=0)
        shape = ops.shape(padding_mask if rows is None else rows)
        attended = self.attention_output(self._attend(wanted, shape, states, padding_mask, training))
        wanted = self.attention_norm(wanted + self.dropout(attended, training=training), training=training)
        expanded = gelu(self.intermediate(wanted), tanh=self.config.activation == "gelu_tanh", training=training)
        transformed = self.output_dense(expanded)
        return self.output_norm(wanted + self.dropout(transformed, training=training), training=training)

    def compute_output_shape(self, states_shape: Any, *_: Any) -> Any:
        return states_shape

    def _attend(self, wanted: Any, shape: Any, states: Any, padding_mask: Any, training: bool | None) -> Any:
        """Returns what the wanted tokens, `shape` of them, see in all tokens."""
        size = self.config.width // self.config.heads

        def by_head(projected: Any, rows: Any) -> Any:
            return ops.transpose(ops.reshape(projected, (*rows[:2], self.config.heads, size)), (0, 2, 1, 3))

        every = ops.shape(padding_mask)
        # Right before the product, so that TensorFlow scales within it, as it adds the bias below.
        query = by_head(self.query(wanted), shape) * (1 / math.sqrt(size))
        key, value = by_head(self.key(states), every), by_head(self.value(states), every)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        # Always in float32: half precision has too little range for the bias and too few digits for a softmax's sum.
        # The mask is passed as integers, since Keras would cast a float bias to half precision.
        bias = (1.0 - ops.cast(padding_mask, "float32"))[:, None, None, :] * -1e9
        exact = ops.cast(scores, "float32") + bias
        if training:
            weights, value = self.attention_dropout.masked_softmax(exact), value * self.attention_dropout.scale
        else:
            weights = ops.softmax(exact, axis=-1)
        weights = ops.cast(weights, scores.dtype)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return ops.reshape(mixed, (-1, self.config.width))


class LayerMix(keras.layers.Layer):
    """A learned mixture of layers (Peters et al., NAACL 2018, arXiv 1802.05365, equation 1), in float32.

    The layers' states are weighted by a softmax over one learned number per layer; a learned scale multiplies their
    sum. Training starts from the plain mean.
    """

    def __init__(self, layers: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.layers = layers

    def build(self, states_shapes: Any = None) -> None:
        self.logits = self.add_weight(shape=(self.layers,), initializer="zeros", name="logits")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.built = True

    def call(self, states: Sequence[Any]) -> Any:
        """Returns the mixture of the layers' states, all of one shape."""
        shares = ops.softmax(self.logits)
        return self.scale * sum(shares[index] * state for index, state in enumerate(states))
