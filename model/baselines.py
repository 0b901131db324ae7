"""Two cheap classifiers on the same documents, so that a reader sees what the encoder is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.evaluate import LabelledSentences, Metrics, measure
from model.training_data import TrainingData

_POSITION_BINS = 20


@dataclass(frozen=True)
class _Split:
    """A split as text: parallel arrays, one entry a sentence."""

    sentences: LabelledSentences
    texts: list[str]
    positions: np.ndarray  # 0 for the first sentence of its document, 1 for the last


def evaluate_baselines(data: TrainingData, split: str) -> dict[str, Metrics]:
    """Returns the metrics on `split` of baselines fitted on the train split.

    `position` knows only how far down the abstract a sentence stands and takes the most frequent label there;
    `tfidf` knows only its words: TF-IDF of words and word pairs, and logistic regression.
    """
    train, judged = _read(data, "train"), _read(data, split)
    predictions = {"position": _by_position(train, judged), "tfidf": _by_words(train, judged)}
    return {name: measure(judged.sentences, predicted, labels=data.labels) for name, predicted in predictions.items()}


def _by_position(train: _Split, judged: _Split) -> np.ndarray:
    def bins(positions: np.ndarray) -> np.ndarray:
        return np.minimum((positions * _POSITION_BINS).astype(int), _POSITION_BINS - 1)

    counts = np.zeros((_POSITION_BINS, int(train.sentences.labels.max()) + 1), int)
    np.add.at(counts, (bins(train.positions), train.sentences.labels), 1)
    counts += counts.sum(axis=0) * (counts.sum(axis=1, keepdims=True) == 0)  # an empty bin takes the overall winner
    return counts.argmax(axis=1)[bins(judged.positions)]


def _by_words(train: _Split, judged: _Split) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(np.unique(train.sentences.labels)) == 1:  # nothing to regress on
        return np.full(len(judged.texts), train.sentences.labels[0])
    # Any run of letters or digits is a word, so that no text is without words by accident of its script.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
    classifier = make_pipeline(words, LogisticRegression(C=4.0, max_iter=200))
    classifier.fit(train.texts, train.sentences.labels)
    return np.asarray(classifier.predict(judged.texts))


def _read(data: TrainingData, split: str) -> _Split:
    columns = ["doc_id", "sentences", "labels"]
    parts = [pq.read_table(file, columns=columns, partitioning=None) for file in data.document_files(split)]
    documents = pa.concat_tables(parts)
    counts = [len(sentences) for sentences in documents["sentences"].to_pylist()]
    doc_ids = [
        doc_id for doc_id, count in zip(documents["doc_id"].to_pylist(), counts, strict=True) for _ in range(count)
    ]
    ids = {label: index for index, label in enumerate(data.labels)}
    labels = np.array([ids[label] for labels in documents["labels"].to_pylist() for label in labels])
    indices = np.concatenate([np.arange(count) for count in counts])
    last = np.repeat(np.maximum(np.array(counts) - 1, 1), counts)
    texts = [text for sentences in documents["sentences"].to_pylist() for text in sentences]
    return _Split(LabelledSentences(doc_ids, indices, labels), texts, indices / last)
