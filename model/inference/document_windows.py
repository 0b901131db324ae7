"""Turns the text of documents into a bundle's windows, for scoring and for comparing models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model.bundles.bundle import Bundle
from model.inference.kinds import Tokenize
from model.records import EncodedWindow
from model.text.windowing import encode_windows


def encode_documents(
    documents: Sequence[tuple[Sequence[str], Sequence[Sequence[float]]]], bundle: Bundle, tokenize: Tokenize
) -> Iterator[list[EncodedWindow]]:
    """Yields the windows of each document; all are tokenized in one call.

    Args:
        documents: for each document its sentences, and its additional features by sentence if the bundle takes any.
        bundle: decides windows and features.
        tokenize: the bundle's tokenizer.
    """
    every = [sentence for sentences, _ in documents for sentence in sentences]
    if not every:
        return
    by_sentence = tokenize(every)
    first = 0
    for sentences, features in documents:
        ids = by_sentence[first : first + len(sentences)]
        first += len(sentences)
        yield encode_windows(
            ids,
            bundle.window,
            cls_id=bundle.vocabulary.cls_id,
            sep_id=bundle.vocabulary.sep_id,
            features=bundle.standardize(features) if bundle.features else None,
        )
