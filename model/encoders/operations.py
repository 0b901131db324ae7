"""Operations of the encoder, written such that TensorFlow and OpenVINO compute each of them in one go."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


class LayerNorm(keras.layers.LayerNormalization):
    """Keras's layer, computed in float32; on TensorFlow, outside of training, as one operation."""

    def call(self, states: Any, training: bool | None = None) -> Any:
        """Returns the states `[rows, width]`, each row normalized."""
        exact = ops.cast(states, "float32")
        if keras.backend.backend() == "tensorflow" and not training:
            normal = _normalize_on_tensorflow(exact, self.epsilon)
        else:
            centred = exact - ops.mean(exact, axis=-1, keepdims=True)
            normal = centred * ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(normal * self.gamma + self.beta, states.dtype)


def _normalize_on_tensorflow(states: Any, epsilon: float) -> Any:
    """Returns the rows of `[rows, width]` with a mean of 0 and a variance of 1.

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


def gelu(states: Any, *, tanh: bool) -> Any:
    """Returns GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), exact or approximated by tanh.

    Keras's exact one is written with erfc on TensorFlow, which is slow, and which no compiler fuses.
    """
    if tanh:
        return ops.gelu(states, approximate=True)
    return (ops.erf(states * math.sqrt(0.5)) + 1.0) * 0.5 * states
