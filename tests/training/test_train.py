"""Training: loss, rate, decay, learning, and a killed run that goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY_TRAINING_OVERRIDES, write_checkpoint
from support.warm_jobs import WarmJobs

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.training_data import open_training_data
from model.config import EncoderSettings, ModelSettings, Settings, load_settings, settings_from_dict
from model.encoders.encoder import open_encoder
from model.errors import UserError
from model.evaluation.evaluate import predict
from model.inference.labelled_windows import read_windows
from model.inference.predictor import Predictor
from model.training.checkpoints import Checkpoints, Progress
from model.training.devices import Devices
from model.training.input_pipeline import Batching, plan_split
from model.training.loop import best_epoch, has_stopped, read_history
from model.training.schedule import SlantedTriangle
from model.training.step import TrainableClassifier, compile_classifier
from model.training.train import train_and_evaluate


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """Returns settings with some values changed, checked as those of a file are."""
    tree = settings.model_dump(mode="json")
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    return settings_from_dict(tree, origin="tests")


ONE_CPU = Devices(("CPU:0",), None, "float32")


def compiled(encoder: Path, settings: Settings, *, model: ModelSettings | None = None) -> TrainableClassifier:
    """Returns an untrained classifier over four labels, ready for ten batches."""
    keras.utils.set_random_seed(0)
    classifier = TrainableClassifier(open_encoder(EncoderSettings(handle=str(encoder))).build(), 4, model)
    compile_classifier(classifier, settings.training, ONE_CPU, features=0, steps=10)
    return classifier


@pytest.fixture
def classifier(tiny_encoder: Path, tiny_settings: Settings) -> TrainableClassifier:
    return compiled(tiny_encoder, changed(tiny_settings, training={"weight_decay": 0.5}))


INPUTS = {
    "token_ids": np.array([[2, 9, 3, 8, 3, 3, 0, 0], [2, 30, 31, 32, 33, 34, 35, 3]], np.int32),
    "segment_ids": np.zeros((2, 8), np.int32),
    "padding_mask": np.array([[1] * 6 + [0] * 2, [1] * 8], np.int32),
    "sep_positions": np.array([[2, 4, 5], [7, -1, -1]], np.int32),
}
LABELS = np.array([[3, 0, 1], [2, 0, 0]], np.int32)
WEIGHTS = np.array([[0.5, 0.0, 0.25], [1.0, 0.0, 0.0]], np.float32)


def test_loss_is_the_weighted_mean_over_real_sentences(tiny_encoder: Path, tiny_settings: Settings) -> None:
    classifier = compiled(tiny_encoder, tiny_settings, model=ModelSettings(dropout=0))
    for layer in classifier._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    logits = np.asarray(classifier(INPUTS, training=False), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = ((0, 0), (0, 2), (1, 0))
    total = sum(WEIGHTS[place] * -log_probabilities[(*place, LABELS[place])] for place in counted)
    hits = sum(WEIGHTS[place] * (logits[place].argmax() == LABELS[place]) for place in counted)
    step = tf.data.Dataset.from_tensors(((INPUTS, LABELS, WEIGHTS),))
    figures = classifier.fit(step, verbose=0, shuffle=False).history
    assert figures["loss"] == [pytest.approx(total / 1.75, rel=1e-5)]
    assert figures["accuracy"] == [pytest.approx(hits / 1.75, rel=1e-5)]


def test_logits_are_read_at_the_seps(classifier: TrainableClassifier) -> None:
    inputs = {
        "token_ids": np.array([[2, 9, 3, 8, 3, 3]], np.int32),
        "segment_ids": np.zeros((1, 6), np.int32),
        "padding_mask": np.ones((1, 6), np.int32),
    }
    states = np.asarray(classifier.encoder(*inputs.values(), training=False))[0]
    kernel, bias = classifier.head.linear.get_weights()
    logits = np.asarray(classifier({**inputs, "sep_positions": np.array([[2, 4, 5, -1]], np.int32)}, training=False))
    np.testing.assert_allclose(logits[0, :3], states[[2, 4, 5]] @ kernel + bias, atol=1e-5)


def test_slanted_triangle() -> None:
    rate = SlantedTriangle(0.32, 100, warmup=0.1, ratio=32.0)
    # From 0.32 / 32 up to 0.32 at step 10, and down again to 0.01 at step 100.
    expected = {0: 0.01, 5: 0.165, 10: 0.32, 55: 0.165, 100: 0.01, 1000: 0.01}
    assert {step: pytest.approx(float(rate(step))) for step in expected} == expected
    again = SlantedTriangle.from_config(rate.get_config())
    assert [float(again(step)) for step in range(120)] == [float(rate(step)) for step in range(120)]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_slanted_triangle_of_few_steps_stays_in_range(steps: int) -> None:
    rates = [float(SlantedTriangle(1.0, steps)(step)) for step in range(steps + 1)]
    assert all(1 / 32 <= rate <= 1 for rate in rates)


def test_weight_decay_spares_biases_and_norms(classifier: TrainableClassifier) -> None:
    """With zero gradients, AdamW moves exactly what it decays: matrices and embeddings, no vectors."""
    before = {variable.path: variable.numpy() for variable in classifier.trainable_variables}
    optimizer = classifier.optimizer
    optimizer.apply([tf.zeros_like(variable) for variable in classifier.trainable_variables])
    first_rate = 0.01 / 32
    for variable in classifier.trainable_variables:
        kept = before[variable.path]
        expected = kept * (1 - first_rate * 0.5) if kept.ndim == 2 else kept
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, err_msg=variable.path)
    kinds = {variable.path.split("/")[-1] for variable in classifier.trainable_variables if len(variable.shape) == 2}
    assert kinds == {"kernel", "embeddings"}
    assert len(before) == 5 + 2 * 16 + 2


def test_gradients_are_clipped(tiny_encoder: Path, tiny_settings: Settings) -> None:
    classifier = compiled(tiny_encoder, changed(tiny_settings, training={"clip_norm": 0.25}))
    gradients = [tf.ones_like(variable) for variable in classifier.trainable_variables]
    clipped = classifier.optimizer._clip_gradients(gradients)
    assert float(tf.linalg.global_norm(clipped)) == pytest.approx(0.25, rel=1e-4)


def test_best_epoch() -> None:
    def epoch(number: int, accuracy: float | None) -> dict[str, Any]:
        return {"epoch": number} if accuracy is None else {"epoch": number, "dev": {"accuracy": accuracy}}

    assert best_epoch([epoch(1, 0.5), epoch(2, 0.7), epoch(3, 0.7), epoch(4, 0.6)])["epoch"] == 2
    assert best_epoch([epoch(1, None), epoch(2, None)])["epoch"] == 2
    assert best_epoch([{"epoch": n, "dev": {"mse": mse}} for n, mse in ((1, 0.4), (2, 0.2), (3, 0.3))])["epoch"] == 2


def test_patience() -> None:
    history = [{"epoch": n, "dev": {"accuracy": accuracy}} for n, accuracy in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7))]
    assert [has_stopped(history[:count], 2) for count in range(5)] == [False, False, False, False, True]
    assert not has_stopped(history, None)
    assert not has_stopped([{"epoch": 9}], 1)  # no dev split


def test_training_learns(tiny_bundle: Bundle, tiny_records: Path) -> None:
    """Better on dev than always giving the most frequent label, and the bundle holds the best epoch's weights."""
    data = open_training_data(tiny_records)
    history = read_history(tiny_bundle.path.parent)
    assert [figures["epoch"] for figures in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] * 0.8
    counts = data.stats["label_counts"]["dev"].values()
    best = best_epoch(history)
    assert best["dev"]["accuracy"] > max(counts) / sum(counts) + 0.2
    assert tiny_bundle.description["best_epoch"] == best["epoch"]
    sentences, outputs = predict(Predictor.load(tiny_bundle), read_windows(data, "dev"))
    accuracy = float(np.mean(outputs["label_ids"] == sentences.targets))
    assert accuracy == pytest.approx(best["dev"]["accuracy"])
    assert all(figures["tokens_per_second"] > 0 for figures in history)


