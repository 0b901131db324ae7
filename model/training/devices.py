"""Chooses the devices of a training, all available GPUs, and their precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import keras
import tensorflow as tf

from model.config import TrainingSettings

_BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA's Ampere and later
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@dataclass(frozen=True)
class Devices:
    """The devices of a training.

    Attributes:
        names: of all devices that take part; each gets an equal share of every batch.
        strategy: keeps their weights equal; None for a single device.
        precision: `float32`, or `bfloat16` computation on float32 weights.
    """

    names: tuple[str, ...]
    strategy: tf.distribute.MirroredStrategy | None
    precision: str

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Places what is built inside on these devices, to compute in their precision."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(_POLICIES[self.precision])
        try:
            if self.strategy is None:
                yield
            else:
                with self.strategy.scope():
                    yield
        finally:
            keras.config.set_dtype_policy(before)


def choose_devices(precision: Literal["auto", "float32", "bfloat16"]) -> Devices:
    """Returns all GPUs, or all logical CPUs if there is no GPU; GPU memory is allocated as needed.

    `auto` is bfloat16 if every device is a GPU that supports it, otherwise float32.
    """
    physical = tf.config.list_physical_devices("GPU")
    for gpu in physical:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # TensorFlow uses it already; its setting can't change any more
            break
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = tuple(device.name.removeprefix("/device:") for device in devices)
    if precision == "auto":
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in physical
        ]
        precision = "bfloat16" if capabilities and min(capabilities) >= _BFLOAT16_CAPABILITY else "float32"
    strategy = tf.distribute.MirroredStrategy(list(names)) if len(names) > 1 else None
    return Devices(names, strategy, precision)


def describe_devices(training: TrainingSettings, devices: Devices) -> str:
    """Returns a line that says which devices a training uses, in which precision and with which batches."""
    count = len(devices.names)
    on = devices.names[0] if count == 1 else f"{count} devices ({', '.join(devices.names)})"
    steps = "" if training.accumulate == 1 else f", {training.accumulate} batches a step"
    xla = ", XLA" if training.xla and count == 1 else ""
    return f"training on {on} in {devices.precision}{xla}, up to {training.batch_tokens:,} wordpieces a batch{steps}"
