"""The exported signatures against the ordinary path: tokenizer, `encode_windows` and `Predictor`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations
from conftest import FILLERS

from model.bundles.bundle import Bundle, load_bundle, write_bundle
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings, WindowSettings
from model.encoders.encoder import open_encoder
from model.inference.kinds import Outputs
from model.inference.predictor import Predictor, pad_batch
from model.inference.serving import ServingModule, _plan_windows
from model.text.tokenization import Tokenizer
from model.text.windowing import encode_windows, plan_windows

LABELS = ("one", "two", "three")


def serving_module(tiny_encoder: Path, window: WindowSettings) -> ServingModule:
    """Returns an untrained classifier, with a head large enough to tell sentences apart, ready to serve."""
    settings = EncoderSettings(handle=str(tiny_encoder))
    classifier = SentenceClassifier(open_encoder(settings).build(), len(LABELS))
    classifier.build_variables()
    draw = np.random.default_rng(1)
    classifier.head.set_weights([draw.normal(size=(16, 3)), draw.normal(size=3)])
    return ServingModule(classifier, Tokenizer(open_encoder(settings).vocabulary), labels=LABELS, window=window)


def random_documents(count: int, *, most_sentences: int, seed: int) -> list[list[str]]:
    """Documents from one sentence to many windows, some sentences longer than a window, some without wordpieces."""
    draw = random.Random(seed)
    documents = []
    for _ in range(count):
        lengths = [draw.choice([1, 2, 4, 7, 12]) for _ in range(draw.randint(1, most_sentences))]
        if draw.random() < 0.3:
            lengths[draw.randrange(len(lengths))] = 150
        document = [" ".join(draw.choice(FILLERS) for _ in range(length)) + "." for length in lengths]
        if draw.random() < 0.3:
            document[draw.randrange(len(document))] = draw.choice([" ", "\u200b"])
        documents.append(document)
    return documents


def expected_probabilities(
    document: list[str], tokenizer: Tokenizer, predictor: Predictor, window: WindowSettings
) -> np.ndarray:
    """Returns `[sentences, labels]` by the path that the scoring job takes."""
    tokens = [np.array(ids, np.int32) for ids in tokenizer.tokenize(tf.constant(document)).to_list()]
    vocabulary = tokenizer.vocabulary
    windows = encode_windows(tokens, window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id)
    rows = []
    for encoded, shown in zip(windows, predictor.run(windows), strict=True):
        first = encoded.window.start
        rows.append(shown["probabilities"][encoded.window.owned_start - first : encoded.window.owned_end - first])
    return np.concatenate(rows)


def padded(documents: list[list[str]], *, surplus: int = 0) -> tf.Tensor:
    width = max(map(len, documents)) + surplus
    return tf.constant([document + [""] * (width - len(document)) for document in documents])


def check_serving(
    serve: Any,
    documents: list[list[str]],
    *,
    tokenizer: Tokenizer,
    predictor: Predictor,
    window: WindowSettings,
    labels: Sequence[str],
) -> None:
    """Compares every sentence's probabilities and label with the ordinary path, and the rest with nothing."""
    outputs = serve(sentences=padded(documents, surplus=1))
    probabilities, names = outputs["probabilities"].numpy(), outputs["labels"].numpy()
    assert probabilities.shape == (*names.shape, len(labels))
    for document, rows, row_names in zip(documents, probabilities, names, strict=True):
        count = len(document)
        expected = expected_probabilities(document, tokenizer, predictor, window)
        np.testing.assert_allclose(rows[:count], expected, atol=1e-5)
        chosen = [labels[label].encode() for label in rows[:count].argmax(axis=1)]
        assert row_names[:count].tolist() == chosen
        assert set(row_names[count:]) == {b""}
        assert not rows[count:].any()


@pytest.mark.parametrize(
    ("context", "segment_ids"), [(0, "zeros"), (1, "alternating"), (2, "zeros"), (3, "alternating")]
)
def test_raw_documents_get_what_the_scoring_job_gives(tiny_encoder: Path, context: int, segment_ids: str) -> None:
    window = WindowSettings.model_validate({"max_tokens": 40, "context": context, "segment_ids": segment_ids})
    module = serving_module(tiny_encoder, window)
    tokenizer = Tokenizer(open_encoder(EncoderSettings(handle=str(tiny_encoder))).vocabulary)

    def classify(batch: Any) -> Outputs:
        return {name: output.numpy() for name, output in module.classify(**batch).items()}

    predictor = Predictor(classify, pad_id=tokenizer.vocabulary.pad_id)
    serve = tf.function(module.serve)
    documents = random_documents(12, most_sentences=20, seed=context)
    plans = [len(plan_windows([len(s.split()) + 1 for s in document], window)) for document in documents]
    assert min(plans) == 1 and max(plans) > 4
    check_serving(serve, documents, tokenizer=tokenizer, predictor=predictor, window=window, labels=LABELS)


