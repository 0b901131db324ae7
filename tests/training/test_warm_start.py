"""What a warm start takes over: every weight of the bundle, those in lists of layers too."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bundles.bundle import Bundle, write_bundle
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings, ModelSettings, SentenceAttentionSettings
from model.encoders.encoder import open_encoder
from model.inference.serving import ServingModule
from model.text.tokenization import Tokenizer
from model.training.warm_start import warm_start

STACK = SentenceAttentionSettings(layers=2, width=8, feedforward_width=6, heads=2)


def drawn(encoder: EncoderSettings, labels: int, settings: ModelSettings, *, seed: int) -> SentenceClassifier:
    """Returns a classifier whose every weight is drawn anew, so that no two hold the same by accident."""
    keras.utils.set_random_seed(seed)
    classifier = SentenceClassifier(open_encoder(encoder).build(), labels, settings)
    classifier.build_variables()
    draw = np.random.default_rng(seed)
    for variable in classifier.trainable_variables:
        variable.assign(draw.normal(0, 0.3, variable.shape))
    return classifier


def exported(classifier: SentenceClassifier, like: Bundle, folder: Path) -> Bundle:
    serving = ServingModule(classifier, Tokenizer(like.vocabulary), labels=like.labels, window=like.window)
    return write_bundle(
        folder, serving.export, labels=like.labels, window=like.window, vocabulary=like.vocabulary, facts={}
    )


@pytest.mark.parametrize(
    ("settings", "layers"),
    [(ModelSettings(), 2), (ModelSettings(crf=True), 1), (ModelSettings(head="cls", sentence_attention=STACK), 1)],
    ids=["sep", "crf", "cls"],
)
def test_every_weight_is_taken_over(
    settings: ModelSettings, layers: int, tiny_bundle: Bundle, tiny_encoder: Path, tmp_path: Path
) -> None:
    count, encoder = len(tiny_bundle.labels), EncoderSettings(handle=str(tiny_encoder), layers=layers)
    old = drawn(encoder, count, settings, seed=1)
    new = drawn(encoder, count, settings, seed=2)
    warm_start(new, exported(old, tiny_bundle, tmp_path / "bundle"), tiny_bundle.labels)
    assert len(new.trainable_variables) == len(old.trainable_variables) >= 5 + 16 * layers + 2
    for one, other in zip(new.trainable_variables, old.trainable_variables, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(one), tf.convert_to_tensor(other), err_msg=one.path)
