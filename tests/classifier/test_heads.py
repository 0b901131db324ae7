"""Sentence states and heads against computations of their own in numpy, and padding that changes nothing."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import PROJECT, TINY_SHAPE, tiny_weights
from support.numpy_bert import bert_forward
from support.requirements import skip_unless_required

from model.classifier.classifier import SentenceClassifier
from model.classifier.heads import CrfHead, LabelHead, ScoreHead
from model.classifier.sentence_states import SentenceAttention, cls_states
from model.config import EncoderSettings, ModelSettings, SentenceAttentionSettings
from model.encoders.encoder import open_encoder
from model.inference.predictor import pad_batch
from model.records import EncodedWindow, Window

ATTENTION = SentenceAttentionSettings(layers=2, width=16, feedforward_width=10, heads=2)
VARIANTS = {
    "sep": (ModelSettings(), 3, 0),
    "sep, CRF": (ModelSettings(crf=True), 3, 0),
    "sep, scores, features": (ModelSettings(), None, 2),
    "cls": (ModelSettings(head="cls", sentence_attention=ATTENTION), 3, 0),
    "cls, CRF, features": (ModelSettings(head="cls", crf=True, sentence_attention=ATTENTION), 3, 2),
}


def windows(*documents: list[int], features: int = 0, seed: int = 4) -> list[EncodedWindow]:
    """Returns a window for each list of sentence lengths, of random wordpieces."""
    draw = np.random.default_rng(seed)
    made = []
    for lengths in documents:
        sentences = [[*draw.integers(5, 60, length).tolist(), 3] for length in lengths]
        ids = np.array([2, *itertools.chain.from_iterable(sentences)], np.int32)
        ends = np.cumsum([len(sentence) for sentence in sentences]).astype(np.int32)
        made.append(
            EncodedWindow(
                Window(0, 0, len(lengths), 0, len(lengths)),
                ids,
                np.zeros_like(ids),
                ends,
                np.zeros(len(lengths), bool),
                draw.normal(size=(len(lengths), features)).astype(np.float32) if features else None,
            )
        )
    return made


def variant(name: str, encoder: Path) -> tuple[SentenceClassifier, int]:
    """Returns a classifier whose head tells sentences apart, and how many features it takes."""
    settings, labels, features = VARIANTS[name]
    keras.utils.set_random_seed(3)
    classifier = SentenceClassifier(open_encoder(EncoderSettings(handle=str(encoder))).build(), labels, settings)
    classifier.build_variables(features)
    draw = np.random.default_rng(5)
    for weight in classifier.head.weights:
        weight.assign(draw.normal(size=weight.shape))
    return classifier, features


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_never_changes_a_prediction(name: str, tiny_encoder: Path) -> None:
    classifier, features = variant(name, tiny_encoder)
    made = windows([3, 9, 1], [5], [2, 2, 30, 4, 0, 6, 1], [40, 40], features=features)
    together = classifier.outputs(pad_batch(made, pad_id=0))
    for row, window in enumerate(made):
        arrays = {
            "token_ids": window.token_ids,
            "segment_ids": window.segment_ids,
            "padding_mask": np.ones_like(window.token_ids),
            "sep_positions": window.sep_positions,
        }
        if window.features is not None:
            arrays["features"] = window.features
        alone = classifier.outputs({key: array[None] for key, array in arrays.items()})
        assert set(alone) == set(together) == ({"scores"} if "scores" in name else {"probabilities", "label_ids"})
        for key, values in alone.items():
            shown = np.asarray(together[key])[row, : len(window.sep_positions)]
            np.testing.assert_allclose(shown, np.asarray(values)[0], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_is_trained(name: str, tiny_encoder: Path) -> None:
    """A gradient reaches each of them, but for those that a softmax cancels."""
    import tensorflow as tf

    classifier, features = variant(name, tiny_encoder)
    arrays = pad_batch(windows([3, 9, 1], [5, 2], features=features), pad_id=0)
    mask = arrays["sep_positions"] >= 0
    targets = np.arange(mask.size).reshape(mask.shape) % 3
    with tf.GradientTape() as tape:
        logits = classifier(arrays, training=True)
        targets = targets.astype(np.float32) if "scores" in name else targets.astype(np.int32)
        loss = classifier.head.loss(logits, targets, mask.astype(np.float32), mask)
    for weight, gradient in zip(
        classifier.trainable_weights, tape.gradient(loss, classifier.trainable_weights), strict=True
    ):
        assert gradient is not None, weight.path
        moved = float(np.abs(tf.convert_to_tensor(gradient)).max())
        assert np.isfinite(moved)
        assert moved > 0 or weight.path.endswith("key/bias"), weight.path


def test_cls_states_are_those_of_each_sentence_alone(tiny_encoder: Path) -> None:
    encoder = open_encoder(EncoderSettings(handle=str(tiny_encoder))).build()
    made = windows([3, 9, 1], [5], [2, 2, 30, 4, 0, 6, 1], [1])
    states = np.asarray(cls_states(encoder, pad_batch(made, pad_id=0), training=False))
    weights = tiny_weights(TINY_SHAPE)
    for row, window in enumerate(made):
        starts = [0, *window.sep_positions[:-1]]
        for place, (start, end) in enumerate(zip(starts, window.sep_positions, strict=True)):
            ids = np.array([[2, *window.token_ids[start + 1 : end + 1]]], np.int32)
            expected = bert_forward(weights, TINY_SHAPE, ids, np.zeros_like(ids), np.ones_like(ids))[0, 0]
            np.testing.assert_allclose(states[row, place], expected, atol=1e-5)


def norm(states: np.ndarray, layer: Any) -> np.ndarray:
    gamma, beta = layer.get_weights()
    centred = states - states.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta


def test_sentence_attention_in_numpy() -> None:
    keras.utils.set_random_seed(1)
    layer = SentenceAttention(ATTENTION)
    draw = np.random.default_rng(2)
    given = draw.normal(size=(2, 5, 12)).astype(np.float32)
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    layer(given, mask)
    for weight in layer.weights:
        weight.assign(draw.normal(size=weight.shape) * 0.5)
    found = np.asarray(layer(given, mask, training=False))

    rates = np.array([10_000.0 ** (-i / 5) for i in range(6)])
    angles = np.arange(5)[:, None] * rates
    positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    for row, count in enumerate(mask.sum(axis=1)):
        states = (given[row] + positions)[:count]
        for block in layer.blocks:
            (w1, b1), (w2, b2) = block.inner.get_weights(), block.outer.get_weights()
            forward = np.maximum(states @ w1 + b1, 0) @ w2 + b2
            if states.shape[-1] == 16:
                forward = forward + states
            forward = norm(forward, block.feedforward_norm)
            wq, bq, wk, bk, wv, bv, wo, bo = block.attention.get_weights()
            query, key, value = (
                np.einsum("sd,dhk->hsk", forward, w) + b[:, None] for w, b in ((wq, bq), (wk, bk), (wv, bv))
            )
            scores = np.exp(np.einsum("hqk,hsk->hqs", query, key) / np.sqrt(8))
            mixed = np.einsum("hqs,hsk->qhk", scores / scores.sum(-1, keepdims=True), value)
            states = norm(forward + np.einsum("qhk,hkd->qd", mixed, wo) + bo, block.attention_norm)
        np.testing.assert_allclose(found[row, :count], states, atol=1e-4)


LOGITS = np.array([[[2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [3.0, 3.0, 3.0]], [[0.1, 0.2, 0.3], [9.0, 9.0, 9.0], [0, 0, 0]]])
MASK = np.array([[True, True, True], [True, False, False]])
WEIGHTS = np.array([[0.5, 0.0, 1.0], [0.25, 7.0, 7.0]])  # those at padding must not count


def test_label_head_loss_and_predictions() -> None:
    head = LabelHead(3)
    labels = np.array([[0, 2, 1], [2, 0, 0]], np.int32)
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    expected = -(
        0.5 * log_probabilities[0, 0, 0] + 1.0 * log_probabilities[0, 2, 1] + 0.25 * log_probabilities[1, 0, 2]
    )
    logits, weights = LOGITS.astype(np.float32), WEIGHTS.astype(np.float32)
    assert float(head.loss(logits, labels, weights, MASK)) == pytest.approx(expected, rel=1e-5)
    outputs = head.predict(logits, MASK, 2.0)
    halved = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs["probabilities"], halved, atol=1e-6)
    assert np.asarray(outputs["label_ids"])[MASK].tolist() == [0, 1, 0, 2]


def test_crf_head_weighs_a_window_by_its_counted_sentences() -> None:
    """The window's loss is the likelihood of the sentences that count, times their mean weight; here enumerated."""
    head = CrfHead(3)
    head.build((None, None, 4))
    draw = np.random.default_rng(0)
    for weight in (head.transitions, head.start, head.end):
        weight.assign(draw.normal(size=weight.shape))
    transitions, start, end = (np.asarray(w) for w in (head.transitions, head.start, head.end))
    labels = np.array([[0, 2, 1], [2, 0, 0]], np.int32)

    def total(row: int, count: int, fixed: dict[int, int], temperature: float = 1.0) -> float:
        scores = [
            start[path[0]] + end[path[-1]] + sum(LOGITS[row, t, y] for t, y in enumerate(path))
            + sum(transitions[a, b] for a, b in itertools.pairwise(path))
            for path in itertools.product(range(3), repeat=count)
            if all(path[t] == y for t, y in fixed.items())
        ]  # fmt: skip
        return float(np.logaddexp.reduce(np.array(scores) / temperature))

    expected = -(total(0, 3, {0: 0, 2: 1}) - total(0, 3, {})) * 0.75 - (total(1, 1, {0: 2}) - total(1, 1, {})) * 0.25
    logits, weights = LOGITS.astype(np.float32), WEIGHTS.astype(np.float32)
    assert float(head.loss(logits, labels, weights, MASK)) == pytest.approx(expected, rel=1e-4)
    outputs = head.predict(logits, MASK, 3.0)
    for label in range(3):
        marginal = np.exp(total(0, 3, {1: label}, 3.0) - total(0, 3, {}, 3.0))
        assert float(outputs["probabilities"][0, 1, label]) == pytest.approx(marginal, abs=1e-5)


