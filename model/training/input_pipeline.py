"""Turns training records into shuffled, padded batches of windows of similar length."""

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
from model.examples import encode_training_records
from model.schema import TRAINING_RECORD, training_spec
from model.training.batch_plan import BatchPlan, plan_batches

_SHUFFLE_BUFFER = 16_384  # windows; a few kilobytes each
(_EMPTY,) = encode_training_records(
    [
        {
            name: [] if feature.ragged else ("" if feature.kind == "string" else 0)
            for name, feature in TRAINING_RECORD.items()
        }
    ]
)
_READ_TOGETHER = 512  # windows, to see how long they are


@dataclass(frozen=True)
class TrainingSet:
    """One of the folders of records that a model is trained on.

    Attributes:
        data: the records.
        plan: how its windows become batches.
        batches: the number of its batches in an epoch; the folder is repeated if it has fewer.
        label_ids: the model's label id for each label of the folder; empty for scores.
    """

    data: TrainingData
    plan: BatchPlan
    batches: int
    label_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batching:
    """How windows become batches.

    Attributes:
        batch_tokens: the most padded wordpieces in a batch.
        pad_id: the vocabulary's `[PAD]`.
        seed: of the order.
        label_weights: for each label id of the model, a factor of its sentences' weights; None for 1.
        static_shapes: True to pad every batch of a bucket to one shape, so that few shapes occur.
    """

    batch_tokens: int
    pad_id: int
    seed: int
    label_weights: tuple[float, ...] | None = None
    static_shapes: bool = False


def plan_training_sets(
    folders: Sequence[TrainingData], batching: Batching, *, shares: Sequence[float] | None, labels: Sequence[str]
) -> list[TrainingSet]:
    """Returns each folder's part of an epoch, which has as many batches as one pass over all folders.

    Args:
        folders: the records.
        batching: how they become batches.
        shares: each folder's share of the batches; None for shares by size.
        labels: the model's.
    """
    plans = [plan_split(data, "train", batching) for data in folders]
    own = [plan.batches for plan in plans]
    counts = own if shares is None else [max(1, round(sum(own) * share / sum(shares))) for share in shares]
    ids = {label: index for index, label in enumerate(labels)}
    return [
        TrainingSet(data, plan, count, tuple(ids[label] for label in data.labels))
        for data, plan, count in zip(folders, plans, counts, strict=True)
    ]


def plan_split(data: TrainingData, split: str, batching: Batching) -> BatchPlan:
    """Returns how the windows of a split become batches.

    With static shapes the buckets are those of preprocessing, which are few; else they are fitted to the lengths.
    """
    longest = None
    if batching.static_shapes:
        longest = [*(boundary - 1 for boundary in data.bucket_boundaries), data.settings.window.max_tokens]
    return plan_batches(data.window_lengths[split], batch_tokens=batching.batch_tokens, longest=longest)


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


