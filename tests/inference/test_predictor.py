"""Micro-batches, padding, and that neither changes what a window gets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model.bundles.bundle import Bundle
from model.config import WindowSettings
from model.inference.kinds import BatchError, Outputs
from model.inference.predictor import (
    BATCH_COST,
    Predictor,
    PredictorCounts,
    WindowFailure,
    micro_batches,
    pad_batch,
)
from model.records import EncodedWindow
from model.text.windowing import encode_windows


def windows_of(
    *documents: list[int], settings: WindowSettings | None = None, vocabulary_size: int = 90, seed: int = 0
) -> list[EncodedWindow]:
    """Returns the windows of documents given by their sentences' lengths, with random ids from 5 on."""
    draw = np.random.default_rng(seed)
    return [
        window
        for lengths in documents
        for window in encode_windows(
            [draw.integers(5, vocabulary_size, length).astype(np.int32) for length in lengths],
            settings or WindowSettings(),
            cls_id=2,
            sep_id=3,
        )
    ]


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 10_000))
@hypothesis_settings(max_examples=300, deadline=None)
def test_micro_batches(lengths: list[int], batch_tokens: int) -> None:
    batches = micro_batches(lengths, batch_tokens)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    for batch in batches:
        width = -(-max(lengths[index] for index in batch) // 16) * 16  # as `pad_batch` pads
        assert len(batch) * width <= batch_tokens or len(batch) == 1


@given(st.lists(st.integers(1, 600), min_size=1, max_size=9), st.integers(16, 3000))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_other_cut_is_cheaper(lengths: list[int], batch_tokens: int) -> None:
    ordered = sorted(lengths, reverse=True)

    def cost(bounds: tuple[int, ...]) -> float:
        parts = [ordered[start:end] for start, end in itertools.pairwise((0, *bounds, len(ordered)))]
        sizes = [-(-part[0] // 16) * 16 * len(part) for part in parts]
        allowed = all(size <= batch_tokens or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
        return sum(sizes) + BATCH_COST * len(parts) if allowed else np.inf

    inner = range(1, len(ordered))
    cheapest = min(cost(bounds) for count in range(len(ordered)) for bounds in itertools.combinations(inner, count))
    found = [len(batch) for batch in micro_batches(lengths, batch_tokens)]
    assert cost(tuple(itertools.accumulate(found[:-1]))) == cheapest


def test_literal_micro_batches() -> None:
    assert micro_batches([], 64) == []
    assert micro_batches([5, 17, 5, 33, 5], 64) == [[3], [1], [0, 2, 4]]
    assert micro_batches([7, 7, 7], 48) == [[0, 1, 2]]
    assert micro_batches([100, 3], 16) == [[0], [1]]


def test_literal_padding() -> None:
    first, second = windows_of([2, 0], [14], settings=WindowSettings(max_tokens=64, segment_ids="alternating"))
    arrays = pad_batch([first, second], pad_id=9)
    a, b = first.token_ids[1:3]
    assert arrays["token_ids"].tolist() == [[2, a, b, 3, 3] + [9] * 11, second.token_ids.tolist()]
    assert arrays["segment_ids"].tolist() == [[0, 0, 0, 0, 1] + [0] * 11, [0] * 16]
    assert arrays["padding_mask"].tolist() == [[1] * 5 + [0] * 11, [1] * 16]
    assert arrays["sep_positions"].tolist() == [[3, 4] + [-1] * 6, [15] + [-1] * 7]
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}


def test_padded_widths_are_few() -> None:
    shapes = set()
    for length in range(120):
        arrays = pad_batch(windows_of([length] * (length % 12 + 1), settings=WindowSettings(max_tokens=128)), pad_id=0)
        assert arrays["token_ids"].shape[1] % 16 == 0
        assert arrays["sep_positions"].shape[1] % 8 == 0
        shapes.add(arrays["token_ids"].shape[1])
    assert max(shapes) == 128


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Bundle) -> Predictor:
    return Predictor.load(tiny_bundle, batch_tokens=400)


def some_windows(tiny_bundle: Bundle, *, count: int = 60) -> list[EncodedWindow]:
    draw = random.Random(5)
    documents = [[draw.randint(0, 20) for _ in range(draw.randint(1, 12))] for _ in range(count)]
    return windows_of(*documents, settings=tiny_bundle.window)


def probabilities(predictor: Predictor, windows: list[EncodedWindow]) -> list[np.ndarray]:
    return [outputs["probabilities"] for outputs in predictor.run(windows)]


def test_a_window_gets_what_it_gets_alone(tiny_bundle: Bundle, predictor: Predictor) -> None:
    windows = some_windows(tiny_bundle)
    assert len({len(window.token_ids) for window in windows}) > 20
    together = predictor.run(windows)
    for window, outputs in zip(windows, together, strict=True):
        rows = outputs["probabilities"]
        assert rows.shape == (len(window.sep_positions), len(tiny_bundle.labels))
        assert rows.dtype == np.float32
        (alone,) = predictor.run([window])
        np.testing.assert_allclose(rows, alone["probabilities"], atol=1e-5)
        assert outputs["label_ids"].tolist() == rows.argmax(axis=1).tolist() == alone["label_ids"].tolist()
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_results_keep_the_order_of_the_windows(tiny_bundle: Bundle, predictor: Predictor) -> None:
    windows = some_windows(tiny_bundle)
    forward = probabilities(predictor, windows)
    backward = probabilities(predictor, windows[::-1])[::-1]
    differing = {rows.tobytes() for rows in forward}
    assert len(differing) > len(windows) * 0.9  # otherwise the order could not be seen
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_same_windows_give_the_same_bits(tiny_bundle: Bundle, predictor: Predictor) -> None:
    windows = some_windows(tiny_bundle)
    again = Predictor.load(tiny_bundle, batch_tokens=400)
    for one, other in zip(probabilities(predictor, windows), probabilities(again, windows), strict=True):
        assert one.tobytes() == other.tobytes()


def test_micro_batch_budgets_agree(tiny_bundle: Bundle, predictor: Predictor) -> None:
    windows = some_windows(tiny_bundle, count=25)
    single = Predictor.load(tiny_bundle, batch_tokens=1)
    for one, other in zip(probabilities(predictor, windows), probabilities(single, windows), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_counts(tiny_bundle: Bundle) -> None:
    predictor, counts = Predictor.load(tiny_bundle, batch_tokens=64), PredictorCounts()
    windows = windows_of([10, 8], [3], [30], settings=tiny_bundle.window)
    assert [len(window.token_ids) for window in windows] == [21, 5, 32]
    predictor.results(windows, counts)
    # Widths: the first batch holds 32 and 21 padded to 32, the second 5 padded to 16.
    assert (counts.windows, counts.tokens, counts.padded_tokens) == (3, 58, 80)
    predictor.results(windows[1:2], counts)
    assert (counts.windows, counts.tokens, counts.padded_tokens) == (4, 63, 96)


def test_threads_share_a_predictor(tiny_bundle: Bundle, predictor: Predictor) -> None:
    """A runner of Beam's may run several chunks at once; each gets the results and the counts that it gets alone."""
    windows = some_windows(tiny_bundle)
    chunks = [windows[start : start + 9] for start in range(0, len(windows), 3)]

    def run(chunk: list[EncodedWindow]) -> tuple[PredictorCounts, list[bytes]]:
        counts = PredictorCounts()
        results = predictor.results(chunk, counts)
        return counts, [row["probabilities"].tobytes() for row in results if not isinstance(row, WindowFailure)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, chunks)) == [run(chunk) for chunk in chunks]


def test_no_windows_no_results(predictor: Predictor) -> None:
    assert predictor.run([]) == []


def failing_on(bad: set[int], tiny_bundle: Bundle, sizes: list[int]) -> Predictor:
    """Returns a predictor that fails on batches with any of the token ids; `sizes` collects those of its batches."""

    def classify(arrays: Mapping[str, np.ndarray]) -> Outputs:
        sizes.append(len(arrays["token_ids"]))
        if bad & set(arrays["token_ids"].ravel().tolist()):
            raise BatchError("that id")
        return {"scores": arrays["sep_positions"].astype(np.float32)}

    return Predictor(classify, pad_id=tiny_bundle.vocabulary.pad_id, batch_tokens=16 * 16)


def test_a_batch_that_fails_is_halved_down_to_the_windows_that_fail(tiny_bundle: Bundle) -> None:
    windows = windows_of(*[[4, 3]] * 16, vocabulary_size=60)
    windows[5].token_ids[2] = windows[12].token_ids[2] = 77
    sizes: list[int] = []
    predictor = failing_on({77}, tiny_bundle, sizes)
    counts = PredictorCounts()
    results = predictor.results(windows, counts)
    assert [index for index, result in enumerate(results) if result == WindowFailure("that id")] == [5, 12]
    for result, window in zip(results, windows, strict=True):
        if not isinstance(result, WindowFailure):
            assert result["scores"].tolist() == window.sep_positions.tolist()
    assert sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8, 4, 4, 2, 1, 1, 2]
    assert counts.windows == 14
    with pytest.raises(BatchError, match="that id"):
        predictor.run(windows)
