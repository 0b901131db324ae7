"""Turns training records into shuffled, length-bucketed, padded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from model.bundles.training_data import TrainingData
from model.config import TrainingSettings
from model.errors import UserError
from model.schema import training_spec

_SHUFFLE_BUFFER = 16_384  # windows; a few kilobytes each
_BY_TOKEN = ("token_ids", "segment_ids", "padding_mask")


@dataclass(frozen=True)
class TrainingSet:
    """One of the folders of records that a model is trained on.

    Attributes:
        data: the records.
        batches: the number of its batches in an epoch; the folder is repeated if it has fewer.
        own_batches: the number of batches in one pass over it.
        label_ids: the model's label id for each label of the folder; empty for scores.
    """

    data: TrainingData
    batches: int
    own_batches: int
    label_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batching:
    """How windows become batches.

    Attributes:
        batch_tokens: the most padded wordpieces in a batch.
        pad_id: the vocabulary's `[PAD]`.
        seed: of the order.
        label_weights: for each label id of the model, a factor of its sentences' weights; None for 1.
        static_shapes: True to pad every batch to its bucket's longest window, so that few shapes occur.
    """

    batch_tokens: int
    pad_id: int
    seed: int
    label_weights: tuple[float, ...] | None = None
    static_shapes: bool = False


def plan_training_sets(
    folders: Sequence[TrainingData], *, shares: Sequence[float] | None, labels: Sequence[str], batch_tokens: int
) -> list[TrainingSet]:
    """Returns each folder's part of an epoch, which has as many batches as one pass over all folders.

    Args:
        folders: the records.
        shares: each folder's share of the batches; None for shares by size.
        labels: the model's.
        batch_tokens: the most padded wordpieces in a batch.
    """
    own = [count_batches(data, "train", batch_tokens=batch_tokens) for data in folders]
    counts = own if shares is None else [max(1, round(sum(own) * share / sum(shares))) for share in shares]
    ids = {label: index for index, label in enumerate(labels)}
    return [
        TrainingSet(data, count, a_pass, tuple(ids[label] for label in data.labels))
        for data, count, a_pass in zip(folders, counts, own, strict=True)
    ]


def label_weights(
    training: TrainingSettings, folders: Sequence[TrainingData], labels: Sequence[str]
) -> tuple[float, ...] | None:
    """Returns the weight of each label in the loss; None if all weights are equal.

    Raises:
        UserError: `training.class_weights` names a label that the records don't have.
    """
    wanted = training.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = np.array(
            [sum(folder.stats["label_counts"]["train"].get(label, 0) for folder in folders) for label in labels], float
        )
        return tuple((counts.sum() / (len(labels) * np.maximum(counts, 1.0))).tolist())
    if unknown := sorted(set(wanted) - set(labels)):
        raise UserError(f"training.class_weights names {unknown[0]!r}; the labels are {', '.join(labels) or 'scores'}")
    return tuple(wanted.get(label, 1.0) for label in labels)


def training_batches(sets: Sequence[TrainingSet], batching: Batching, *, epoch: int) -> tf.data.Dataset:
    """Returns one epoch of `(inputs, targets, weights)`, in a different order for each seed and epoch.

    The order depends only on them and on TensorFlow's global seed, which tf.data mixes in and the trainer sets.
    `inputs` is as in `schema.classify_signature`; `targets` (int32 labels or float32 scores) and `weights` (float32)
    are `[batch, sentences]`. A weight is the annotators' confidence times the label's weight; it is 0 for padding and
    for sentences that another window owns.
    """
    sources = [_repeated(one, batching, f"{batching.seed}/{epoch}") for one in sets]
    batches = sources[0]
    if len(sets) > 1:
        turns = np.repeat(np.arange(len(sets)), [one.batches for one in sets])
        order = np.random.default_rng(_number(f"{batching.seed}/{epoch}/turns")).permutation(turns)
        batches = tf.data.Dataset.choose_from_datasets(sources, tf.data.Dataset.from_tensor_slices(order))
    # Keras warns at the end of a dataset of unknown length.
    total = sum(one.batches for one in sets)
    return batches.apply(tf.data.experimental.assert_cardinality(total)).prefetch(tf.data.AUTOTUNE)


def count_batches(data: TrainingData, split: str, *, batch_tokens: int) -> int:
    """Returns the number of batches in one pass over a split."""
    boundaries, sizes = _buckets(data, batch_tokens)
    members = np.zeros(len(sizes), int)
    for length, count in data.window_lengths[split].items():
        members[np.searchsorted(boundaries, length, side="right")] += count
    return int(sum(-(-members // np.array(sizes))))


def _repeated(one: TrainingSet, batching: Batching, order: str) -> tf.data.Dataset:
    """Returns the batches of a set in an epoch, from as many passes over it as needed."""
    passes = [_one_pass(one, batching, f"{order}/{number}") for number in range(-(-one.batches // one.own_batches))]
    batches = passes[0]
    for following in passes[1:]:
        batches = batches.concatenate(following)
    return batches.take(one.batches)


def _one_pass(one: TrainingSet, batching: Batching, order: str) -> tf.data.Dataset:
    data, seed = one.data, _number(order)
    files = tf.data.Dataset.from_tensor_slices(data.window_files("train"))
    files = files.shuffle(1024, seed=seed, reshuffle_each_iteration=False)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=8, block_length=16)

    def parse(serialized: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor, tf.Tensor]:
        return _parse(serialized, one, batching.label_weights)

    # Not reshuffled in each iteration: with several devices, Keras reads the first batch before it starts.
    shuffled = records.shuffle(_SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    examples = shuffled.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    boundaries, sizes = _buckets(data, batching.batch_tokens)
    inputs, targets, _ = examples.element_spec
    padding = {"token_ids": batching.pad_id, "segment_ids": 0, "padding_mask": 0, "sep_positions": -1, "features": 0.0}
    shapes = None
    if batching.static_shapes:
        boundaries, sizes = (
            [*boundaries, data.settings.window.max_tokens + 1],
            [*sizes, 1],
        )  # nothing is beyond the last
        by_sentence = [max(data.window_sentences["train"])]
        shapes = (
            {name: [None] if name in _BY_TOKEN else [*by_sentence, *spec.shape[1:]] for name, spec in inputs.items()},
            by_sentence,
            by_sentence,
        )
    return examples.bucket_by_sequence_length(
        lambda inputs, targets, weights: tf.size(inputs["token_ids"]),
        bucket_boundaries=boundaries,
        bucket_batch_sizes=sizes,
        padded_shapes=shapes,
        padding_values=({name: padding[name] for name in inputs}, tf.zeros([], targets.dtype), 0.0),
        pad_to_bucket_boundary=batching.static_shapes,
    )


def _buckets(data: TrainingData, batch_tokens: int) -> tuple[list[int], list[int]]:
    """Returns the bucket boundaries and the number of windows in a batch of each bucket, allowing for padding."""
    boundaries = list(data.bucket_boundaries)
    longest = [boundary - 1 for boundary in boundaries] + [data.settings.window.max_tokens]
    return boundaries, [max(1, batch_tokens // length) for length in longest]


def _parse(
    serialized: tf.Tensor, one: TrainingSet, label_weights: Sequence[float] | None
) -> tuple[dict[str, Any], tf.Tensor, tf.Tensor]:
    record = tf.io.parse_single_example(serialized, training_spec())
    inputs = {name: tf.cast(record[name], tf.int32) for name in ("token_ids", "segment_ids", "sep_positions")}
    inputs["padding_mask"] = tf.ones_like(inputs["token_ids"])
    if width := len(one.data.features):
        inputs["features"] = tf.reshape(record["features"], [-1, width])
    sentence = tf.range(tf.size(record["sep_positions"], out_type=tf.int64))
    owned = (sentence >= record["owned_start"]) & (sentence < record["owned_end"])
    given = record["confidences"]
    weights = tf.cond(tf.size(given) > 0, lambda: given, lambda: tf.ones_like(sentence, tf.float32))
    targets = record["scores"]
    if one.label_ids:
        targets = tf.gather(tf.constant(one.label_ids, tf.int32), record["labels"])
        if label_weights is not None:
            weights *= tf.gather(tf.constant(label_weights, tf.float32), targets)
    return inputs, targets, tf.where(owned, weights, 0.0)


def _number(key: str) -> int:
    """Returns a seed that depends only on the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