def test_export_and_reload(tiny_encoder: Path, tmp_path: Path) -> None:
    window = WindowSettings(max_tokens=24, context=2, segment_ids="alternating")
    module = serving_module(tiny_encoder, window)
    vocabulary = open_encoder(EncoderSettings(handle=str(tiny_encoder))).vocabulary
    write_bundle(tmp_path / "b", module.export, labels=LABELS, window=window, vocabulary=vocabulary, facts={})
    bundle = load_bundle(tmp_path / "b")
    loaded = tf.saved_model.load(str(bundle.path))
    assert sorted(loaded.signatures) == ["classify", "serving_default", "serving_lines", "tokenize"]
    documents = random_documents(10, most_sentences=15, seed=9)
    serve = loaded.signatures["serving_default"]
    tokenizer, predictor = Tokenizer(bundle.vocabulary), Predictor.load(bundle)
    check_serving(serve, documents, tokenizer=tokenizer, predictor=predictor, window=window, labels=LABELS)


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Bundle) -> Any:
    """The SavedModel of `tiny_bundle`, as any TensorFlow server would load it."""
    return tf.saved_model.load(str(tiny_bundle.path))


def test_tokenize_signature(loaded: Any, tiny_bundle: Bundle) -> None:
    outputs = loaded.signatures["tokenize"](sentences=tf.constant(["The drugs, treated.", "", "[SEP]"]))
    assert outputs["row_lengths"].numpy().tolist() == [7, 0, 3]
    words = [tiny_bundle.vocabulary.pieces[i] for i in outputs["token_ids"].numpy()]
    assert words[:7] == ["the", "drug", "##s", ",", "treat", "##ed", "."]
    assert words[7:] == ["[", "[UNK]", "]"]


def test_classify_signature(loaded: Any, tiny_bundle: Bundle) -> None:
    tokens = [np.arange(10, 30, dtype=np.int32), np.arange(5, 20, dtype=np.int32)]
    vocabulary = tiny_bundle.vocabulary
    windows = encode_windows(tokens, tiny_bundle.window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id)
    arrays = pad_batch(windows, pad_id=vocabulary.pad_id)
    outputs = loaded.signatures["classify"](**{name: tf.constant(array) for name, array in arrays.items()})
    probabilities = outputs["probabilities"].numpy()
    assert probabilities.shape == (*arrays["sep_positions"].shape, 4)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities[0, :2], Predictor.load(tiny_bundle).run(windows)[0]["probabilities"])


@pytest.fixture(scope="module")
def check_bundle(loaded: Any, tiny_bundle: Bundle) -> Callable[[list[list[str]]], None]:
    """Checks documents as `check_serving` does, with one predictor for all tests."""
    return partial(
        check_serving,
        loaded.signatures["serving_default"],
        tokenizer=Tokenizer(tiny_bundle.vocabulary),
        predictor=Predictor.load(tiny_bundle),
        window=tiny_bundle.window,
        labels=tiny_bundle.labels,
    )


def test_serving_default_signature(check_bundle: Callable[[list[list[str]]], None]) -> None:
    for seed, (count, most) in enumerate([(1, 1), (1, 30), (7, 3), (20, 12)]):
        check_bundle(random_documents(count, most_sentences=most, seed=seed))


def test_an_empty_sentence_between_others_keeps_its_place(check_bundle: Callable[[list[list[str]]], None]) -> None:
    check_bundle([["The drug was found.", "", "We conclude.", "", "After."]])


@pytest.mark.parametrize("shape", [(0, 3), (1, 2), (2, 0)])
def test_nothing_to_serve(loaded: Any, shape: tuple[int, int]) -> None:
    outputs = loaded.signatures["serving_default"](sentences=tf.fill(shape, ""))
    assert outputs["probabilities"].shape == (*shape, 4)
    assert not outputs["probabilities"].numpy().any()
    assert outputs["labels"].shape == shape
    assert set(outputs["labels"].numpy().ravel()) <= {b""}


def test_a_document_without_sentences_beside_others(loaded: Any) -> None:
    outputs = loaded.signatures["serving_default"](sentences=tf.constant([["", ""], ["We found.", ""]]))
    assert (outputs["labels"].numpy() != b"").tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("max_tokens", [8, 40])
@pytest.mark.parametrize("context", [0, 1, 2, 3])
def test_window_plans_in_the_graph(max_tokens: int, context: int) -> None:
    settings = WindowSettings(max_tokens=max_tokens, context=context)
    plan = tf.function(lambda lengths: _plan_windows(lengths, settings)).get_concrete_function(
        tf.TensorSpec([None], tf.int32)
    )
    draw = random.Random(max_tokens + context)
    counts = set()
    for _ in range(150):
        longest = draw.choice([3, 10, max_tokens - 2])
        lengths = [draw.randint(0, longest) for _ in range(draw.choice([0, 1, 2, 5, 20, 60]))]
        windows = plan_windows(lengths, settings)
        expected = [[w.start, w.end, w.owned_start, w.owned_end] for w in windows]
        assert plan(tf.constant(lengths, tf.int32)).numpy().tolist() == expected, lengths
        counts.add(len(windows))
    assert {0, 1, 2} < counts
