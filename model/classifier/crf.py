"""A linear-chain conditional random field (Lafferty et al., ICML 2001): likelihood, marginals and best path.

Pure functions of potentials, in `keras.ops` only. The score of a path y over the present sentences of a row is

    start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_t+1] + end[y_last]

In all functions, `emissions` are float32 `[batch, sentences, labels]` and `mask` is bool `[batch, sentences]`, True for
present sentences. Absent sentences, wherever they are, are skipped as if their neighbours were adjacent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

_FORBIDDEN = -1e9  # finite, so that gradients are finite


@dataclass(frozen=True)
class Potentials:
    """The part of the score that does not depend on the text.

    Attributes:
        transitions: `[labels, labels]`, from the row's label to the column's.
        start, end: `[labels]`, of the first and of the last present sentence.
    """

    transitions: Any
    start: Any
    end: Any

    def scaled(self, factor: Any) -> Potentials:
        """Returns all potentials times a factor, the inverse of a temperature."""
        return Potentials(self.transitions * factor, self.start * factor, self.end * factor)


def log_partition(emissions: Any, mask: Any, potentials: Potentials) -> Any:
    """Returns the log of the sum of the exponentials of all paths' scores, `[batch]`; 0 for rows without sentences."""
    _, last = _forward(emissions, mask, potentials)
    total = ops.logsumexp(last + potentials.end[None, :], axis=-1)
    return ops.where(ops.any(mask, axis=1), total, 0.0)


def log_likelihood(emissions: Any, labels: Any, observed: Any, mask: Any, potentials: Potentials) -> Any:
    """Returns the log probability of the observed labels, `[batch]`, summed over all labels of the other sentences.

    Args:
        emissions, mask, potentials: see above.
        labels: int32 `[batch, sentences]`; used only where observed.
        observed: bool `[batch, sentences]`.
    """
    count = ops.shape(emissions)[-1]
    allowed = ops.equal(labels[:, :, None], ops.arange(count, dtype=labels.dtype)[None, None, :])
    forbidden = ops.logical_and(observed[:, :, None], ops.logical_not(allowed))
    clamped = emissions + ops.where(forbidden, _FORBIDDEN, 0.0)
    return log_partition(clamped, mask, potentials) - log_partition(emissions, mask, potentials)


def marginals(emissions: Any, mask: Any, potentials: Potentials) -> Any:
    """Returns each present sentence's probability of each label, `[batch, sentences, labels]`; 0 for absent ones."""
    forward, _ = _forward(emissions, mask, potentials)
    backward = _backward(emissions, mask, potentials)
    return ops.softmax(forward + backward, axis=-1) * ops.cast(mask, emissions.dtype)[:, :, None]


def best_path(emissions: Any, mask: Any, potentials: Potentials) -> Any:
    """Returns the path with the highest score (Viterbi), int32 labels `[batch, sentences]`; 0 for absent ones."""
    by_time, present, before = _by_time(emissions, mask)

    def extend(carry: Any, emission: Any, here: Any) -> Any:
        score, started = carry
        candidates = score[:, :, None] + potentials.transitions[None, :, :]
        reached = ops.where(started > 0, ops.max(candidates, axis=1), potentials.start[None, :]) + emission
        carry = (ops.where(here > 0, reached, score), ops.maximum(started, here))
        return carry, first_maximum(candidates, axis=1)

    (last, _), pointers = _walk(extend, before, by_time, present, dtype="int32")

    def trace(label: Any, pointer: Any, here: Any) -> Any:
        return ops.where(here > 0, ops.take_along_axis(pointer, label, axis=1), label), label

    final = first_maximum(last + potentials.end[None, :], axis=-1)[:, None]
    _, labels = _walk(trace, final, pointers, present, dtype="int32", width=1, reverse=True)
    return ops.transpose(labels[:, :, 0]) * ops.cast(mask, "int32")


def first_maximum(values: Any, axis: int) -> Any:
    """Returns int32 indices of the largest values along an axis, the first of equals.

    Keras's own argmax of floats looks at their bits on TensorFlow, which OpenVINO can't read.
    """
    largest = values == ops.max(values, axis=axis, keepdims=True)
    return ops.cast(ops.argmax(ops.cast(largest, "int32"), axis=axis), "int32")


def _forward(emissions: Any, mask: Any, potentials: Potentials) -> tuple[Any, Any]:
    """Returns log sums over the paths that end in each label, at every sentence and at the last present one."""
    by_time, present, before = _by_time(emissions, mask)

    def extend(carry: Any, emission: Any, here: Any) -> Any:
        score, started = carry
        arriving = ops.logsumexp(score[:, :, None] + potentials.transitions[None, :, :], axis=1)
        reached = ops.where(started > 0, arriving, potentials.start[None, :]) + emission
        score = ops.where(here > 0, reached, score)
        return (score, ops.maximum(started, here)), score

    (last, _), scores = _walk(extend, before, by_time, present)
    return ops.transpose(scores, (1, 0, 2)), last


def _backward(emissions: Any, mask: Any, potentials: Potentials) -> Any:
    """Returns log sums over the paths that continue from each label, without the sentence's own emission."""
    by_time, present, before = _by_time(emissions, mask)

    def extend(carry: Any, emission: Any, here: Any) -> Any:
        following, started = carry  # what follows, with its emission
        leaving = ops.logsumexp(potentials.transitions[None, :, :] + following[:, None, :], axis=2)
        onward = ops.where(started > 0, leaving, potentials.end[None, :])
        following = ops.where(here > 0, onward + emission, following)
        return (following, ops.maximum(started, here)), onward

    _, scores = _walk(extend, before, by_time, present, reverse=True)
    return ops.transpose(scores, (1, 0, 2))


def _by_time(emissions: Any, mask: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    """Returns emissions and mask with the sentences first, and the state before the first of them."""
    by_time = ops.transpose(emissions, (1, 0, 2))
    present = ops.transpose(ops.cast(mask, emissions.dtype))[:, :, None]
    return by_time, present, (ops.zeros_like(emissions[:, 0]), ops.zeros_like(emissions[:, 0, :1]))


def _walk(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    values: Any,
    present: Any,
    *,
    dtype: str = "float32",
    width: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Returns the last carry and the outputs of all steps, `[sentences, batch, width]`.

    This is `ops.scan`, which fails in Keras 3.15 on TensorFlow if the number of sentences is not known in advance.
    """
    count = ops.shape(values)[0]
    outputs = ops.zeros_like(values[:, :, :width], dtype=dtype)
    places = ops.arange(count)[:, None, None]

    def one(index: Any, state: Any) -> Any:
        carry, outputs = state
        place = count - 1 - index if reverse else index
        carry, output = step(carry, ops.take(values, place, axis=0), ops.take(present, place, axis=0))
        return carry, ops.where(places == place, output[None, :, :], outputs)  # `slice_update` has no gradient there

    return ops.fori_loop(0, count, one, (carry, outputs))
