"""Cuts documents into windows under a token budget. Pure functions of lengths and ids; no TensorFlow.

A document that fits the budget is one window. A longer one is cut into owned ranges, each shown with `context`
sentences on either side:

- as few windows as possible, found greedily (any part of a range that fits also fits, so greedy is optimal);
- balanced: the smallest budget that needs no more windows makes them as even as possible;
- each sentence is owned by exactly one window, and no other window shows it with more context on its shorter side;
- if a single sentence leaves no room for context, context is dropped; a sentence that alone is longer than the budget
  is cut to fit and keeps its `[SEP]`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from model.config import WindowSettings
from model.records import EncodedWindow, Window


def plan_windows(lengths: Sequence[int], settings: WindowSettings) -> list[Window]:
    """Returns the windows of a document in order; their owned ranges are adjacent and cover the document.

    Args:
        lengths: number of wordpieces of each sentence, without special tokens.
        settings: budget and context.
    """
    if not lengths:
        return []
    capacity = settings.max_tokens - 1  # what [CLS] leaves
    if sum(lengths) + len(lengths) <= capacity:
        return [Window(0, 0, len(lengths), 0, len(lengths))]
    costs = [min(length + 1, capacity) for length in lengths]  # a sentence and its [SEP]
    ends = [0, *accumulate(costs)]
    bounds = _cut(ends, capacity, settings.context)
    low, high = max(costs), capacity
    while low < high:  # the smallest capacity that needs no more windows
        middle = (low + high) // 2
        candidate = _cut(ends, middle, settings.context)
        if len(candidate) <= len(bounds):
            bounds, high = candidate, middle
        else:
            low = middle + 1
    windows = []
    for index, (owned_start, owned_end) in enumerate(pairwise(bounds)):
        start, end = _with_context(ends, owned_start, owned_end, capacity, settings.context)
        windows.append(Window(index, start, end, owned_start, owned_end))
    return windows


def encode_windows(
    token_ids: Sequence[np.ndarray],
    settings: WindowSettings,
    *,
    cls_id: int,
    sep_id: int,
    features: np.ndarray | None = None,
) -> list[EncodedWindow]:
    """Returns a document's windows with their ids, `[CLS] s1 [SEP] s2 [SEP] ... sN [SEP]`.

    Args:
        token_ids: wordpiece ids of each sentence, without special tokens.
        settings: budget, context and the kind of segment ids.
        cls_id, sep_id: the vocabulary's ids of `[CLS]` and `[SEP]`.
        features: float32 `[sentences, features]`, standardized; None if the model takes none.
    """
    longest = settings.max_tokens - 2
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    windows = plan_windows(lengths.tolist(), settings)
    if not windows:
        return []
    # The whole document is laid out once, and each window is a slice of it.
    kept = np.minimum(lengths, longest)
    ends = np.concatenate(([0], np.cumsum(kept + 1)), dtype=np.int32)
    document = np.full(1 + ends[-1], sep_id, np.int32)  # the first element becomes [CLS]
    for sentence, end, length in zip(token_ids, ends[1:].tolist(), kept.tolist(), strict=True):
        document[end - length : end] = sentence[:length]
    truncated = lengths > longest
    encoded = []
    for window in windows:
        start, end = window.start, window.end
        ids = document[ends[start] : ends[end] + 1].copy()
        ids[0] = cls_id
        segment_ids = np.zeros_like(ids)
        if settings.segment_ids == "alternating":
            segment_ids[1:] = np.repeat(np.arange(end - start) % 2, kept[start:end] + 1)
        sep_positions = ends[start + 1 : end + 1] - ends[start]
        shown = None if features is None else features[start:end]
        encoded.append(EncodedWindow(window, ids, segment_ids, sep_positions, truncated[start:end], shown))
    return encoded


def _cut(ends: list[int], capacity: int, context: int) -> list[int]:
    """Returns the bounds of the fewest owned ranges that fit with their context, from 0 to the sentence count."""
    count = len(ends) - 1
    bounds = [0]
    while bounds[-1] < count:
        start = bounds[-1]
        last_shown = bisect_right(ends, ends[max(start - context, 0)] + capacity) - 1
        end = count if last_shown >= count else last_shown - context
        end = max(end, start + 1)  # a range of one sentence is always allowed: its context is dropped
        bounds.append(end)
    return bounds


def _with_context(ends: list[int], owned_start: int, owned_end: int, capacity: int, context: int) -> tuple[int, int]:
    """Returns the shown range: the owned one and up to `context` sentences on each side, evenly, as far as they fit."""
    start, end = owned_start, owned_end
    for _ in range(context):
        if start > 0 and ends[end] - ends[start - 1] <= capacity:
            start -= 1
        if end < len(ends) - 1 and ends[end + 1] - ends[start] <= capacity:
            end += 1
    return start, end
