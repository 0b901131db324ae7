"""Operations of the encoder, written to be fast; in scoring, TensorFlow and OpenVINO fuse each of them."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

_MASKS = 256  # of a random byte


class Dropout(keras.layers.Dropout):
    """Keras's layer with a byte for each number, not a float: one random number of 32 bits decides on four.

    The rate is rounded to 256ths, and the rest is scaled to make up for just that.
    """

    @property
    def scale(self) -> float:
        """What the rest is multiplied by."""
        return _MASKS / (_MASKS - self._dropped)

    def call(self, states: Any, training: bool | None = None) -> Any:
        """Returns the states, in training with some set to 0."""
        if not training or not self._dropped:
            return states
        return ops.where(self._kept(states), states, ops.zeros_like(states)) * self.scale

    def masked_softmax(self, scores: Any) -> Any:
        """Returns the softmax over the last axis with some set to 0 and the rest unscaled; its gradient is short."""
        if not self._dropped:
            return ops.softmax(scores, axis=-1)
        kept = self._kept(scores)

        @ops.custom_gradient
        def softmax(scores: Any) -> Any:
            weights = ops.softmax(scores, axis=-1)
            masked = ops.where(kept, weights, ops.zeros_like(weights))

            def gradient(*upstream: Any) -> Any:
                (given,) = upstream
                share = given * masked
                return share - weights * ops.sum(share, axis=-1, keepdims=True)

            return masked, gradient

        return softmax(scores)

    def _kept(self, states: Any) -> Any:
        """Returns random bool, of the states' shape."""
        shape, count = ops.shape(states), ops.size(states)
        numbers = keras.random.randint((-(-count // 4), 1), -(2**31), 2**31 - 1, "int32", seed=self.seed_generator)
        octets = ops.reshape(ops.reshape(ops.view(numbers, "uint8"), (-1,))[:count], shape)
        return octets >= self._dropped

    @property
    def _dropped(self) -> int:
        return min(round(self.rate * _MASKS), _MASKS - 1)


class LayerNorm(keras.layers.LayerNormalization):
    """Keras's layer, computed in float32; on TensorFlow, outside of training, as one operation."""

    def call(self, states: Any, training: bool | None = None) -> Any:
        """Returns the states `[rows, width]`, each row normalized."""
        exact = ops.cast(states, "float32")
        if keras.backend.backend() == "tensorflow" and not training:
            normal = _normalize_on_tensorflow(exact, self.epsilon)
        else:
            normal = _normalize(exact, self.epsilon)
        return ops.cast(normal * self.gamma + self.beta, states.dtype)


def _normalize(states: Any, epsilon: float) -> Any:
    """Returns the rows of `[rows, width]` with a mean of 0 and a variance of 1, with a gradient of few operations."""

    def mean(values: Any) -> Any:
        return ops.mean(values, axis=-1, keepdims=True)

    @ops.custom_gradient
    def normalize(states: Any) -> Any:
        centred = states - mean(states)
        inverse = ops.rsqrt(mean(ops.square(centred)) + epsilon)
        normal = centred * inverse

        def gradient(*upstream: Any) -> Any:
            (given,) = upstream
            return (given - mean(given) - normal * mean(given * normal)) * inverse

        return normal, gradient

    return normalize(states)


def _normalize_on_tensorflow(states: Any, epsilon: float) -> Any:
    """Returns the same as `_normalize`.

    It is written as a batch normalization of `rows` channels, which together with the scaling after it is the pattern
    that TensorFlow replaces by its layer normalization, seven times as fast as the operations one by one.
    """
    import tensorflow as tf

    rows, width = tf.shape(states)[0], states.shape[1]
    normal = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(states, [1, rows, width, 1]),
        scale=tf.fill([rows], 1.0),
        offset=tf.fill([rows], 0.0),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,  # with statistics of its own
    )
    return tf.reshape(normal.y, [rows, width])


def gelu(states: Any, *, tanh: bool, training: bool | None = None) -> Any:
    """Returns GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), exact or approximated by tanh.

    Keras's exact one is written with erfc on TensorFlow, which is slow, and which no compiler fuses.
    """
    if tanh:
        return ops.gelu(states, approximate=True)
    if not training:
        return (ops.erf(states * math.sqrt(0.5)) + 1.0) * 0.5 * states

    @ops.custom_gradient
    def exact(states: Any) -> Any:
        below = (ops.erf(states * math.sqrt(0.5)) + 1.0) * 0.5

        def gradient(*upstream: Any) -> Any:
            (given,) = upstream
            density = ops.exp(ops.square(states) * -0.5) * (1 / math.sqrt(2 * math.pi))
            return given * (below + states * density)

        return below * states, gradient

    return exact(states)
