"""Metrics of predicted scores: squared error, rank correlation, and ROUGE of the sentences with the highest scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.bundles.training_data import TrainingData
from model.extras import import_extra

_CHOSEN_SENTENCES = 10


@dataclass(frozen=True)
class ScoreMetrics:
    """Figures of predicted scores on one set of documents.

    Attributes:
        documents, sentences: how many were evaluated.
        mse: the mean squared error.
        spearman: the rank correlation of all sentences' scores; 0 if either side is constant.
        rouge_l: the mean F measure of ROUGE-L (Lin, 2004) between the ten sentences of a document with the highest
            scores, in document order, and its highlights; None if no document has highlights.
    """

    documents: int
    sentences: int
    mse: float
    spearman: float
    rouge_l: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_scores(
    doc_ids: Sequence[str],
    scores: np.ndarray,
    predicted: np.ndarray,
    *,
    highlights: Sequence[tuple[Sequence[str], Sequence[str]]] = (),
) -> ScoreMetrics:
    """Returns the metrics of predicted scores against the true ones.

    Args:
        doc_ids: `[sentences]`.
        scores, predicted: float `[sentences]`.
        highlights: for each document in order, its sentences and its highlights; empty to leave ROUGE out.

    Raises:
        UserError: there are highlights, and the extra `rouge` is not installed.
    """
    from scipy.stats import spearmanr

    varied = np.ptp(scores) > 0 and np.ptp(predicted) > 0
    return ScoreMetrics(
        documents=len(set(doc_ids)),
        sentences=len(scores),
        mse=float(np.mean(np.square(scores.astype(float) - predicted))),
        spearman=float(spearmanr(scores, predicted).statistic) if varied else 0.0,
        rouge_l=_rouge_l(predicted, highlights),
    )


def choose_sentences(scores: np.ndarray, count: int = _CHOSEN_SENTENCES) -> list[int]:
    """Returns the indices of the sentences with the highest scores, in document order; of equals, the earlier ones."""
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())


def read_highlights(data: TrainingData, split: str) -> list[tuple[list[str], list[str]]]:
    """Returns sentences and highlights of a split's documents, in the order of its windows."""
    import pyarrow.parquet as pq

    documents = []
    for file in data.document_files(split):
        table = pq.read_table(file, columns=["sentences", "highlights"], partitioning=None)
        documents += [(row["sentences"], row["highlights"] or []) for row in table.to_pylist()]
    return documents


def _rouge_l(predicted: np.ndarray, highlights: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float | None:
    if not any(wanted for _, wanted in highlights):
        return None
    rouge = import_extra("rouge_score.rouge_scorer", extra="rouge", purpose="ROUGE of highlights")
    scorer = rouge.RougeScorer(["rougeL"], use_stemmer=True)
    figures, first = [], 0
    for sentences, wanted in highlights:
        scores = predicted[first : first + len(sentences)]
        first += len(sentences)
        if wanted:
            chosen = " ".join(sentences[index] for index in choose_sentences(scores))
            figures.append(scorer.score(" ".join(wanted), chosen)["rougeL"].fmeasure)
    return float(np.mean(figures))
