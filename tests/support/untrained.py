"""Bundles of any variant with random weights, exported in a second or two without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from model.bundles.bundle import Bundle, write_bundle
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings, ModelSettings, WindowSettings
from model.encoders.encoder import open_encoder
from model.inference.serving import ServingModule
from model.text.tokenization import Tokenizer


def write_untrained(
    path: Path,
    encoder: EncoderSettings,
    model: ModelSettings,
    *,
    labels: tuple[str, ...] = ("aim", "method", "result"),
    features: int = 0,
    add: Callable[[Path], dict[str, Any]] | None = None,
) -> Bundle:
    """Writes a bundle with the exported classifier of random weights, and returns it.

    Args:
        path: its folder.
        encoder, model: the variant.
        labels: none for scores.
        features: how many additional features it takes.
        add: writes more into the folder, and returns facts for the description.
    """
    keras.utils.set_random_seed(3)
    opened = open_encoder(encoder)
    classifier = SentenceClassifier(opened.build(), len(labels) or None, model, name="classifier")
    classifier.build_variables(features)
    for variable in classifier.head.weights:  # its own start is so small that all sentences would look alike
        variable.assign(keras.random.normal(variable.shape, stddev=1.0, seed=4))
    statistics = tuple((0.5 * number, 1.0 + number) for number in range(features))
    window = WindowSettings(max_tokens=48, context=1)
    tokenizer = Tokenizer(opened.vocabulary)
    serving = ServingModule(classifier, tokenizer, labels=labels, window=window, features=statistics, temperature=1.5)

    def export(folder: Path) -> dict[str, Any]:
        serving.export(folder)
        return add(folder) if add is not None else {}

    return write_bundle(
        path,
        export,
        labels=labels,
        window=window,
        vocabulary=opened.vocabulary,
        features=statistics,
        facts={"dev": None, "best_epoch": 1, "temperature": 1.5},
    )
