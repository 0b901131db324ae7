"""Starts a training from the weights of a bundle, which may have other labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.bundles.bundle import Bundle
from model.classifier.classifier import SentenceClassifier
from model.classifier.heads import CrfHead, LabelHead
from model.errors import UserError

_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


def warm_start(classifier: SentenceClassifier, bundle: Bundle, labels: Sequence[str]) -> None:
    """Copies the weights of a bundle into a built classifier.

    Everything but the head is copied as it is. In the head, the weights of labels that both have are copied; the others
    keep their random values.

    Args:
        classifier: over `labels`, or over scores if there are none.
        bundle: of a model with the same encoder, features and, if any, self-attention over sentences.
        labels: the classifier's.

    Raises:
        UserError: the bundle's model has other parts or other shapes.
    """
    prefix = str(bundle.path / "variables" / "variables")
    body = {"encoder": _with_lists(classifier.encoder)}
    if classifier.sentence_attention is not None:
        body["sentence_attention"] = _with_lists(classifier.sentence_attention)
    saved = tf.train.Checkpoint(_classifier=tf.train.Checkpoint(**body))
    try:
        saved.read(prefix).expect_partial().assert_existing_objects_matched()
        _restore_head(classifier.head, tf.train.load_checkpoint(prefix), bundle.labels, labels)
    except (AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"training.warm_start is {bundle.path}, whose model is not shaped like this one ({reason}); use the same "
            "encoder and model settings, or leave it out"
        ) from error


def _with_lists(layer: keras.layers.Layer) -> tf.train.Checkpoint:
    """Returns a layer with its parts named as in a SavedModel, including the parts in lists.

    Keras hides its lists from TensorFlow's checkpoints, which would silently restore nothing into these parts.
    """
    parts: dict[str, Any] = {
        name: _with_lists(part) if isinstance(part, keras.layers.Layer) else part
        for name, part in layer._trackable_children().items()
    }
    for name, items in vars(layer).items():
        if isinstance(items, list) and items and not name.startswith("_"):
            parts[name] = [_with_lists(item) if isinstance(item, keras.layers.Layer) else item for item in items]
    return tf.train.Checkpoint(**parts)


def _restore_head(
    head: object, reader: tf.train.CheckpointReader, old_labels: Sequence[str], labels: Sequence[str]
) -> None:
    def read(name: str) -> np.ndarray:
        key = f"_classifier/head/{name}/{_VALUE}"
        if not reader.has_tensor(key):
            raise ValueError(f"it has no {name}")
        return np.asarray(reader.get_tensor(key))

    kernel, bias = read("linear/_kernel"), read("linear/bias")
    if not isinstance(head, LabelHead):
        if old_labels:
            raise ValueError("it gives labels, not scores")
        head.linear.set_weights([kernel, bias])  # type: ignore[attr-defined]
        return
    if not old_labels:
        raise ValueError("it gives scores, not labels")
    shared = [(labels.index(label), old_labels.index(label)) for label in labels if label in old_labels]
    here, there = (np.array(side, int) for side in zip(*shared, strict=True)) if shared else (np.array([], int),) * 2

    def mix(current: np.ndarray, old: np.ndarray, axes: int) -> np.ndarray:
        mixed = current.copy()
        if axes == 2:
            mixed[np.ix_(here, here)] = old[np.ix_(there, there)]
        else:
            mixed[..., here] = old[..., there]
        return mixed

    now_kernel, now_bias = head.linear.get_weights()
    if kernel.shape[0] != now_kernel.shape[0]:
        raise ValueError(f"its states are {kernel.shape[0]} wide, not {now_kernel.shape[0]}")
    head.linear.set_weights([mix(now_kernel, kernel, 1), mix(now_bias, bias, 1)])
    if isinstance(head, CrfHead) and reader.has_tensor(f"_classifier/head/transitions/{_VALUE}"):
        for variable, axes in ((head.transitions, 2), (head.start, 1), (head.end, 1)):
            variable.assign(mix(variable.numpy(), read(variable.name), axes))
