"""Training records to tensors: shuffled, length-bucketed, padded batches to train on, and windows to evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from model.records import EncodedWindow, LabelledWindow, Window
from model.schema import training_spec
from model.training_data import TrainingData

_SHUFFLE_BUFFER = 16_384  # windows; a few kilobytes each


def training_batches(
    data: TrainingData, split: str, *, batch_tokens: int, pad_id: int, seed: int, epoch: int
) -> tf.data.Dataset:
    """Returns one epoch of `(inputs, labels, weights)`, in an order of its own for each `seed` and `epoch`.

    The order depends on nothing else but TensorFlow's global seed, which tf.data mixes in and the trainer sets.
    `inputs` is as `schema.classify_signature`; `labels` int32 and `weights` float32 are `[batch, sentences]`. A weight
    is the annotators' confidence, 0 for padding and for sentences that another window owns.
    """
    order = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")
    files = tf.data.Dataset.from_tensor_slices(data.window_files(split)).shuffle(1024, seed=order)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=8, block_length=16)
    examples = records.shuffle(_SHUFFLE_BUFFER, seed=order).map(_parse, num_parallel_calls=tf.data.AUTOTUNE)
    boundaries, sizes = _buckets(data, batch_tokens)
    batches = examples.bucket_by_sequence_length(
        lambda inputs, labels, weights: tf.size(inputs["token_ids"]),
        bucket_boundaries=boundaries,
        bucket_batch_sizes=sizes,
        padding_values=(
            {"token_ids": pad_id, "segment_ids": 0, "padding_mask": 0, "sep_positions": -1},
            0,
            0.0,
        ),
    )
    # Keras warns at the end of data of unknown length.
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(count_batches(data, split, batch_tokens=batch_tokens))
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def count_batches(data: TrainingData, split: str, *, batch_tokens: int) -> int:
    """Returns how many batches `training_batches` makes in every epoch."""
    boundaries, sizes = _buckets(data, batch_tokens)
    members = np.zeros(len(sizes), int)
    for length, count in data.window_lengths[split].items():
        members[np.searchsorted(boundaries, length, side="right")] += count
    return int(sum(-(-members // np.array(sizes))))


def read_windows(data: TrainingData, split: str) -> Iterator[LabelledWindow]:
    """Yields the split's windows in the order of its files."""
    spec = training_spec()
    for serialized in tf.data.TFRecordDataset(data.window_files(split)):
        record = {name: value.numpy() for name, value in tf.io.parse_single_example(serialized, spec).items()}
        first, count = int(record["first_sentence"]), len(record["sep_positions"])
        window = Window(
            index=int(record["window_index"]),
            start=first,
            end=first + count,
            owned_start=first + int(record["owned_start"]),
            owned_end=first + int(record["owned_end"]),
        )
        encoded = EncodedWindow(
            window=window,
            token_ids=record["token_ids"].astype(np.int32),
            segment_ids=record["segment_ids"].astype(np.int32),
            sep_positions=record["sep_positions"].astype(np.int32),
            truncated=record["truncated"].astype(bool),
        )
        confidences = record["confidences"] if len(record["confidences"]) else np.ones(count, np.float32)
        yield LabelledWindow(record["doc_id"].decode("utf-8"), encoded, record["labels"], confidences)


def _buckets(data: TrainingData, batch_tokens: int) -> tuple[list[int], list[int]]:
    """Returns the bucket boundaries and how many windows of each bucket make a batch, padding included."""
    boundaries = list(data.bucket_boundaries)
    longest = [boundary - 1 for boundary in boundaries] + [data.settings.window.max_tokens]
    return boundaries, [max(1, batch_tokens // length) for length in longest]


def _parse(serialized: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor, tf.Tensor]:
    record = tf.io.parse_single_example(serialized, training_spec())
    inputs = {name: tf.cast(record[name], tf.int32) for name in ("token_ids", "segment_ids", "sep_positions")}
    inputs["padding_mask"] = tf.ones_like(inputs["token_ids"])
    sentence = tf.range(tf.size(record["sep_positions"], out_type=tf.int64))
    owned = (sentence >= record["owned_start"]) & (sentence < record["owned_end"])
    given = record["confidences"]
    confidences = tf.cond(tf.size(given) > 0, lambda: given, lambda: tf.ones_like(sentence, tf.float32))
    return inputs, tf.cast(record["labels"], tf.int32), tf.where(owned, confidences, 0.0)
