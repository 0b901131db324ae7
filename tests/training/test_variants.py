"""Every variant from corpus to predictions: targets, features, mixtures, weights, devices, warm start, precision."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import TINY_SHAPE, MakeOnce, make_records, tiny_documents, write_checkpoint, write_corpus
from support.warm_jobs import WarmJobs
from test_input_pipeline import read_batches
from test_train import changed, compiled

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.training_data import TrainingData, open_training_data
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings, ModelSettings, Settings
from model.encoders.encoder import open_encoder
from model.errors import UserError
from model.evaluation.evaluate import evaluate_bundle, predict
from model.evaluation.score_metrics import ScoreMetrics
from model.inference.labelled_windows import read_windows
from model.inference.predictor import Predictor, pad_batch
from model.training.input_pipeline import label_weights
from model.training.loop import read_history
from model.training.step import group
from model.training.train import train_and_evaluate
from model.training.warm_start import warm_start
from pipelines.cli import main

STILL = {**TINY_SHAPE, "num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STACK = {"width": 16, "feedforward_width": 16, "heads": 2, "layers": 1}


def rich_documents() -> list[dict[str, Any]]:
    """Returns the tiny documents with scores, features, confidences and highlights."""
    documents = tiny_documents()
    for document in documents:
        sentences = document["sentences"]
        document["scores"] = [len(sentence.split()) / 10 for sentence in sentences]
        document["features"] = [[float(len(sentence)), place * 0.5] for place, sentence in enumerate(sentences)]
        document["confidences"] = [1.0 if place % 2 else 0.5 for place in range(len(sentences))]
        document["highlights"] = sentences[:1]
    documents[0]["sentences"][0] = "Of it."  # an outlier
    return documents


@pytest.fixture(scope="session")
def rich_corpus(make_once: MakeOnce) -> Path:
    return make_once("rich", lambda folder: write_corpus(folder, "rich.jsonl", rich_documents())) / "rich.jsonl"


@pytest.fixture(scope="session")
def score_records(make_once: MakeOnce, rich_corpus: Path, tiny_settings: Settings) -> Path:
    settings = changed(tiny_settings, data={"target": "scores", "features": 2, "mask_outliers": True})
    return make_once("score_records", lambda folder: make_records(rich_corpus, folder, settings))


@pytest.fixture(scope="session")
def feature_records(make_once: MakeOnce, rich_corpus: Path, tiny_settings: Settings) -> Path:
    settings = changed(tiny_settings, data={"features": 2})
    return make_once("feature_records", lambda folder: make_records(rich_corpus, folder, settings))


def training(settings: Settings, records: Path, **sections: dict[str, Any]) -> Settings:
    """Returns settings for two epochs on records, with some values changed."""
    data = open_training_data(records)
    base = settings.model_copy(update={"data": data.settings.data})
    sections["training"] = {"epochs": 2, **sections.get("training", {})}
    return changed(base, **sections)


def rows_of(data: TrainingData, split: str) -> list[dict[str, Any]]:
    return [row for file in data.document_files(split) for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_features_are_standardized_over_the_train_split(feature_records: Path) -> None:
    data = open_training_data(feature_records)
    table = np.array([feature for row in rows_of(data, "train") for feature in row["features"]])
    mean, deviation = np.array(data.features).T
    np.testing.assert_allclose(mean, table.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(deviation, table.std(axis=0), rtol=1e-4)
    for split in ("train", "dev", "test"):
        by_id = {row["doc_id"]: row for row in rows_of(data, split)}
        for window in read_windows(data, split):
            shown = slice(window.encoded.window.start, window.encoded.window.end)
            row = by_id[window.doc_id]
            expected = (np.array(row["features"])[shown] - table.mean(axis=0)) / table.std(axis=0)
            assert window.encoded.features is not None
            np.testing.assert_allclose(window.encoded.features, expected, atol=1e-3)
            assert window.confidences.tolist() == row["confidences"][shown]
            assert [data.labels[label] for label in window.targets] == row["labels"][shown]


def test_outliers_are_masked_and_score_nothing(score_records: Path) -> None:
    data = open_training_data(score_records)
    documents = {document["doc_id"]: document for document in rich_documents()}
    masked = 0
    for split in ("train", "dev", "test"):
        for window in read_windows(data, split):
            encoded, document = window.encoded, documents[window.doc_id]
            spans = np.split(encoded.token_ids[1:], encoded.sep_positions)
            for place in range(encoded.window.start, encoded.window.end):
                sentence, score = document["sentences"][place], document["scores"][place]
                outlier = len(sentence) <= 10
                shown = place - encoded.window.start
                assert window.targets[shown] == pytest.approx(0.0 if outlier else score)
                assert (spans[shown].tolist() == [1, 3]) == outlier  # the placeholder is unknown to it
                masked += outlier
    assert masked > 0


def test_features_and_scores_that_cannot_be_used(tiny_encoder: Path, tmp_path: Path) -> None:
    """The largest numbers that 32 bits hold are used, and neither their sum nor their squares overflow."""
    good = {"doc_id": "good", "sentences": ["We used the drug."], "scores": [0.5], "features": [[1.0]]}
    records = [
        good,
        {**good, "doc_id": "wide", "features": [[1.0, 2.0]]},
        {**good, "doc_id": "bare", "features": None},
        {**good, "doc_id": "unscored", "scores": None},
        *({**good, "doc_id": f"most{number}", "features": [[3.4e38]]} for number in range(5)),
        {**good, "doc_id": "least", "features": [[-3.4e38]]},
        {**good, "doc_id": "over", "features": [[1e39]]},
        {**good, "doc_id": "top", "scores": [-3.5e38]},
    ]
    source = tmp_path / "c.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    flags = ["--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=48"]
    flags += ["--set", "data.target=scores", "--set", "data.features=1"]
    assert main(["preprocess", "--train", str(source), "--output", str(tmp_path / "out"), *flags]) == 0
    data = open_training_data(tmp_path / "out")
    assert data.stats["counts"]["rejects"] == {"unscored": 1, "wrong_features": 2, "wrong_type": 2}
    numbers = [1.0, *[3.4e38] * 5, -3.4e38]
    ((mean, deviation),) = data.features
    assert (mean, deviation) == pytest.approx((np.mean(numbers), np.std(numbers)))
    by_id = {window.doc_id: window.encoded.features for window in read_windows(data, "train")}
    expected = (np.array(numbers) - np.mean(numbers)) / np.std(numbers)
    for doc_id, number in zip(["good", *(f"most{number}" for number in range(5)), "least"], expected, strict=True):
        features = by_id[doc_id]
        assert features is not None
        np.testing.assert_allclose(features, [[number]], rtol=1e-6)


def test_scores_from_corpus_to_predictions(
    score_records: Path, rich_corpus: Path, tiny_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = training(tiny_settings, score_records, encoder={"layers": 1}, training={"epochs": 3})
    bundle = train_and_evaluate(settings, str(score_records), str(tmp_path / "run"))
    history = read_history(tmp_path / "run")
    assert history[-1]["dev"]["mse"] < history[0]["dev"]["mse"]
    assert (bundle.labels, len(bundle.features), bundle.mask_outliers) == ((), 2, True)

    results = evaluate_bundle(str(bundle.path), str(score_records), "test").results
    assert set(results) == {"sepline", "position", "tfidf"}
    metrics = results["sepline"]
    assert isinstance(metrics, ScoreMetrics) and metrics.rouge_l is not None and 0 < metrics.rouge_l <= 1
    # On the scores that the corpus gives, as the baselines; the records have 0 for an outlier.
    data = open_training_data(score_records)
    _, outputs = predict(Predictor.load(bundle), read_windows(data, "test"))
    scores = [score for row in rows_of(data, "test") for score in row["scores"]]
    assert metrics.mse == pytest.approx(float(np.mean((outputs["scores"] - scores) ** 2)), rel=1e-5)
    # Records without masks, with other windows and other means of features: the model reads the documents its own way.
    other = changed(
        tiny_settings,
        window={"max_tokens": 64, "context": 2},
        data={"target": "scores", "features": 2, "splits": {"train": 0.3, "dev": 0.5, "test": 0.2}},
    )
    make_records(rich_corpus, tmp_path / "other", other)
    assert open_training_data(tmp_path / "other").features != data.features
    assert evaluate_bundle(str(bundle.path), str(tmp_path / "other"), "test").results["sepline"] == metrics
    assert main(["evaluate", "--model", str(bundle.path), "--data", str(score_records)]) == 0
    assert "Spearman" in capsys.readouterr().out

    command = ["score", "--model", str(bundle.path), "--input", str(rich_corpus), "--output", str(tmp_path / "scored")]
    assert main(command) == 0
    rows = pq.read_table(tmp_path / "scored").to_pylist()
    loaded = tf.saved_model.load(str(bundle.path))
    assert sorted(loaded.signatures) == ["classify", "serving_default", "tokenize"]  # lines have no room for features
    served = loaded.signatures["serving_default"]
    documents = rich_documents()
    assert len(rows) == sum(len(document["sentences"]) for document in documents)
    for document in documents[:12]:
        found = served(
            sentences=tf.constant([document["sentences"]]), features=tf.constant([document["features"]], tf.float32)
        )
        scored = [row["score"] for row in rows if row["doc_id"] == document["doc_id"]]
        np.testing.assert_allclose(scored, found["scores"].numpy()[0], atol=1e-4)

    lean = tmp_path / "lean.jsonl"
    lean.write_text(json.dumps({"doc_id": "lean", "sentences": ["We used the drug."]}) + "\n", encoding="utf-8")
    assert main([*command[:4], str(lean), "--output", str(tmp_path / "lean")]) == 0
    (reject,) = pq.read_table(tmp_path / "lean" / "_rejects").to_pylist()
    assert (reject["reason"], "2 are wanted" in reject["message"]) == ("wrong_features", True)


@pytest.mark.parametrize(("head", "crf"), [("sep", True), ("cls", False), ("cls", True)])
def test_variants_train_and_serve(
    feature_records: Path, rich_corpus: Path, tiny_settings: Settings, tmp_path: Path, head: str, crf: bool
) -> None:
    """The exported signatures say what the scoring job writes."""
    settings = training(
        tiny_settings,
        feature_records,
        encoder={"layers": 1},
        model={"head": head, "crf": crf, "sentence_attention": STACK},
    )
    bundle = train_and_evaluate(settings, str(feature_records), str(tmp_path / "run"))
    dev = bundle.description["dev"]
    data = open_training_data(feature_records)
    sentences, outputs = predict(Predictor.load(bundle), read_windows(data, "dev"))
    assert float(np.mean(outputs["label_ids"] == sentences.targets)) == pytest.approx(dev["accuracy"])
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-4)
    served = tf.saved_model.load(str(bundle.path)).signatures["serving_default"]
    command = ["score", "--model", str(bundle.path), "--input", str(rich_corpus), "--output", str(tmp_path / "out")]
    assert main([*command, "--predictor", "tensorflow"]) == 0  # the other's bf16 differs by more than is asked below
    rows = pq.read_table(tmp_path / "out").to_pylist()
    # What was trained on, with the features that tf.Transform has standardized, and what the job makes of raw ones.
    by_place = {(row["doc_id"], row["sentence_index"]): row["probabilities"] for row in rows}
    places = zip(sentences.doc_ids, sentences.sentence_indices.tolist(), strict=True)
    np.testing.assert_allclose([by_place[place] for place in places], outputs["probabilities"], atol=1e-3)
    for document in rich_documents()[:12]:
        found = served(
            sentences=tf.constant([document["sentences"]]), features=tf.constant([document["features"]], tf.float32)
        )
        scored = [row for row in rows if row["doc_id"] == document["doc_id"]]
        assert [row["label"] for row in scored] == [label.decode() for label in found["labels"].numpy()[0]]
        np.testing.assert_allclose(
            [row["probabilities"] for row in scored], found["probabilities"].numpy()[0], atol=1e-4
        )
        for row in scored:
            assert row["probability"] == row["probabilities"][bundle.labels.index(row["label"])]


def test_calibration_does_not_raise_the_error_of_dev(tiny_bundle: Bundle, tiny_records: Path) -> None:
    """The temperature makes the labels of dev as likely as any: a little colder or warmer they are less so."""
    data = open_training_data(tiny_records)
    sentences, outputs = predict(Predictor.load(tiny_bundle), read_windows(data, "dev"))
    logits = np.log(np.maximum(outputs["probabilities"], 1e-12))  # at the temperature found

    def negative_log_likelihood(factor: float) -> float:
        scaled = logits * factor
        return float(
            np.mean(np.log(np.exp(scaled).sum(1)) - np.take_along_axis(scaled, sentences.targets[:, None], 1)[:, 0])
        )

    assert (
        negative_log_likelihood(1.0)
        <= min(negative_log_likelihood(factor) for factor in (0.8, 0.95, 1.05, 1.25)) + 1e-6
    )
    assert tiny_bundle.description["temperature"] != 1.0


def test_class_weights(tiny_records: Path, tiny_settings: Settings) -> None:
    data = open_training_data(tiny_records)
    counts = data.stats["label_counts"]["train"]
    balanced = changed(tiny_settings, training={"class_weights": "balanced"}).training
    weights = label_weights(balanced, [data], data.labels)
    assert weights is not None
    assert sum(counts[label] * weight for label, weight in zip(data.labels, weights, strict=True)) == pytest.approx(
        sum(counts.values())
    )
    assert len({round(counts[label] * weight, 6) for label, weight in zip(data.labels, weights, strict=True)}) == 1
    named = changed(tiny_settings, training={"class_weights": {data.labels[1]: 3.0}}).training
    assert label_weights(named, [data], data.labels) == (1.0, 3.0, 1.0, 1.0)
    for inputs, targets, found in read_batches(data, label_weights=(1.0, 3.0, 1.0, 1.0)):
        real = found > 0
        assert (found[real] == np.where(targets[real] == 1, 3.0, 1.0)).all()
        assert not found[inputs["sep_positions"] < 0].any()
    with pytest.raises(UserError, match=r"training\.class_weights names 'odd'"):
        label_weights(changed(tiny_settings, training={"class_weights": {"odd": 2.0}}).training, [data], data.labels)


def test_several_training_sets_by_share(tiny_records: Path) -> None:
    """A set with other label ids is mapped by name, and each has its share of the batches."""
    data = open_training_data(tiny_records)
    turned = dataclasses.replace(data, labels=(*data.labels[1:], data.labels[0]))
    own = read_batches(data)
    both = read_batches(data, turned, shares=[3, 1])
    assert len(both) == round(2 * len(own) * 0.75) + round(2 * len(own) * 0.25)
    assert [read_batches(data, turned, shares=[3, 1])[0][0]["token_ids"].tolist()] == [both[0][0]["token_ids"].tolist()]

    def seen(batches: list[Any]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        return {
            (tuple(ids[: mask.sum()].tolist()), tuple(row[weight > 0].tolist()))
            for inputs, targets, weights in batches
            for ids, mask, row, weight in zip(
                inputs["token_ids"], inputs["padding_mask"], targets, weights, strict=True
            )
        }

    moved = {0: 1, 1: 2, 2: 3, 3: 0}  # where the second set's ids are in the first one's labels
    expected = seen(own) | {(ids, tuple(moved[label] for label in labels)) for ids, labels in seen(own)}
    assert seen(both) <= expected
    assert len(seen(both) - seen(own)) > 0


def test_training_on_two_folders(
    tiny_bundle: Bundle, tiny_records: Path, tiny_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into the folder of another run, which only `--overwrite` replaces."""
    shutil.copytree(tiny_bundle.path.parent, tmp_path / "run")
    settings = training(tiny_settings, tiny_records, training={"epochs": 1}, encoder={"layers": 1})
    command = ["train", "--data", str(tiny_records), str(tiny_records), "--shares", "2", "1"]
    (tmp_path / "s.json").write_text(json.dumps(settings.model_dump(mode="json")), encoding="utf-8")
    command += ["--config", str(tmp_path / "s.json"), "--output", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert load_bundle(tmp_path / "run" / "bundle").fingerprint == tiny_bundle.fingerprint
    assert main([*command, "--overwrite"]) == 0
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert (len(bundle.description["data"]), bundle.description["best_epoch"]) == (2, 1)
    assert [figures["epoch"] for figures in read_history(tmp_path / "run")] == [1]
    assert main(command) == 0  # it is finished, and as asked for
    assert load_bundle(tmp_path / "run" / "bundle") == bundle
    with pytest.raises(UserError, match="positive share"):
        train_and_evaluate(settings, [str(tiny_records)] * 2, str(tmp_path / "other"), shares=[1.0])


def test_batches_of_one_step_count_as_one_batch(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    """One step of three batches, the last of them a filler, moves the weights as one step of the two others does."""
    still = write_checkpoint(tmp_path / "still", shape={**STILL, "num_hidden_layers": 2})
    data = open_training_data(tiny_records)
    batches = read_batches(data)[:2]
    moved = []
    for accumulate in (2, 3):
        classifier = compiled(still, tiny_settings, model=ModelSettings(dropout=0, crf=True))
        steps = group(ragged_dataset(batches), accumulate)
        assert int(steps.cardinality()) == 1
        classifier.fit(steps, verbose=0, shuffle=False)
        assert int(classifier.optimizer.iterations) == 1
        moved.append(classifier.get_weights())
    for one, other in zip(*moved, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    # The same gradient by hand: the weighted mean over the sentences of both batches.
    classifier = compiled(still, tiny_settings, model=ModelSettings(dropout=0, crf=True))
    with tf.GradientTape() as tape:
        losses = [classifier.head.loss(classifier(x), y, w, x["sep_positions"] >= 0) for x, y, w in batches]
        loss = sum(losses) / sum(float(w.sum()) for _, _, w in batches)
    gradients = tape.gradient(loss, classifier.trainable_weights)
    classifier.optimizer.apply(gradients, classifier.trainable_weights)
    for one, other in zip(classifier.get_weights(), moved[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def ragged_dataset(batches: list[Any]) -> tf.data.Dataset:
    """Returns a dataset of batches of different shapes, of known length."""
    datasets = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    joined = datasets[0]
    for dataset in datasets[1:]:
        joined = joined.concatenate(dataset)
    return joined


LOGICAL_DEVICES = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * {count})
"""


def test_two_devices_train_as_one_does(
    tiny_records: Path, tiny_settings: Settings, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    """The same global batches on two logical devices give the same weights within rounding, clipped gradients too."""
    still = write_checkpoint(tmp_path / "still", shape=STILL)
    settings = training(
        tiny_settings,
        tiny_records,
        encoder={"handle": str(still)},
        model={"dropout": 0.0, "crf": True},
        training={"epochs": 1, "accumulate": 2, "clip_norm": 0.1},
    )
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings.model_dump(mode="json")), encoding="utf-8")
    said, weights = [], []
    for count in (1, 2):
        run, before = tmp_path / f"{count}", warm_jobs.output.stat().st_size
        command = ["train", "--config", str(file), "--data", str(tiny_records), "--output", str(run)]
        assert warm_jobs.run(command, before=LOGICAL_DEVICES.format(count=count)) == 0
        said.append(warm_jobs.output.read_bytes()[before:].decode())
        reader = tf.train.load_checkpoint(str(run / "bundle" / "variables" / "variables"))
        names = sorted(name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE"))
        weights.append({name: reader.get_tensor(name) for name in names})
    assert "training on CPU:0 in float32" in said[0] and "training on 2 devices (CPU:0, CPU:1)" in said[1]
    assert len(weights[0]) > 20
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=5e-5, err_msg=name)
    history = [read_history(tmp_path / str(count))[0] for count in (1, 2)]
    assert history[1]["loss"] == pytest.approx(history[0]["loss"], rel=1e-4)
    assert history[1]["train_accuracy"] == pytest.approx(history[0]["train_accuracy"], rel=1e-4)


def test_warm_start_on_the_same_and_on_other_labels(
    tiny_bundle: Bundle, tiny_encoder: Path, tiny_records: Path
) -> None:
    windows = [window.encoded for window in read_windows(open_training_data(tiny_records), "dev")][:5]
    expected = [outputs["label_ids"] for outputs in Predictor.load(tiny_bundle).run(windows)]

    def started(labels: tuple[str, ...]) -> SentenceClassifier:
        keras.utils.set_random_seed(9)
        classifier = SentenceClassifier(open_encoder(EncoderSettings(handle=str(tiny_encoder))).build(), len(labels))
        classifier.build_variables()
        warm_start(classifier, tiny_bundle, labels)
        return classifier

    outputs = started(tiny_bundle.labels).outputs(pad_batch(windows, pad_id=0))
    for row, label_ids in enumerate(expected):
        assert np.asarray(outputs["label_ids"])[row, : len(label_ids)].tolist() == label_ids.tolist()
    other = ("new", *reversed(tiny_bundle.labels[1:]))
    kernel, bias = started(other).head.linear.get_weights()
    whole_kernel, whole_bias = started(tiny_bundle.labels).head.linear.get_weights()
    for here, label in enumerate(other[1:], start=1):
        there = tiny_bundle.labels.index(label)
        np.testing.assert_array_equal(kernel[:, here], whole_kernel[:, there])
        assert bias[here] == whole_bias[there]
    assert bias[0] == 0  # as drawn


def test_a_warm_started_run_is_told_apart_and_begins_well(
    tiny_bundle: Bundle, tiny_records: Path, tiny_settings: Settings, tmp_path: Path
) -> None:
    warm = training(
        tiny_settings, tiny_records, training={"epochs": 1, "warm_start": str(tiny_bundle.path), "learning_rate": 1e-5}
    )
    bundle = train_and_evaluate(warm, str(tiny_records), str(tmp_path / "run"))
    assert bundle.description["dev"]["accuracy"] == pytest.approx(tiny_bundle.description["dev"]["accuracy"], abs=0.1)
    with pytest.raises(UserError, match="warm_start"):
        train_and_evaluate(
            training(tiny_settings, tiny_records, training={"epochs": 1}), str(tiny_records), str(tmp_path / "run")
        )
    shallow = changed(warm, model={"head": "cls", "sentence_attention": STACK})
    with pytest.raises(UserError, match="not shaped like this one"):
        train_and_evaluate(shallow, str(tiny_records), str(tmp_path / "shallow"))


def test_half_precision_trains_and_exports_in_full(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    settings = training(tiny_settings, tiny_records, training={"precision": "bfloat16"}, encoder={"layers": 1})
    bundle = train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
    assert keras.config.dtype_policy().name == "float32"
    reader = tf.train.load_checkpoint(str(bundle.path / "variables" / "variables"))
    kinds = {
        kind
        for name, kind in reader.get_variable_to_dtype_map().items()
        if name.endswith("_kernel/.ATTRIBUTES/VARIABLE_VALUE")
    }
    assert kinds == {tf.float32}
    graph = tf.saved_model.load(str(bundle.path)).signatures["classify"].graph
    assert not [op.name for op in graph.get_operations() for output in op.outputs if output.dtype == tf.bfloat16]
    assert "bfloat16" in json.dumps(bundle.description["settings"])


def test_xla_trains_on_few_shapes(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    """At a rate that changes nothing, the figures of the epoch are those of the exported model on the same windows."""
    data = open_training_data(tiny_records)
    batches = read_batches(data, static_shapes=True)
    widths = {inputs["token_ids"].shape[1] for inputs, _, _ in batches}
    assert widths <= {*(boundary - 1 for boundary in data.bucket_boundaries), data.settings.window.max_tokens}
    assert {inputs["sep_positions"].shape[1] for inputs, _, _ in batches} == {max(data.window_sentences["train"])}
    still = write_checkpoint(tmp_path / "still", shape=STILL)
    settings = training(
        tiny_settings,
        tiny_records,
        encoder={"handle": str(still)},
        model={"dropout": 0.0},
        training={"epochs": 1, "xla": True, "batch_tokens": 5000, "learning_rate": 1e-12},
    )
    bundle = train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
    (figures,) = read_history(tmp_path / "run")
    sentences, outputs = predict(Predictor.load(bundle), read_windows(data, "train"))
    uncalibrated = np.asarray(outputs["probabilities"], np.float64) ** bundle.description["temperature"]
    likelihoods = (uncalibrated / uncalibrated.sum(axis=1, keepdims=True))[
        np.arange(len(sentences.targets)), sentences.targets
    ]
    assert figures["loss"] == pytest.approx(-np.log(likelihoods).mean(), rel=1e-4)
    assert figures["train_accuracy"] == pytest.approx(np.mean(outputs["label_ids"] == sentences.targets), abs=1e-6)
    assert len(sentences.targets) == data.stats["counts"]["sentences"]["train"]


def test_early_stopping_and_summaries(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    """With a rate that changes nothing no epoch is better than the first."""
    settings = training(
        tiny_settings,
        tiny_records,
        training={"epochs": 9, "patience": 2, "learning_rate": 1e-12, "batch_tokens": 96},
        encoder={"layers": 1},
    )
    bundle = train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
    history = read_history(tmp_path / "run")
    assert [figures["epoch"] for figures in history] == [1, 2, 3]
    assert bundle.description["best_epoch"] == 1
    found: dict[str, list[tuple[int, float]]] = {}
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    assert [value for _, value in found["dev/accuracy"]] == [
        pytest.approx(figures["dev"]["accuracy"]) for figures in history
    ]
    assert found["train/loss"][-1][1] == pytest.approx(history[-1]["loss"], rel=1e-5)
    assert {"train/accuracy", "train/learning_rate", "train/tokens_per_second", "dev/macro_f1"} <= set(found)


def test_settings_that_can_not_be_combined(score_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a CRF needs labels"):
        train_and_evaluate(
            training(tiny_settings, score_records, model={"crf": True}), str(score_records), str(tmp_path / "run")
        )
