"""The variants of the classifier, documents for them, and what a converted model consists of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from model.bundles.bundle import Bundle
from model.records import EncodedWindow
from model.text.windowing import encode_windows

SENTENCE_ATTENTION = {"width": 16, "feedforward_width": 16, "heads": 2, "layers": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "labels": {},
    "crf": {"model": {"crf": True}},
    "cls": {"model": {"head": "cls", "sentence_attention": SENTENCE_ATTENTION}},
    "cls and crf": {"model": {"head": "cls", "crf": True, "sentence_attention": SENTENCE_ATTENTION}},
    "scores": {"labels": ()},
    "mixed layers": {"encoder": {"mix_layers": True}},
    "features": {"features": 2},
}


def some_windows(bundle: Bundle, *, documents: int = 12) -> list[EncodedWindow]:
    """Returns the windows of documents of random wordpieces, the same each time."""
    draw, vocabulary = np.random.default_rng(0), bundle.vocabulary
    windows: list[EncodedWindow] = []
    for _ in range(documents):
        lengths = draw.integers(0, 12, draw.integers(1, 9))
        windows += encode_windows(
            [draw.integers(5, len(vocabulary.pieces), length).astype(np.int32) for length in lengths],
            bundle.window,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            features=draw.normal(size=(len(lengths), len(bundle.features))) if bundle.features else None,
        )
    return windows


def operations(model: Any) -> Counter[str]:
    """Returns how many operations of each kind an `openvino.Model` has."""
    return Counter(node.get_type_name() for node in model.get_ops())
