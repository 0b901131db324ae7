"""Puts together what OpenVINO runs as one operation but doesn't find by itself in a converted TensorFlow graph.

- A layer norm as Keras and TensorFlow compute it, `x * s + (beta - mean * s)` with `s = gamma / sqrt(variance + e)`,
  becomes `MVN(x) * gamma + beta`.
- So does one that is written as the batch norm of one example, whose channels are the rows: `FusedBatchNorm` of
  `[1, rows, width, 1]` with a scale of ones and an offset of zeros.
- GELU with `1 - erf(-x / sqrt(2))`, which is how `erfc` is converted, becomes `Gelu`. OpenVINO knows the one with erf.
- A query that is scaled before attention leaves that to the attention.

Each is the same function of the same numbers, in another order of rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def fuse(model: Any) -> dict[str, int]:
    """Changes an `openvino.Model` in place, and returns how many operations of each kind were put together."""
    counts = {"layer_norms": 0, "gelus": 0, "queries": 0}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if (kind == "Add" and _fuse_layer_norm(node)) or (kind == "Reshape" and _fuse_batch_norm(node)):
            counts["layer_norms"] += 1
        elif kind == "Multiply" and _fuse_gelu(node):
            counts["gelus"] += 1
        elif kind == "ScaledDotProductAttention" and _fuse_query_scale(node):
            counts["queries"] += 1
    model.validate_nodes_and_infer_types()
    return counts


def _fuse_layer_norm(node: Any) -> bool:
    """Replaces a layer norm that ends in an Add; returns False if it is another Add."""
    from openvino import opset13 as ops

    for scaled, shift in _either_way(node):
        for x, scale in _either_way(scaled, "Multiply"):
            found = _normalization(x, scale)
            if found is None:
                continue
            mean, gamma, epsilon = found
            beta = _shift(shift, mean, scale)
            if beta is None or gamma.get_output_partial_shape(0)[-1] != beta.get_output_partial_shape(0)[-1]:
                continue
            axes = ops.constant(np.array([-1], np.int64))
            normal = ops.mvn(x, axes, True, epsilon, "inside_sqrt")
            result = ops.add(ops.multiply(normal, gamma), beta)
            result.set_friendly_name(node.get_friendly_name())
            _replace(node, result)
            return True
    return False


def _fuse_batch_norm(node: Any) -> bool:
    """Replaces the normalization of rows that a batch norm makes and a Reshape ends; False if it is another Reshape."""
    from openvino import opset13 as ops

    value, width = _inputs(node)[0], node.get_output_partial_shape(0)[-1]
    for kind, neutral in (("Add", 0.0), ("Multiply", 1.0)):
        rest = [one for one, other in _either_way(value, kind) if _filled_with(other) == neutral]
        if len(rest) != 1:
            return False
        value = rest[0]
    if value.get_type_name() != "MVN" or sorted(_inputs(value)[1].get_vector().tolist()) != [0, 2, 3]:
        return False
    given = _inputs(value)[0]
    shape, before = given.get_output_partial_shape(0), given.input(0).get_partial_shape()
    of_rows = given.get_type_name() == "Reshape" and before.rank == node.get_output_partial_shape(0).rank == 2
    if not of_rows or shape[0] != 1 or shape[3] != 1 or not shape[2] == before[1] == width:
        return False
    settings = value.get_attributes()
    axes = ops.constant(np.array([-1], np.int64))
    result = ops.mvn(
        given.input_value(0), axes, settings["normalize_variance"], settings["eps"], str(settings["eps_mode"]).lower()
    )
    _replace(node, result)
    return True


def _filled_with(node: Any) -> float | None:
    """Returns the number of which a value consists, if it is a constant of one, or one made to fit a shape."""
    while node.get_type_name() in ("Broadcast", "ConvertLike", "Convert", "Unsqueeze", "Reshape"):
        node = _inputs(node)[0]
    return _number(node)


def _normalization(x: Any, scale: Any) -> tuple[Any, Any, float] | None:
    """Returns mean, gamma and epsilon if `scale` is `gamma / sqrt(variance of x + epsilon)`."""
    for root, gamma in _either_way(scale, "Multiply"):
        if gamma.get_type_name() != "Constant" or root.get_type_name() != "Power":
            continue
        variance_and_epsilon, power = _inputs(root)
        if _number(power) != -0.5:
            continue
        for variance, added in _either_way(variance_and_epsilon, "Add"):
            epsilon = _number(added)
            mean = _mean_of_variance(variance, x)
            if epsilon is not None and mean is not None:
                return mean, gamma, epsilon
    return None


def _mean_of_variance(variance: Any, x: Any) -> Any | None:
    """Returns the mean of x over its last axis if `variance` is the variance over it."""
    if variance.get_type_name() != "ReduceMean" or not _over_last_axis(variance):
        return None
    squared = _inputs(variance)[0]
    kind = squared.get_type_name()
    if kind in ("Multiply", "Power"):
        difference, other = _inputs(squared)
        squares = _number(other) == 2.0 if kind == "Power" else _same(difference, other)
        if not squares or difference.get_type_name() != "Subtract":
            return None
    elif kind == "SquaredDifference":
        difference = squared
    else:
        return None
    value, mean = _inputs(difference)
    is_mean = mean.get_type_name() == "ReduceMean" and _over_last_axis(mean) and _same(_inputs(mean)[0], x)
    return mean if is_mean and _same(value, x) else None


def _over_last_axis(reduction: Any) -> bool:
    rank = reduction.input(0).get_partial_shape().rank
    axis = _number(_inputs(reduction)[1])
    return bool(reduction.get_attributes()["keep_dims"]) and (
        axis == -1 or (rank.is_static and axis == rank.get_length() - 1)
    )


def _shift(shift: Any, mean: Any, scale: Any) -> Any | None:
    """Returns beta if `shift` is `beta - mean * scale`, or `beta + (-mean) * scale`."""
    if shift.get_type_name() == "Subtract":
        beta, product = _inputs(shift)
        pairs = _either_way(product, "Multiply")
        return beta if _is_constant(beta) and any(_same(a, mean) and _same(b, scale) for a, b in pairs) else None
    for product, beta in _either_way(shift, "Add"):
        for negated, factor in _either_way(product, "Multiply"):
            if _same(factor, scale) and _is_constant(beta):
                for value, sign in _either_way(negated, "Multiply"):
                    if _number(sign) == -1.0 and _same(value, mean):
                        return beta
    return None


def _fuse_gelu(node: Any) -> bool:
    """Replaces `x * 0.5 * (1 - erf(-x / sqrt(2)))`; returns False if it is another product."""
    from openvino import opset13 as ops

    for half, complement in _either_way(node):
        if complement.get_type_name() != "Subtract":
            continue
        one, erf = _inputs(complement)
        if _number(one) != 1.0 or erf.get_type_name() != "Erf":
            continue
        for x, factor in _either_way(_inputs(erf)[0], "Multiply"):
            scale = _number(factor)
            if scale is None or not math.isclose(scale, -math.sqrt(0.5), rel_tol=1e-6):
                continue
            if any(_same(value, x) and _number(share) == 0.5 for value, share in _either_way(half, "Multiply")):
                result = ops.gelu(x, "ERF")
                result.set_friendly_name(node.get_friendly_name())
                _replace(node, result)
                return True
    return False


def _fuse_query_scale(node: Any) -> bool:
    """Lets an attention multiply by the factor of its query; returns False if there is none."""
    from openvino import opset13 as ops

    inputs = _inputs(node)
    if len(inputs) < 5 or (scale := _number(inputs[4])) is None:
        return False
    above, place = node, 0
    while inputs[place].get_type_name() in ("Transpose", "Reshape"):  # which change no numbers
        above, place = inputs[place], 0
        if len(above.output(0).get_target_inputs()) != 1:
            return False
        inputs = _inputs(above)
    for value, factor in _either_way(inputs[place], "Multiply"):
        given = _number(factor)
        if given is not None and len(inputs[place].output(0).get_target_inputs()) == 1:
            above.input(place).replace_source_output(value.output(0))
            scale_type = np.float32
            node.input(4).replace_source_output(ops.constant(np.array(scale * given, scale_type)).output(0))
            return True
    return False


def _inputs(node: Any) -> list[Any]:
    return [value.get_source_output().get_node() for value in node.inputs()]


def _either_way(node: Any, kind: str | None = None) -> list[tuple[Any, Any]]:
    """Returns the two inputs of an operation in both orders; nothing if it is of another kind than the given one."""
    if kind is not None and node.get_type_name() != kind:
        return []
    first, second = _inputs(node)
    return [(first, second), (second, first)]


def _same(one: Any, other: Any) -> bool:
    return bool(one.get_friendly_name() == other.get_friendly_name())


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _number(node: Any) -> float | None:
    """Returns the value of a constant of one element, else None."""
    if not _is_constant(node) or node.get_vector().size != 1:
        return None
    return float(node.get_vector()[0])


def _replace(node: Any, result: Any) -> None:
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(result.output(0))
