"""Runs a classifier over windows in micro-batches: sorted by length, under a budget of padded tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.bundles.bundle import Bundle, load_bundle
from model.errors import JobFailure, UserError
from model.inference.kinds import TENSORFLOW, BatchError, Classify, Outputs, PredictorChoice
from model.records import EncodedWindow

_TOKEN_STEP = 16  # padded widths are multiples of this, so that the kernels see few shapes
_SENTENCE_STEP = 8

DEFAULT_BATCH_TOKENS = 8192
BATCH_COST = 64
"""The fixed cost of a micro-batch, expressed in wordpieces.

benchmarks/micro_batches.py measures it: 25 to 36 in processor seconds (4 to 7 ms), more where threads wait for others.
"""


@dataclass(slots=True)
class PredictorCounts:
    """How much a predictor has run: windows, and wordpieces with and without padding."""

    windows: int = 0
    tokens: int = 0
    padded_tokens: int = 0


@dataclass(frozen=True, slots=True)
class WindowFailure:
    """Replaces the result of a window that the classifier cannot read even alone.

    Attributes:
        message: why, in one line.
    """

    message: str


class Predictor:
    """A loaded classifier. The same windows in the same order give the same bits; threads may share it."""

    def __init__(self, classify: Classify, *, pad_id: int, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> None:
        """Wraps a function; if it raises `BatchError`, it is called again with halves of the batch."""
        self._classify = classify
        self._pad_id = pad_id
        self._batch_tokens = batch_tokens

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        choice: PredictorChoice = TENSORFLOW,
        *,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> Predictor:
        """Loads the bundle's classifier into this process, which may be a worker far from where `bundle` was read.

        Raises:
            JobFailure: the folder holds another bundle here, or a damaged one, or none, or it can't be run here.
            UserError: its graph can do more than compute, and it is not trusted.
        """
        try:
            classify = choice.kind().load(bundle, choice.precision)
        finally:
            _check_is_there(bundle)  # after it was loaded, so that what was loaded is what was checked
        return cls(classify, pad_id=bundle.vocabulary.pad_id, batch_tokens=batch_tokens)

    def run(self, windows: Sequence[EncodedWindow]) -> list[Outputs]:
        """Returns for each window its outputs `[sentences, ...]`, context sentences included, in the given order.

        Raises:
            BatchError: the classifier cannot read one of the windows.
        """
        results = self.results(windows)
        for result in results:
            if isinstance(result, WindowFailure):
                raise BatchError(result.message)
        return [result for result in results if not isinstance(result, WindowFailure)]

    def results(
        self, windows: Sequence[EncodedWindow], counts: PredictorCounts | None = None
    ) -> list[Outputs | WindowFailure]:
        """Returns the same as `run`, but with a `WindowFailure` for each window that cannot be read.

        Adds to `counts` what is run.
        """
        counts = PredictorCounts() if counts is None else counts
        results: dict[int, Outputs | WindowFailure] = {}
        for members in micro_batches([len(window.token_ids) for window in windows], self._batch_tokens):
            results.update(zip(members, self._run_batch([windows[index] for index in members], counts), strict=True))
        return [results[index] for index in range(len(windows))]

    def _run_batch(self, batch: Sequence[EncodedWindow], counts: PredictorCounts) -> list[Outputs | WindowFailure]:
        """Returns the results of one micro-batch; if it fails, it is halved until the failing windows are found."""
        arrays = pad_batch(batch, pad_id=self._pad_id)
        try:
            outputs = self._classify(arrays)
        except BatchError as error:
            if len(batch) == 1:
                return [WindowFailure(str(error))]
            middle = len(batch) // 2
            return [*self._run_batch(batch[:middle], counts), *self._run_batch(batch[middle:], counts)]
        counts.windows += len(batch)
        counts.tokens += sum(len(window.token_ids) for window in batch)
        counts.padded_tokens += arrays["token_ids"].size
        results: list[Outputs | WindowFailure] = []
        for row, window in enumerate(batch):
            shown = {name: output[row, : len(window.sep_positions)] for name, output in outputs.items()}
            finite = all(np.isfinite(values).all() for values in shown.values())
            results.append(shown if finite else WindowFailure("the model's output is not a finite number"))
        return results


def micro_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Returns the indices of `lengths` in batches, longest first, each within `batch_tokens` when padded.

    The sorted windows are cut so that the padded wordpieces, plus `BATCH_COST` for each batch, are fewest. A window
    that is longer than the budget becomes a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    widths = [_round_up(lengths[index], _TOKEN_STEP) for index in order]
    costs = [0, *[math.inf] * len(order)]  # by number of windows: the cost of the best way to cut the first of them
    starts = [0] * len(costs)  # where the last batch of that way begins
    for start, width in enumerate(widths):
        most = max(1, batch_tokens // width) if width else len(order)
        for end in range(start + 1, min(len(order), start + most) + 1):
            cost = costs[start] + width * (end - start) + BATCH_COST
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]


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


def _check_is_there(bundle: Bundle) -> None:
    try:
        found = load_bundle(bundle.path).fingerprint
    except UserError as error:
        raise JobFailure(f"the model can't be used where a worker runs: {error}") from error
    if found != bundle.fingerprint:
        raise JobFailure(
            f"{bundle.path}: a worker found the bundle {found[:12]} there, but the job is one of bundle "
            f"{bundle.fingerprint[:12]}; give all workers the same folder"
        )