def test_score_head_is_the_squared_error() -> None:
    head = ScoreHead()
    scores = np.array([[1.0, 5.0, 2.0], [0.0, 0.0, 0.0]], np.float32)
    expected = 0.5 * (2.0 - 1.0) ** 2 + 1.0 * (3.0 - 2.0) ** 2 + 0.25 * 0.1**2
    logits, weights = LOGITS[:, :, :1].astype(np.float32), WEIGHTS.astype(np.float32)
    assert float(head.loss(logits, scores, weights, MASK)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(head.predict(logits, MASK)["scores"], LOGITS[:, :, 0].astype(np.float32))


JAX = """
import sys
import keras, numpy as np
assert keras.backend.backend() == "jax"
sys.path[:0] = ["tests", "tests/classifier"]
from pathlib import Path
from test_heads import VARIANTS, pad_batch, variant, windows
outputs = {}
for name in VARIANTS:
    classifier, features = variant(name, Path(sys.argv[1]))
    for weight, value in zip(classifier.weights, np.load(sys.argv[2])[name].tolist(), strict=True):
        weight.assign(np.array(value))
    found = classifier.outputs(pad_batch(windows([3, 9, 1], [5], features=features), pad_id=0))
    outputs |= {f"{name}/{key}": np.asarray(values) for key, values in found.items()}
np.savez(sys.argv[3], **outputs)
"""


@pytest.mark.engines
def test_the_same_under_jax(tiny_encoder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("jax") is None:
        skip_unless_required("jax", "jax is not installed")
    weights: dict[str, Any] = {}
    expected: dict[str, np.ndarray] = {}
    for name in VARIANTS:
        classifier, features = variant(name, tiny_encoder)
        weights[name] = np.array([weight.numpy().tolist() for weight in classifier.weights], object)
        found = classifier.outputs(pad_batch(windows([3, 9, 1], [5], features=features), pad_id=0))
        expected |= {f"{name}/{key}": np.asarray(values) for key, values in found.items()}
    np.savez(tmp_path / "weights.npz", **weights)
    code = JAX.replace("np.load(sys.argv[2])", "np.load(sys.argv[2], allow_pickle=True)")
    command = [sys.executable, "-c", code, str(tiny_encoder), str(tmp_path / "weights.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, "KERAS_BACKEND": "jax"}, check=True)
    outputs = np.load(tmp_path / "out.npz")
    for key, values in expected.items():
        np.testing.assert_allclose(outputs[key], values, atol=1e-5)
