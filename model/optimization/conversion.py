"""Converts the `classify` signature of a SavedModel for OpenVINO.

The graph's variables become constants, its functions are tidied of what OpenVINO can't read, and what it doesn't see as
one operation by itself is put together (`fusion.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.errors import UserError
from model.extras import import_openvino
from model.optimization.fusion import fuse


def convert(folder: Path) -> Any:
    """Returns the signature `classify` of a SavedModel as an `openvino.Model`, in float32.

    Inputs and outputs have the names of the signature.

    Raises:
        UserError: openvino is not installed, or can't convert it.
    """
    openvino = import_openvino("a model for the predictor openvino")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the operations of the tokenizer in the SavedModel
    from openvino._offline_transformations import apply_moc_transformations
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["classify"]
    frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    _tidy(graph, [output.name for output in frozen.outputs])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "classify.pb"
        file.write_bytes(graph.SerializeToString(deterministic=True))
        try:
            # Not `convert_model`, which reports to openvino's makers.
            model = openvino.Core().read_model(file)
            outputs = [model.output(tensor.name) for tensor in frozen.outputs]
            inputs = {_node(parameter.get_friendly_name()): parameter for parameter in model.get_parameters()}
            model = openvino.Model(outputs, [inputs[name] for name in sorted(inputs)], "classify")
            apply_moc_transformations(model, cf=False, smart_reshape=False)
        except RuntimeError as error:
            raise UserError(f"the model can't be converted for openvino: {_reason(str(error))}") from error
    fuse(model)
    # A function returns its outputs in the order of their names.
    rename(model, sorted(inputs), sorted(signature.structured_outputs))
    return model


def rename(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Names inputs and outputs, and takes the names that a tool gave from all else: they change between runs."""
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for output in node.outputs():
            output.get_tensor().set_names(set())
    for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})


def _tidy(graph: Any, outputs: Iterable[str]) -> None:
    """Removes Keras's care for negative zeros from every ArgMax, and then all that no output needs.

    Keras replaces the -0.0 among an ArgMax's inputs by the largest negative number, for which it looks at their bits;
    OpenVINO has no operation for that. Without it a tie between 0.0 and -0.0 has the first of them as its maximum.
    """
    parts = [(graph.node, {_node(name) for name in outputs})]
    for function in graph.library.function:
        results = [*function.ret.values(), *function.control_ret.values()]
        parts.append((function.node_def, {_node(name) for name in results}))
    for nodes, wanted in parts:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op == "ArgMax":
                chosen = by_name.get(_node(node.input[0]))
                if chosen is not None and chosen.op == "SelectV2" and _uses(chosen.input[0], "Bitcast", by_name):
                    node.input[0] = chosen.input[2]
        needed: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name not in needed and name in by_name:
                needed.add(name)
                waiting += [_node(given) for given in by_name[name].input]
        kept = [node for node in nodes if node.name in needed]
        del nodes[:]
        nodes.extend(kept)


def _uses(name: str, operation: str, by_name: dict[str, Any]) -> bool:
    """Returns True if a value is computed with an operation, within the few steps of an idiom."""
    waiting, seen = [_node(name)], set[str]()
    while waiting and len(seen) < 16:
        node = by_name.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        if node.op == operation:
            return True
        seen.add(node.name)
        waiting += [_node(given) for given in node.input]
    return False


def _node(tensor: str) -> str:
    """Returns the name of the operation that a tensor or a control input comes from."""
    return tensor.removeprefix("^").partition(":")[0]


def _reason(message: str) -> str:
    """Returns the line of OpenVINO's message that says why."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("No conversion rule", "Conversion is failed"))]
    return (telling or lines or ["no reason given"])[0]
