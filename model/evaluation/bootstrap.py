"""Compares two models on the same documents by a paired bootstrap (Efron & Tibshirani, 1993, section 13.3).

Whole documents are drawn with replacement, since the sentences of a document depend on each other. Both models are
measured on each draw, so that what is hard for both cancels out of their difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_CELLS_A_BLOCK = 1 << 23  # draws times documents held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A difference, first model minus second, and its confidence interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How much better the first model is than the second.

    Attributes:
        documents, samples: the number of documents, and of bootstrap samples.
        confidence: of the intervals.
        accuracy, macro_f1: the differences.
    """

    documents: int
    samples: int
    confidence: float
    accuracy: Interval
    macro_f1: Interval


@dataclass(frozen=True)
class SliceComparison:
    """Both models' accuracy on the documents of one slice."""

    name: str
    documents: int
    first: float
    second: float


def paired_bootstrap(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    documents: np.ndarray,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 1,
) -> Comparison:
    """Returns the differences between two models with percentile intervals.

    Args:
        truth, first, second: int `[sentences]`, the true labels and the two models' labels, 0 or above.
        documents: int `[sentences]`, the index of each sentence's document, from 0 without gaps.
        samples: the number of bootstrap samples.
        confidence: of the intervals.
        seed: of the draws.
    """
    count = int(documents.max()) + 1
    labels = int(max(truth.max(), first.max(), second.max())) + 1
    tables = [_document_counts(truth, predicted, documents, labels=labels) for predicted in (first, second)]
    whole = _differences(np.ones((1, count)), tables)
    drawn = np.concatenate(
        [_differences(weights, tables) for weights in _draws(count, samples, np.random.default_rng(seed))], axis=1
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
    accuracy, macro_f1 = (Interval(float(whole[i, 0]), float(low[i]), float(high[i])) for i in range(2))
    return Comparison(count, samples, confidence, accuracy, macro_f1)


def compare_slices(
    first_hits: np.ndarray, second_hits: np.ndarray, *, documents: np.ndarray, slices: Sequence[str]
) -> tuple[SliceComparison, ...]:
    """Returns both models' accuracies by slice, in the order of the slices' names.

    Args:
        first_hits, second_hits: bool `[sentences]`, True where the model is right.
        documents: int `[sentences]`, the index of each sentence's document.
        slices: the slice of each document.
    """
    names, index = np.unique(np.array(slices), return_inverse=True)
    of_sentence = index[documents]
    sizes = np.bincount(index, minlength=len(names))
    sentences = np.bincount(of_sentence, minlength=len(names))
    accuracies = [
        np.bincount(of_sentence, weights=hits, minlength=len(names)) / sentences for hits in (first_hits, second_hits)
    ]
    return tuple(
        SliceComparison(str(name), int(size), float(one), float(other))
        for name, size, one, other in zip(names, sizes, *accuracies, strict=True)
    )


def _document_counts(truth: np.ndarray, predicted: np.ndarray, documents: np.ndarray, *, labels: int) -> np.ndarray:
    """Returns float64 `[documents, 3 * labels]`: sentences by true label, by predicted label, and correct ones."""
    count = int(documents.max()) + 1

    def table(sentences: np.ndarray, given: np.ndarray) -> np.ndarray:
        cells = documents[sentences] * labels + given[sentences]
        return np.bincount(cells, minlength=count * labels).reshape(count, labels)

    every = np.ones(len(truth), bool)
    tables = [table(every, truth), table(every, predicted), table(truth == predicted, truth)]
    return np.concatenate(tables, axis=1).astype(np.float64)


def _draws(count: int, samples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields how often each document is drawn, float64 `[draws, documents]`, in blocks."""
    block = max(1, _CELLS_A_BLOCK // count)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _differences(weights: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Returns float64 `[2, draws]`: the differences of accuracy and of macro F1, with the documents weighted."""
    first, second = (_figures(weights @ table) for table in tables)
    return first - second


def _figures(sums: np.ndarray) -> np.ndarray:
    true, predicted, hits = np.split(sums, 3, axis=1)
    occurring = true + predicted
    f1 = 2 * hits / np.maximum(occurring, 1)
    seen = np.count_nonzero(occurring, axis=1)
    return np.stack([hits.sum(axis=1) / true.sum(axis=1), f1.sum(axis=1) / seen])
