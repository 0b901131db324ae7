"""Reads training records back as windows, to evaluate a model on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from model.bundles.training_data import TrainingData
from model.records import EncodedWindow, LabelledWindow, Window
from model.schema import training_spec


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
        features = record["features"].reshape(count, -1) if len(data.features) else None
        encoded = EncodedWindow(
            window=window,
            token_ids=record["token_ids"].astype(np.int32),
            segment_ids=record["segment_ids"].astype(np.int32),
            sep_positions=record["sep_positions"].astype(np.int32),
            truncated=record["truncated"].astype(bool),
            features=features,
        )
        confidences = record["confidences"] if len(record["confidences"]) else np.ones(count, np.float32)
        targets = record["labels"] if data.labels else record["scores"]
        yield LabelledWindow(record["doc_id"].decode("utf-8"), encoded, targets, confidences)