def _repeated(one: TrainingSet, batching: Batching, order: str) -> tf.data.Dataset:
    """Returns the batches of a set in an epoch, from as many passes over it as needed."""
    passes = [_one_pass(one, batching, f"{order}/{number}") for number in range(-(-one.batches // one.plan.batches))]
    batches = passes[0]
    for following in passes[1:]:
        batches = batches.concatenate(following)
    return batches.take(one.batches)


def _one_pass(one: TrainingSet, batching: Batching, order: str) -> tf.data.Dataset:
    data, seed = one.data, _number(order)
    files = tf.data.Dataset.from_tensor_slices(data.window_files("train"))
    files = files.shuffle(1024, seed=seed, reshuffle_each_iteration=False)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=8, block_length=16)

    # Not reshuffled in each iteration: with several devices, Keras reads the first batch before it starts.
    shuffled = records.shuffle(_SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    batches = shuffled.apply(lambda windows: _gather(windows, one.plan))
    return batches.map(
        lambda number, windows: _parse(number[0], windows, one, batching), num_parallel_calls=tf.data.AUTOTUNE
    )


def _gather(windows: tf.data.Dataset, plan: BatchPlan) -> tf.data.Dataset:
    """Returns the batches of serialized windows that a plan wants, each with a number for every window.

    The number is that of the windows' bucket, or for batches of rests, which come after the buckets, of the batch.
    """
    longest = tf.constant(plan.longest, tf.int64)
    rests = tf.ragged.constant(plan.rests, tf.int64, ragged_rank=1)
    offsets, counts = rests.row_starts(), rests.row_lengths()
    sizes = tf.constant([*plan.sizes, *plan.rest_sizes], tf.int64)
    spec = {"token_ids": training_spec()["token_ids"]}

    def number(seen: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        lengths = tf.cast(tf.io.parse_example(serialized, spec)["token_ids"].row_lengths(), tf.int64)
        buckets = tf.minimum(tf.searchsorted(longest, lengths), len(plan.longest) - 1)
        by_bucket = tf.one_hot(buckets, len(plan.longest), dtype=tf.int64)
        before = seen + tf.cumsum(by_bucket, exclusive=True)  # windows of each bucket before this one
        place = tf.gather(before, buckets, batch_dims=1)
        in_rest = place < tf.gather(counts, buckets)
        of_rest = tf.where(in_rest, tf.gather(offsets, buckets) + place, 0)
        values = tf.concat([rests.values, [0]], axis=0)  # there may be no rests
        numbers = tf.where(in_rest, len(plan.longest) + tf.gather(values, of_rest), tf.cast(buckets, tf.int64))
        return seen + tf.reduce_sum(by_bucket, axis=0), (numbers, serialized)

    numbered = windows.batch(_READ_TOGETHER).scan(tf.zeros([len(plan.longest)], tf.int64), number).unbatch()
    return numbered.group_by_window(
        key_func=lambda number, serialized: number,
        reduce_func=lambda number, members: members.batch(tf.gather(sizes, number)),
        window_size_func=lambda number: tf.gather(sizes, number),
    )


def _parse(
    number: tf.Tensor, serialized: tf.Tensor, one: TrainingSet, batching: Batching
) -> tuple[dict[str, Any], tf.Tensor, tf.Tensor]:
    """Returns the tensors of a batch; `number` is its bucket, or that of a batch of rests, see `_gather`."""
    plan = one.plan
    rows, tokens, sentences = None, None, None
    if batching.static_shapes:
        buckets = tf.constant([*range(len(plan.longest)), *plan.rest_buckets], tf.int64)
        bucket = tf.gather(buckets, number)
        rows, tokens = (tf.gather(tf.constant(of, tf.int64), bucket) for of in (plan.sizes, plan.longest))
        sentences = max(one.data.window_sentences["train"])
        serialized = tf.pad(serialized, [[0, rows - tf.size(serialized, tf.int64)]], constant_values=_EMPTY)
    record = tf.io.parse_example(serialized, training_spec())
    if sentences is None:
        sentences = record["sep_positions"].bounding_shape(axis=1)

    def dense(name: str, default: Any, width: Any) -> tf.Tensor:
        values = record[name]
        values = tf.cast(values, tf.int32) if values.dtype == tf.int64 else values
        return values.to_tensor(default, shape=None if width is None else tf.stack([-1, tf.cast(width, tf.int64)]))

    token_ids = dense("token_ids", batching.pad_id, tokens)
    inputs = {
        "token_ids": token_ids,
        "segment_ids": dense("segment_ids", 0, tokens),
        "sep_positions": dense("sep_positions", -1, sentences),
        "padding_mask": tf.sequence_mask(record["token_ids"].row_lengths(), tf.shape(token_ids)[1], tf.int32),
    }
    if width := len(one.data.features):
        flat = dense("features", 0.0, sentences * width)
        inputs["features"] = tf.reshape(flat, [-1, sentences, width])
    sentence = tf.range(tf.cast(sentences, tf.int64))[None, :]
    owned = (sentence >= record["owned_start"][:, None]) & (sentence < record["owned_end"][:, None])
    given = record["confidences"].row_lengths() > 0
    weights = tf.where(given[:, None], dense("confidences", 0.0, sentences), 1.0)
    if not one.label_ids:
        return inputs, dense("scores", 0.0, sentences), tf.where(owned, weights, 0.0)
    present = inputs["sep_positions"] >= 0
    labels = tf.gather(tf.constant(one.label_ids, tf.int32), dense("labels", 0, sentences))
    targets = tf.where(present, labels, 0)
    if batching.label_weights is not None:
        weights *= tf.gather(tf.constant(batching.label_weights, tf.float32), targets)
    return inputs, targets, tf.where(owned, weights, 0.0)


def _number(key: str) -> int:
    """Returns a seed that depends only on the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
