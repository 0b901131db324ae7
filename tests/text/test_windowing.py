"""Windows for any document, against a dynamic program over all cuts and against literal layouts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model.config import WindowSettings
from model.records import EncodedWindow, Window
from model.text.windowing import encode_windows, plan_windows

CLS, SEP = 101, 102
UNREACHABLE = 10**9


def sentence_lengths(*, most: int) -> st.SearchStrategy[list[int]]:
    """Documents of ordinary sentences, of many empty ones, and of some that alone are far over any budget."""
    ordinary = st.lists(st.integers(0, 40), max_size=most)
    extreme = st.lists(st.sampled_from([0, 0, 1, 2, 5, 9, 30, 200, 3000]), max_size=most)
    return ordinary | extreme


def window_settings() -> st.SearchStrategy[WindowSettings]:
    return st.builds(
        WindowSettings,
        max_tokens=st.integers(8, 24) | st.integers(8, 600),
        context=st.integers(0, 4) | st.integers(0, 250),
        segment_ids=st.sampled_from(["zeros", "alternating"]),
    )


def sentence_costs(lengths: list[int], settings: WindowSettings) -> list[int]:
    """Wordpieces that each sentence takes with its [SEP], cut to what a window holds beside its [CLS]."""
    return [min(length, settings.max_tokens - 2) + 1 for length in lengths]


def range_cost(costs: list[int], start: int, end: int, context: int) -> int:
    """Wordpieces of an owned range with its full context; a single sentence may be shown without any."""
    if end == start + 1:
        return costs[start]
    return sum(costs[max(start - context, 0) : end + context])


def best_cut(costs: list[int], capacity: int, context: int) -> tuple[int, int]:
    """Returns the fewest ranges that fit, and the smallest largest range cost that so few ranges allow."""
    count = len(costs)
    costs_of = {
        (start, end): range_cost(costs, start, end, context)
        for start in range(count)
        for end in range(start + 1, count + 1)
    }
    fewest = [0] + [UNREACHABLE] * count
    for end in range(1, count + 1):
        for start in range(end):
            if costs_of[start, end] <= capacity:
                fewest[end] = min(fewest[end], fewest[start] + 1)
    largest = [[0] + [UNREACHABLE] * count]  # by number of ranges, then by where the last one ends
    for _ in range(fewest[count]):
        last = largest[-1]
        largest.append(
            [UNREACHABLE]
            + [min(max(last[start], costs_of[start, end]) for start in range(end)) for end in range(1, count + 1)]
        )
    return fewest[count], largest[-1][count]


@given(sentence_lengths(most=200), window_settings())
@hypothesis_settings(max_examples=300, deadline=None)
def test_owned_ranges_partition_the_document(lengths: list[int], settings: WindowSettings) -> None:
    windows = plan_windows(lengths, settings)
    assert [window.index for window in windows] == list(range(len(windows)))
    owned = [i for window in windows for i in range(window.owned_start, window.owned_end)]
    assert owned == list(range(len(lengths)))
    assert all(window.owned_start < window.owned_end for window in windows)


@given(sentence_lengths(most=200), window_settings())
@hypothesis_settings(max_examples=300, deadline=None)
def test_windows_fit_the_budget_and_show_their_own(lengths: list[int], settings: WindowSettings) -> None:
    costs = sentence_costs(lengths, settings)
    for window in plan_windows(lengths, settings):
        assert 1 + sum(costs[window.start : window.end]) <= settings.max_tokens
        assert 0 <= window.owned_start - window.start <= settings.context
        assert 0 <= window.end - window.owned_end <= settings.context
        assert window.end <= len(lengths)


@given(sentence_lengths(most=200), window_settings())
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_document_that_fits_is_one_window(lengths: list[int], settings: WindowSettings) -> None:
    fits = 1 + sum(lengths) + len(lengths) <= settings.max_tokens
    windows = plan_windows(lengths, settings)
    if lengths and fits:
        assert windows == [Window(0, 0, len(lengths), 0, len(lengths))]
    elif len(lengths) > 1:
        assert len(windows) > 1


@given(
    st.lists(st.integers(0, 12) | st.just(40), min_size=1, max_size=14),
    st.builds(WindowSettings, max_tokens=st.integers(8, 40), context=st.integers(0, 4)),
)
@hypothesis_settings(max_examples=400, deadline=None)
def test_fewest_and_most_even_windows(lengths: list[int], settings: WindowSettings) -> None:
    costs = sentence_costs(lengths, settings)
    fewest, largest = best_cut(costs, settings.max_tokens - 1, settings.context)
    windows = plan_windows(lengths, settings)
    assert len(windows) == fewest
    spent = [range_cost(costs, window.owned_start, window.owned_end, settings.context) for window in windows]
    assert max(spent) == largest


@given(sentence_lengths(most=40), window_settings())
@hypothesis_settings(max_examples=500, deadline=None)
def test_the_owner_shows_a_sentence_best(lengths: list[int], settings: WindowSettings) -> None:
    windows = plan_windows(lengths, settings)
    for owner in windows:
        for sentence in range(owner.owned_start, owner.owned_end):
            shown = [min(sentence - w.start, w.end - 1 - sentence) for w in windows if w.start <= sentence < w.end]
            assert min(sentence - owner.start, owner.end - 1 - sentence) == max(shown)


@given(sentence_lengths(most=60), window_settings())
@hypothesis_settings(max_examples=200, deadline=None)
def test_full_context_unless_it_gave_way(lengths: list[int], settings: WindowSettings) -> None:
    """Context is short only at the document's ends and beside a sentence that is alone in its window."""
    for window in plan_windows(lengths, settings):
        if window.owned_end - window.owned_start > 1:
            assert window.start == max(window.owned_start - settings.context, 0)
            assert window.end == min(window.owned_end + settings.context, len(lengths))


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "context", "expected"),
    [
        ([], 8, 1, []),
        ([0], 8, 1, [(0, 1, 0, 1)]),
        ([6], 8, 0, [(0, 1, 0, 1)]),
        ([7], 8, 0, [(0, 1, 0, 1)]),
        ([2, 3], 8, 0, [(0, 2, 0, 2)]),
        ([3, 3], 8, 0, [(0, 1, 0, 1), (1, 2, 1, 2)]),
        # Six sentences of 3 with their [SEP]s, 4 of them a window: even, not 4 + 2.
        ([2] * 6, 13, 0, [(0, 3, 0, 3), (3, 6, 3, 6)]),
        # With one sentence of context a side, 4 shown: 3 own at the ends, 2 in the middle.
        ([2] * 8, 13, 1, [(0, 4, 0, 3), (2, 6, 3, 5), (4, 8, 5, 8)]),
        # The long sentence leaves no room: its context, and that of its neighbours, gives way.
        ([1, 99, 1], 8, 1, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
        # Room for one neighbour: the one before comes first.
        ([2, 3, 2], 8, 1, [(0, 2, 0, 1), (0, 2, 1, 2), (1, 3, 2, 3)]),
    ],
)
def test_literal_plans(
    lengths: list[int], max_tokens: int, context: int, expected: list[tuple[int, int, int, int]]
) -> None:
    windows = plan_windows(lengths, WindowSettings(max_tokens=max_tokens, context=context))
    assert [(w.start, w.end, w.owned_start, w.owned_end) for w in windows] == expected