def test_a_finished_run_is_returned_as_it_is(tiny_bundle: Bundle, tiny_records: Path, tiny_settings: Settings) -> None:
    run = tiny_bundle.path.parent
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert train_and_evaluate(tiny_settings, str(tiny_records), str(run)) == tiny_bundle
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_settings_of_the_data_need_not_be_repeated(tiny_bundle: Bundle, tiny_records: Path) -> None:
    settings = load_settings(None, [*TINY_TRAINING_OVERRIDES, "window.context=1"])
    assert train_and_evaluate(settings, str(tiny_records), str(tiny_bundle.path.parent)) == tiny_bundle


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.learning_rate", 0.5), ("training.seed", 7), ("model.dropout", 0.3), ("encoder.layers", 1)],
)
def test_a_folder_of_another_run_is_refused(
    tiny_bundle: Bundle, tiny_records: Path, tiny_settings: Settings, key: str, value: float
) -> None:
    section, _, name = key.partition(".")
    other = changed(tiny_settings, **{section: {name: value}})
    with pytest.raises(UserError) as caught:
        train_and_evaluate(other, str(tiny_records), str(tiny_bundle.path.parent))
    message = str(caught.value)
    assert str(tiny_bundle.path.parent) in message
    assert f"settings.{key}" in message
    assert str(value) in message
    assert "--output" in message and "--overwrite" in message
    assert load_bundle(tiny_bundle.path) == tiny_bundle


