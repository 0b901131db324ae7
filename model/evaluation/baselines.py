"""Two cheap classifiers on the same documents, which show how much the encoder contributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.bundles.training_data import TrainingData
from model.evaluation.metrics import LabelledSentences, Metrics, measure
from model.evaluation.score_metrics import ScoreMetrics, measure_scores, read_highlights

_POSITION_BINS = 20


@dataclass(frozen=True)
class _Split:
    """A split as text: parallel arrays with one entry per sentence."""

    sentences: LabelledSentences
    texts: list[str]
    positions: np.ndarray  # 0 for the first sentence of its document, 1 for the last


def evaluate_baselines(
    data: TrainingData, split: str, *, labels: Sequence[str] | None = None
) -> dict[str, Metrics | ScoreMetrics]:
    """Returns the metrics on `split` of baselines fitted on the train split.

    `position` uses only a sentence's relative position in the abstract, and predicts the most frequent label, or the
    mean score, at that position. `tfidf` uses only its words: TF-IDF of words and word pairs, and logistic or ridge
    regression.

    Args:
        data: the folder of records.
        split: which of its documents are judged.
        labels: the order of the labels in the metrics, all of the data's and perhaps others; None for the data's.
    """
    labels = data.labels if labels is None else labels
    train, judged = _read(data, "train", labels), _read(data, split, labels)
    predictions = {"position": _by_position(train, judged), "tfidf": _by_words(train, judged)}
    sentences = judged.sentences
    if data.labels:
        return {name: measure(sentences, predicted, labels=labels) for name, predicted in predictions.items()}
    documents = read_highlights(data, split)
    return {
        name: measure_scores(sentences.doc_ids, sentences.targets, predicted, highlights=documents)
        for name, predicted in predictions.items()
    }


def _by_position(train: _Split, judged: _Split) -> np.ndarray:
    def bins(positions: np.ndarray) -> np.ndarray:
        return np.minimum((positions * _POSITION_BINS).astype(int), _POSITION_BINS - 1)

    targets, bin_of = train.sentences.targets, bins(train.positions)
    if targets.dtype.kind == "f":
        seen = np.bincount(bin_of, minlength=_POSITION_BINS)
        means = np.bincount(bin_of, targets, _POSITION_BINS) / np.maximum(seen, 1)
        return np.where(seen > 0, means, targets.mean())[bins(judged.positions)]
    counts = np.zeros((_POSITION_BINS, int(targets.max()) + 1), int)
    np.add.at(counts, (bin_of, targets), 1)
    counts += counts.sum(axis=0) * (counts.sum(axis=1, keepdims=True) == 0)  # empty bins get the most frequent label
    return counts.argmax(axis=1)[bins(judged.positions)]


def _by_words(train: _Split, judged: _Split) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    targets = train.sentences.targets
    if len(np.unique(targets)) == 1:  # nothing to regress on
        return np.full(len(judged.texts), targets[0])
    # Any run of letters or digits is a word, and so is any other character: text in every script has words.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
    regression = Ridge() if targets.dtype.kind == "f" else LogisticRegression(C=4.0, max_iter=200)
    return np.asarray(make_pipeline(words, regression).fit(train.texts, targets).predict(judged.texts))


def _read(data: TrainingData, split: str, labels: Sequence[str]) -> _Split:
    target = "labels" if data.labels else "scores"
    columns = ["doc_id", "sentences", target]
    parts = [pq.read_table(file, columns=columns, partitioning=None) for file in data.document_files(split)]
    documents = pa.concat_tables(parts)
    counts = [len(sentences) for sentences in documents["sentences"].to_pylist()]
    doc_ids = [
        doc_id for doc_id, count in zip(documents["doc_id"].to_pylist(), counts, strict=True) for _ in range(count)
    ]
    flat = [item for items in documents[target].to_pylist() for item in items]
    ids = {label: index for index, label in enumerate(labels)}
    targets = np.array([ids[label] for label in flat]) if data.labels else np.array(flat, np.float32)
    indices = np.concatenate([np.arange(count) for count in counts])
    last = np.repeat(np.maximum(np.array(counts) - 1, 1), counts)
    texts = [text for sentences in documents["sentences"].to_pylist() for text in sentences]
    return _Split(LabelledSentences(doc_ids, indices, targets), texts, indices / last)