def encode(token_ids: list[list[int]], **settings: object) -> list[EncodedWindow]:
    arrays = [np.array(ids, np.int32) for ids in token_ids]
    return encode_windows(arrays, WindowSettings.model_validate(settings), cls_id=CLS, sep_id=SEP)


def test_layout_of_a_document_that_fits() -> None:
    (window,) = encode([[7, 8], [], [9]], max_tokens=8)
    assert window.window == Window(0, 0, 3, 0, 3)
    assert window.token_ids.tolist() == [CLS, 7, 8, SEP, SEP, 9, SEP]
    assert window.segment_ids.tolist() == [0] * 7
    assert window.sep_positions.tolist() == [3, 4, 6]
    assert window.truncated.tolist() == [False] * 3
    assert {array.dtype for array in (window.token_ids, window.segment_ids, window.sep_positions)} == {
        np.dtype("int32")
    }


def test_alternating_segment_ids() -> None:
    (window,) = encode([[7, 8], [], [9], [10]], max_tokens=16, segment_ids="alternating")
    assert window.token_ids.tolist() == [CLS, 7, 8, SEP, SEP, 9, SEP, 10, SEP]
    assert window.segment_ids.tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 1]


def test_segment_ids_start_anew_in_each_window() -> None:
    first, second = encode([[1, 2, 3], [4, 5, 6]], max_tokens=8, context=0, segment_ids="alternating")
    assert first.segment_ids.tolist() == second.segment_ids.tolist() == [0] * 5


def test_truncated_sentence_keeps_its_sep() -> None:
    (window,) = encode([list(range(1, 10))], max_tokens=8)
    assert window.token_ids.tolist() == [CLS, 1, 2, 3, 4, 5, 6, SEP]
    assert window.sep_positions.tolist() == [7]
    assert window.truncated.tolist() == [True]


def test_a_sentence_that_fits_exactly_is_whole() -> None:
    (window,) = encode([[1, 2, 3, 4, 5, 6]], max_tokens=8)
    assert window.token_ids.tolist() == [CLS, 1, 2, 3, 4, 5, 6, SEP]
    assert window.truncated.tolist() == [False]


def test_no_sentences_no_windows() -> None:
    assert encode([]) == []


@given(sentence_lengths(most=60), window_settings())
@hypothesis_settings(max_examples=200, deadline=None)
def test_every_sentence_comes_back_from_its_owner(lengths: list[int], settings: WindowSettings) -> None:
    ends = np.cumsum([0, *lengths])
    token_ids = [np.arange(start, end) + 1000 for start, end in pairwise(ends)]  # all ids differ
    returned: list[list[int]] = []
    for encoded in encode_windows(token_ids, settings, cls_id=CLS, sep_id=SEP):
        window = encoded.window
        assert len(encoded.token_ids) <= settings.max_tokens
        assert encoded.token_ids[0] == CLS
        assert np.flatnonzero(encoded.token_ids == SEP).tolist() == encoded.sep_positions.tolist()
        assert len(encoded.sep_positions) == len(encoded.truncated) == window.end - window.start
        sentences = np.split(encoded.token_ids[1:], encoded.sep_positions)[:-1]
        by_position = dict(zip(range(window.start, window.end), sentences, strict=True))
        for sentence in range(window.owned_start, window.owned_end):
            assert encoded.truncated[sentence - window.start] == (lengths[sentence] > settings.max_tokens - 2)
            returned.append(by_position[sentence][:-1].tolist())
        segments = np.split(encoded.segment_ids[1:], encoded.sep_positions)[:-1]
        expected = [number % 2 if settings.segment_ids == "alternating" else 0 for number in range(len(segments))]
        assert [set(ids) for ids in segments] == [{value} for value in expected]
        assert encoded.segment_ids[0] == 0
    assert returned == [ids[: settings.max_tokens - 2].tolist() for ids in token_ids]
