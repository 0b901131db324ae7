"""Runs a classifier over windows in micro-batches: sorted by length, under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.bundle import Bundle
from model.records import EncodedWindow

_TOKEN_STEP = 16  # padded widths are multiples of this, so that the kernels see few shapes
_SENTENCE_STEP = 8

DEFAULT_BATCH_TOKENS = 8192

Outputs = Mapping[str, np.ndarray]
"""What a bundle says, by name: `probabilities` `[..., labels]` and `label_ids`, or `scores`."""


@dataclass(slots=True)
class EngineCounts:
    """What an engine has run so far: windows, and wordpieces with and without padding."""

    windows: int = 0
    tokens: int = 0
    padded_tokens: int = 0


class Engine:
    """A loaded classifier. The same windows in the same order give the same bits.

    Attributes:
        counts: running totals.
    """

    def __init__(
        self,
        classify: Callable[[Mapping[str, np.ndarray]], Outputs],
        *,
        pad_id: int,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        """Wraps a function from the arrays of `schema.classify_signature` to outputs `[batch, sentences, ...]`."""
        self._classify = classify
        self._pad_id = pad_id
        self._batch_tokens = batch_tokens
        self.counts = EngineCounts()

    @classmethod
    def load(cls, bundle: Bundle, *, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> Engine:
        """Loads the bundle's SavedModel into this process."""
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  registers the operations of the tokenizer in the SavedModel

        loaded = tf.saved_model.load(str(bundle.path))
        signature = loaded.signatures["classify"]

        def classify(batch: Mapping[str, np.ndarray]) -> Outputs:
            # The signature holds its variables weakly; naming `loaded` here keeps them alive.
            assert loaded is not None
            outputs = signature(**{name: tf.constant(array) for name, array in batch.items()})
            return {name: output.numpy() for name, output in outputs.items()}

        return cls(classify, pad_id=bundle.vocabulary.pad_id, batch_tokens=batch_tokens)

    def run(self, windows: Sequence[EncodedWindow]) -> list[Outputs]:
        """Returns for each window its outputs `[sentences, ...]`, context sentences included, in the given order."""
        results: list[Outputs | None] = [None] * len(windows)
        for members in micro_batches([len(window.token_ids) for window in windows], self._batch_tokens):
            batch = [windows[index] for index in members]
            arrays = pad_batch(batch, pad_id=self._pad_id)
            outputs = self._classify(arrays)
            for row, (index, window) in enumerate(zip(members, batch, strict=True)):
                shown = len(window.sep_positions)
                results[index] = {name: output[row, :shown] for name, output in outputs.items()}
            self.counts.windows += len(batch)
            self.counts.tokens += sum(len(window.token_ids) for window in batch)
            self.counts.padded_tokens += arrays["token_ids"].size
        return [outputs for outputs in results if outputs is not None]


def micro_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Returns the indices of `lengths` in batches, longest first, each within `batch_tokens` when padded.

    A window that alone is longer than the budget makes a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        width = _round_up(lengths[batches[-1][0]], _TOKEN_STEP) if batches else 0
        if batches and width * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_batch(windows: Sequence[EncodedWindow], *, pad_id: int) -> dict[str, np.ndarray]:
    """Returns the arrays of `schema.classify_signature` for a batch of windows."""
    width = _round_up(max(len(window.token_ids) for window in windows), _TOKEN_STEP)
    sentences = _round_up(max(len(window.sep_positions) for window in windows), _SENTENCE_STEP)
    token_ids = np.full((len(windows), width), pad_id, np.int32)
    segment_ids = np.zeros((len(windows), width), np.int32)
    padding_mask = np.zeros((len(windows), width), np.int32)
    sep_positions = np.full((len(windows), sentences), -1, np.int32)
    arrays = {
        "token_ids": token_ids,
        "segment_ids": segment_ids,
        "padding_mask": padding_mask,
        "sep_positions": sep_positions,
    }
    if windows[0].features is not None:
        arrays["features"] = np.zeros((len(windows), sentences, windows[0].features.shape[1]), np.float32)
    for row, window in enumerate(windows):
        length = len(window.token_ids)
        token_ids[row, :length] = window.token_ids
        segment_ids[row, :length] = window.segment_ids
        padding_mask[row, :length] = 1
        sep_positions[row, : len(window.sep_positions)] = window.sep_positions
        if window.features is not None:
            arrays["features"][row, : len(window.sep_positions)] = window.features
    return arrays


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