def test_a_folder_of_something_else_is_refused(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"is not empty and has no run\.json"):
            train_and_evaluate(tiny_settings, str(tiny_records), str(tmp_path), overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("key", "values"), [("window.max_tokens", (64, 48)), ("window.context", (2, 1)), ("data.buckets", (5, 3))]
)
def test_settings_that_contradict_the_records_are_refused(
    tiny_records: Path, tiny_settings: Settings, tmp_path: Path, key: str, values: tuple[int, int]
) -> None:
    section, _, name = key.partition(".")
    value, there = values
    other = changed(tiny_settings, **{section: {name: value}})
    with pytest.raises(UserError, match=rf"{key} is {value}, but .* was made with {there}; preprocess again"):
        train_and_evaluate(other, str(tiny_records), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_is_refused(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"))
    with pytest.raises(UserError, match=r"encoder\.handle is .*other.* made with the vocabulary of"):
        train_and_evaluate(
            changed(tiny_settings, encoder={"handle": str(other)}), str(tiny_records), str(tmp_path / "run")
        )


def test_unfinished_records_are_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        train_and_evaluate(tiny_settings, str(tmp_path / "absent"), str(tmp_path / "run"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "stats.json").write_text("{}")
    with pytest.raises(UserError, match="COMPLETED is missing"):
        train_and_evaluate(tiny_settings, str(tmp_path / "records"), str(tmp_path / "run"))


AFTER_A_CHECKPOINT = """
import os, signal
from model.training.checkpoints import Checkpoints

save, left = Checkpoints.save, {count}

def save_and_die(*arguments, **options):
    global left
    save(*arguments, **options)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.{signal})

Checkpoints.save = save_and_die
"""


def test_a_killed_run_goes_on(tiny_records: Path, tiny_settings: Settings, tmp_path: Path, warm_jobs: WarmJobs) -> None:
    """Weights, dev figures and the exported bundle are those of a run that nothing disturbed, to the bit."""
    settings = changed(
        tiny_settings,
        encoder={"layers": 1},
        model={"dropout": 0.3},  # so that a resumed run must also resume its random states
        training={"epochs": 2, "batch_tokens": 96, "checkpoint_seconds": 0},
    )
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(settings.model_dump(mode="json")))
    data = open_training_data(tiny_records)
    steps = plan_split(data, "train", Batching(96, 0, 1)).batches
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    # A checkpoint a batch, that of an epoch's last one after the figures: this is the third of the second epoch.
    kill = AFTER_A_CHECKPOINT.format(count=steps + 3, signal="SIGKILL")
    command = ["train", "--config", str(file), "--data", str(tiny_records), "--output", str(killed)]
    assert warm_jobs.run(command, before=kill) == -signal.SIGKILL
    assert not (killed / "bundle").exists()
    assert len(read_history(killed)) == 1
    _, newest = sorted((killed / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    assert (state["epochs"], state["steps"]) == (1, 3)
    assert steps - 1 > 3

    # SIGTERM lets it end the step that it is at; on a disk that has damaged the newest checkpoint, it takes the other.
    data_file = newest / "variables.data-00000-of-00001"
    data_file.write_bytes(data_file.read_bytes()[: data_file.stat().st_size // 2])
    (killed / "history.json").write_text("")
    printed = warm_jobs.errors.stat().st_size
    code = warm_jobs.run(command, before=AFTER_A_CHECKPOINT.format(count=1, signal="SIGTERM"))
    said = warm_jobs.errors.read_bytes()[printed:].decode()
    assert f"sepline: terminated; epoch 2 of 2 is saved at step 3 of {steps}; repeat the command to continue\n" in said
    assert "Traceback" not in said, said
    assert code == 143
    assert f"{newest}: is damaged" in warm_jobs.output.read_text()

    resumed = train_and_evaluate(settings, str(tiny_records), str(killed))
    whole = train_and_evaluate(settings, str(tiny_records), str(unbroken))
    assert [figures["epoch"] for figures in read_history(killed)] == [1, 2]
    for one, other in zip(read_history(killed), read_history(unbroken), strict=True):
        for name in ("dev", "loss", "train_accuracy"):  # a resumed epoch's figures are of the whole epoch
            assert one[name] == other[name]
    windows = [window.encoded for window in read_windows(data, "dev")]
    both = [Predictor.load(bundle).run(windows) for bundle in (resumed, whole)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one["probabilities"], other["probabilities"])
    weights = [tf.train.load_checkpoint(str(bundle.path / "variables" / "variables")) for bundle in (resumed, whole)]
    names = {name for name in weights[0].get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")}
    assert len(names) >= 5 + 16 + 2  # embeddings, one layer, head
    for name in names:
        np.testing.assert_array_equal(weights[0].get_tensor(name), weights[1].get_tensor(name))


def test_training_without_a_dev_split(tiny_records: Path, tiny_settings: Settings, tmp_path: Path) -> None:
    """The last epoch is the result. Links stand in for a copy of the records without dev."""
    records = tmp_path / "records"
    records.mkdir()
    stats = json.loads((tiny_records / "stats.json").read_text())
    stats["window_lengths"]["dev"] = {}
    (records / "stats.json").write_text(json.dumps(stats))
    (records / "COMPLETED").touch()
    (records / "windows").mkdir()
    (records / "windows" / "train").symlink_to(tiny_records / "windows" / "train")
    bundle = train_and_evaluate(changed(tiny_settings, training={"epochs": 2}), str(records), str(tmp_path / "run"))
    assert bundle.description["best_epoch"] == 2
    assert bundle.description["dev"] is None
    assert all("dev" not in figures for figures in read_history(tmp_path / "run"))


def saved_checkpoints(run: Path) -> tuple[Checkpoints, tf.Variable]:
    """Returns a run's checkpoints of steps 1 and 2, with weights of a best epoch, and the variable in them."""
    number = tf.Variable(0.0)
    optimizer = keras.optimizers.SGD()
    optimizer.build([keras.Variable(0.0)])
    checkpoints = Checkpoints(run, [number], optimizer)
    run.mkdir()
    best = checkpoints.save_best([np.arange(3.0)], 1)
    for step in (1, 2):
        number.assign(float(step))
        checkpoints.save(Progress(epochs=1, steps=step, history=[{"epoch": 1, "loss": 0.1}], best=best))
    return checkpoints, number


@pytest.mark.parametrize("left", [0, 0.5, None], ids=["empty", "half", "deleted"])
@pytest.mark.parametrize("name", ["state.json", "variables.index", "variables.data-00000-of-00001"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, left: float | None) -> None:
    checkpoints, number = saved_checkpoints(tmp_path / "run")
    older, newer = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert checkpoints.restore().steps == 2
    file = newer / name
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * left)])
    assert (checkpoints.restore().steps, number.numpy()) == (1, 1.0)
    number.assign(3.0)
    checkpoints.save(Progress(epochs=1, steps=3))
    assert sorted((tmp_path / "run" / "checkpoints").iterdir())[0] == older
    assert (checkpoints.restore().steps, number.numpy()) == (3, 3.0)


@pytest.mark.parametrize("damage", ["weights", "every checkpoint"])
def test_a_run_of_which_nothing_whole_is_left_begins_anew(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    checkpoints, _ = saved_checkpoints(run)
    for file in run.glob("best-1.*" if damage == "weights" else "checkpoints/*/state.json"):
        file.write_bytes(b"w")
    assert checkpoints.restore() == Progress()
    assert list((run / "checkpoints").iterdir()) == []
    assert capsys.readouterr().out.count("is damaged") == 2
    checkpoints.save(Progress(epochs=0, steps=1))
    assert checkpoints.restore().steps == 1


def test_weights_are_kept_as_long_as_a_checkpoint_counts_on_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints, _ = saved_checkpoints(run)
    for epoch in (2, 3):
        best = checkpoints.save_best([np.full(3, float(epoch))], epoch)
        checkpoints.save(Progress(epochs=epoch, best=best))
        there = sorted(file.name for file in run.glob("*.npz"))
        assert there == [f"best-{epoch - 1}.npz", f"best-{epoch}.npz"]


@pytest.mark.parametrize("variant", [{"crf": True}, {"head": "cls"}], ids=["crf", "cls"])
def test_variants_that_xla_cannot_compile_are_refused(
    tiny_records: Path, tiny_settings: Settings, tmp_path: Path, variant: dict[str, Any]
) -> None:
    settings = changed(tiny_settings, model=variant, training={"xla": True})
    with pytest.raises(UserError, match=r"training\.xla is true and model\.(crf is true|head is cls).* leave xla out"):
        train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
