"""Chooses what runs a job's bundle: once, before it starts, for all of its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from model.errors import UserError
from model.inference.kinds import PredictorChoice

MOST_DIFFERING = 0.005
"""With a larger share of dev labels that differ from TensorFlow's, bfloat16 is not chosen by itself."""


def choose_name(
    bundle: str, facts: Mapping[str, Any] | None, name: str | None, precision: str | None, *, gpu: bool = False
) -> str:
    """Returns the name of a bundle's predictor; nothing is loaded for that.

    Args:
        bundle: its path, for messages.
        facts: `Bundle.openvino`.
        name, precision: what the user asked for; None to choose.
        gpu: whether the workers have GPUs, which openvino would leave idle.

    Raises:
        UserError: the bundle or this machine can't do what was asked for.
    """
    flags = " --int8 --data RECORDS" if precision == "int8" else ""
    makes = f"`sepline optimize {bundle}{flags} --output NEW` makes a bundle that has one"
    wants_openvino = name == "openvino" or (name is None and precision not in (None, "f32"))
    if name == "tensorflow" and precision not in (None, "f32"):
        raise UserError(f"the predictor tensorflow computes in f32 alone; --precision {precision} needs openvino")
    if wants_openvino and facts is None:
        raise UserError(f"{bundle}: has no model for openvino; {makes}")
    if wants_openvino and precision == "int8" and not has_int8(facts):
        raise UserError(f"{bundle}: has no model in int8; {makes}")
    if wants_openvino or name == "tensorflow":
        return name or "openvino"
    if facts is None or not _are_installed("openvino", "tokenizers") or (gpu and _are_installed("tensorflow")):
        return "tensorflow"
    return "openvino"


def choose_precision(
    facts: Mapping[str, Any] | None, name: str, precision: str | None, precisions: Sequence[str]
) -> PredictorChoice:
    """Returns the predictor with its precision.

    Args:
        facts: `Bundle.openvino`.
        name: of the predictor.
        precision: what the user asked for; None to choose.
        precisions: in which the processor runs the bundle, the fastest first.

    Raises:
        UserError: the processor does not compute in the precision that was asked for.
    """
    if name == "tensorflow":
        return PredictorChoice()
    if precision is not None and precision not in precisions:
        raise UserError(f"this processor does not compute in {precision}; give --precision f32")
    if precision is None:
        share = differing_share(facts, "bf16")
        good = {"f32": True, "bf16": share is not None and share <= MOST_DIFFERING, "int8": has_int8(facts)}
        precision = next(each for each in precisions if good[each])
    return PredictorChoice(name, precision)


def has_int8(facts: Mapping[str, Any] | None) -> bool:
    """Returns True if the bundle has a model in int8, which it has only if its accuracy was found good enough."""
    return "int8" in (facts or {})


def differing_share(facts: Mapping[str, Any] | None, precision: str) -> float | None:
    """Returns the share of dev labels that differ from TensorFlow's; None if it was not measured."""
    dev = (facts or {}).get("dev", {})
    differing = dev.get(precision, {}).get("differing_labels")
    return None if differing is None else float(differing) / max(dev["sentences"], 1)


def _are_installed(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)
