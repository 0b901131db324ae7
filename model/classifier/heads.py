"""Heads turn a sentence's state into a label, a label under a CRF, or a score.

A head maps states `[batch, sentences, width]` to logits `[batch, sentences, outputs]`, sums its loss over weighted
sentences, and turns logits into the bundle's outputs. `mask` is bool `[batch, sentences]`, True for real sentences.
Written with `keras.ops` only.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from model.classifier import crf


class LabelHead(keras.layers.Layer):
    """A linear layer; given the states, the labels of the sentences are independent."""

    def __init__(self, num_labels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_labels = num_labels
        self.linear = keras.layers.Dense(num_labels, dtype="float32", name="linear")

    def build(self, states_shape: Any) -> None:
        self.linear.build(states_shape)
        self.built = True

    def call(self, states: Any) -> Any:
        return self.linear(ops.cast(states, "float32"))

    def loss(self, logits: Any, labels: Any, weights: Any, mask: Any) -> Any:
        """Returns the cross entropy times the weight, summed over all sentences.

        Args:
            logits: float32 `[batch, sentences, labels]`.
            labels: int32 `[batch, sentences]`.
            weights: float32 `[batch, sentences]`, 0 where a sentence does not count.
            mask: see above.
        """
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return ops.sum(ops.where(mask, losses * weights, 0.0))

    def predict(self, logits: Any, mask: Any, temperature: Any = 1.0) -> dict[str, Any]:
        """Returns `probabilities` `[batch, sentences, labels]`, and `label_ids` int32 `[batch, sentences]`."""
        probabilities = ops.softmax(logits / temperature, axis=-1)
        return {"probabilities": probabilities, "label_ids": crf.first_maximum(logits, axis=-1)}


class CrfHead(LabelHead):
    """A linear layer and a linear-chain CRF over the sentences that a window shows.

    The loss is the negative log likelihood of the labels of the sentences that count. It sums over all labels of the
    others, such as context that another window owns. A window's loss is weighted by its sentences' mean weight.
    """

    def build(self, states_shape: Any) -> None:
        super().build(states_shape)
        start = keras.initializers.TruncatedNormal(stddev=0.02)

        def add(name: str, *shape: int) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=start, dtype="float32")

        self.transitions = add("transitions", self.num_labels, self.num_labels)
        self.start = add("start", self.num_labels)
        self.end = add("end", self.num_labels)

    def loss(self, logits: Any, labels: Any, weights: Any, mask: Any) -> Any:
        observed = ops.logical_and(mask, weights > 0)
        count = ops.sum(ops.cast(observed, "float32"), axis=1)
        weight = ops.sum(ops.where(observed, weights, 0.0), axis=1) / ops.maximum(count, 1.0)
        likelihood = crf.log_likelihood(logits, labels, observed, mask, self._potentials())
        return -ops.sum(likelihood * weight)

    def predict(self, logits: Any, mask: Any, temperature: Any = 1.0) -> dict[str, Any]:
        """Returns the marginal `probabilities`, and the best path as `label_ids`."""
        potentials = self._potentials()
        return {
            "probabilities": crf.marginals(logits / temperature, mask, potentials.scaled(1.0 / temperature)),
            "label_ids": crf.best_path(logits, mask, potentials),
        }

    def _potentials(self) -> crf.Potentials:
        return crf.Potentials(*(ops.convert_to_tensor(w) for w in (self.transitions, self.start, self.end)))


class ScoreHead(keras.layers.Layer):
    """A linear layer with one output, for regression; the loss is the squared error."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.linear = keras.layers.Dense(1, dtype="float32", name="linear")

    def build(self, states_shape: Any) -> None:
        self.linear.build(states_shape)
        self.built = True

    def call(self, states: Any) -> Any:
        return self.linear(ops.cast(states, "float32"))

    def loss(self, logits: Any, scores: Any, weights: Any, mask: Any) -> Any:
        """Returns the squared error times the weight, summed; `scores` are float32 `[batch, sentences]`."""
        return ops.sum(ops.where(mask, ops.square(logits[:, :, 0] - scores) * weights, 0.0))

    def predict(self, logits: Any, mask: Any, temperature: Any = 1.0) -> dict[str, Any]:
        """Returns `scores`, float32 `[batch, sentences]`."""
        del mask, temperature
        return {"scores": logits[:, :, 0]}
