"""A candidate and a champion with other vocabularies and labels, judged on the same documents."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import TINY_VOCABULARY, write_checkpoint

from model.bundles.bundle import Bundle, write_bundle
from model.bundles.training_data import open_training_data
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
from model.evaluation.evaluate import evaluate_bundle
from model.evaluation.metrics import Metrics
from model.inference.serving import ServingModule
from model.text.tokenization import Tokenizer
from model.training.warm_start import warm_start
from pipelines.retraining.evaluation import Champion, evaluate_candidate
from pipelines.retraining.settings import GatesSection


@pytest.fixture(scope="module")
def twin(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that gives every sentence what `tiny_bundle` gives it, and knows labels and wordpieces in other orders.

    It also has a label that the other has not, and never gives it.
    """
    folder = tmp_path_factory.mktemp("twin")
    pieces = tuple(reversed(TINY_VOCABULARY))
    labels = ("odd", *reversed(tiny_bundle.labels))
    settings = EncoderSettings(handle=str(write_checkpoint(folder / "encoder", vocabulary=pieces)))
    classifier = SentenceClassifier(open_encoder(settings).build(), len(labels))
    classifier.build_variables()
    warm_start(classifier, tiny_bundle, labels)
    (words,) = [one for one in classifier.trainable_variables if one.shape[0] == len(pieces)]
    words.assign(words.numpy()[::-1])
    kernel, bias = classifier.head.linear.get_weights()
    kernel[:, 0], bias[0] = 0.0, -100.0
    classifier.head.linear.set_weights([kernel, bias])
    vocabulary = open_encoder(settings).vocabulary
    serving = ServingModule(
        classifier,
        Tokenizer(vocabulary),
        labels=labels,
        window=tiny_bundle.window,
        temperature=tiny_bundle.description["temperature"],
    )
    return write_bundle(
        folder / "bundle", serving.export, labels=labels, window=tiny_bundle.window, vocabulary=vocabulary, facts={}
    )


@pytest.mark.parametrize("turned", [False, True], ids=["twin is champion", "twin is candidate"])
def test_labels_are_matched_by_name(tiny_bundle: Bundle, twin: Bundle, tiny_records: Path, turned: bool) -> None:
    data = open_training_data(tiny_records)
    candidate, champion = (twin, tiny_bundle) if turned else (tiny_bundle, twin)
    settings = GatesSection(samples=100, slice_pattern="tiny")
    found = evaluate_candidate(candidate, Champion(champion, 4, 0.5), data, "test", settings=settings)
    expected = evaluate_bundle(str(tiny_bundle.path), str(tiny_records), "test").results["sepline"]
    assert isinstance(expected, Metrics) and expected.accuracy > 0.7
    assert (found.sentences, found.documents, found.split) == (expected.sentences, expected.documents, "test")
    assert found.champion is not None and found.comparison is not None
    for figures in (found.candidate, found.champion):
        metrics = figures.metrics
        assert metrics.accuracy == expected.accuracy
        assert metrics.macro_f1 == pytest.approx(expected.macro_f1)
        assert metrics.calibration_error == pytest.approx(expected.calibration_error, abs=1e-3)
        assert {label: metrics.labels[label] for label in data.labels} == expected.labels
        assert metrics.labels["odd"].support == 0
        assert [row[: len(data.labels)] for row in metrics.confusion[:-1]] == expected.confusion
    assert found.candidate.fingerprint == candidate.fingerprint
    assert found.champion.fingerprint == champion.fingerprint
    assert (found.champion.version, found.champion.accuracy_when_published) == (4, 0.5)
    assert set(dataclasses.astuple(found.comparison.accuracy)) == {0.0}
    (one,) = found.slices
    assert (one.name, one.documents) == ("tiny", expected.documents)
    assert one.first == one.second == pytest.approx(expected.accuracy)


def test_records_that_were_made_for_another_model_give_the_same_figures(
    tiny_bundle: Bundle, twin: Bundle, tiny_records: Path
) -> None:
    """The records have other wordpieces than the twin, and other labels in another order."""
    own = evaluate_bundle(str(tiny_bundle.path), str(tiny_records), "test")
    others = evaluate_bundle(str(twin.path), str(tiny_records), "test")
    assert own.unknown_labels == others.unknown_labels == {}
    for name, figures in own.results.items():
        found = others.results[name]
        assert isinstance(figures, Metrics) and isinstance(found, Metrics)
        assert found.accuracy == figures.accuracy
        assert found.macro_f1 == pytest.approx(figures.macro_f1)
        assert list(found.labels) == list(twin.labels)
        assert {label: found.labels[label] for label in figures.labels} == figures.labels
