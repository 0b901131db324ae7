"""Fine-tunes the classifier on training records and exports the best epoch as a bundle.

A run's folder:

    run.json          what is trained: settings and data, by fingerprint; a folder begun with others is refused
    checkpoints/      the last checkpoint; a killed run goes on from it
    best.weights.h5   the weights of the best epoch so far
    history.json      each epoch's figures
    bundle/           the result, written last
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import model
from model.bundle import Bundle, load_bundle, write_bundle
from model.classifier import SentenceClassifier
from model.config import Settings
from model.encoder import describe_encoder, load_encoder, load_vocabulary
from model.engine import Engine
from model.errors import UserError
from model.evaluate import Metrics, measure, predict
from model.folders import claim_folder, write_json
from model.input_pipeline import count_batches, read_windows, training_batches
from model.progress import ProgressReporter
from model.schedule import SlantedTriangle
from model.schema import classify_signature
from model.serving import ServingModule
from model.tokenization import Tokenizer
from model.training_data import TrainingData, open_training_data
from model.vocabulary import Vocabulary


def train_and_evaluate(settings: Settings, data_dir: str, run_dir: str, *, overwrite: bool = False) -> Bundle:
    """Trains on the train split, keeps the epoch that does best on dev, and returns the exported bundle.

    A finished run is returned as it is; an interrupted one goes on from its last checkpoint.

    Raises:
        UserError: settings and data don't fit together, or the run's folder holds another run.
    """
    data = open_training_data(data_dir)
    settings = _settle(settings, data)
    vocabulary = load_vocabulary(settings.encoder)
    if vocabulary.fingerprint != data.vocabulary_fingerprint:
        raise UserError(
            f"encoder.handle is {settings.encoder.handle!r}, but {data_dir} was made with the vocabulary of "
            f"{data.settings.encoder.handle!r}; preprocess again with this encoder"
        )
    if not data.window_lengths.get("train"):
        raise UserError(f"{data_dir}: the train split is empty; preprocess more labelled documents")
    run = Path(run_dir)
    mark = {"data": data.fingerprint, "settings": settings.model_dump(mode="json")}
    claim_folder(run, "run.json", mark, overwrite=overwrite)
    if (run / "bundle").is_dir():
        return load_bundle(run / "bundle")

    encoder = describe_encoder(settings.encoder)
    keras.utils.set_random_seed(settings.training.seed)
    classifier = SentenceClassifier(
        load_encoder(settings.encoder), len(data.labels), dropout=settings.model.dropout, name="classifier"
    )
    steps = count_batches(data, "train", batch_tokens=settings.training.batch_tokens)
    _compile(classifier, settings, total_steps=steps * settings.training.epochs)
    history = _fit(classifier, settings, data, run, vocabulary=vocabulary, steps=steps)
    best = best_epoch(history)
    classifier.load_weights(run / "best.weights.h5")
    serving = ServingModule(classifier, Tokenizer(vocabulary), labels=data.labels, window=data.settings.window)
    facts = {
        "sepline": model.__version__,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "encoder": encoder.facts(),
        "settings": settings.model_dump(mode="json"),
        "data": {"fingerprint": data.fingerprint, "counts": data.stats["counts"]},
        "best_epoch": best["epoch"],
        "dev": best.get("dev"),
    }
    return write_bundle(
        run / "bundle",
        serving.export,
        labels=data.labels,
        window=data.settings.window,
        vocabulary=vocabulary,
        facts=facts,
    )


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the epoch with the best dev accuracy, the earlier of equals; the last one where there is no dev split."""
    if "dev" not in history[-1]:
        return history[-1]
    return max(history, key=lambda epoch: (epoch["dev"]["accuracy"], -epoch["epoch"]))


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """Returns the figures of the epochs that a run has finished."""
    file = Path(run_dir) / "history.json"
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def _settle(settings: Settings, data: TrainingData) -> Settings:
    """Returns the settings with what preprocessing has decided already; refuses those that contradict it."""
    made_with = data.settings
    for section in ("window", "data"):
        given = getattr(settings, section)
        for key in given.model_fields_set:
            there = getattr(getattr(made_with, section), key)
            if getattr(given, key) != there:
                raise UserError(
                    f"{section}.{key} is {getattr(given, key)!r}, but {data.path} was made with {there!r}; "
                    "preprocess again with this setting or leave it out"
                )
    encoder = settings.encoder
    if "handle" not in encoder.model_fields_set:
        encoder = encoder.model_copy(update={"handle": made_with.encoder.handle})
    return settings.model_copy(update={"window": made_with.window, "data": made_with.data, "encoder": encoder})


def _compile(classifier: SentenceClassifier, settings: Settings, *, total_steps: int) -> None:
    # Building makes all variables, so that a checkpoint can be restored before the first batch. Two tokens, as Keras
    # warns of a softmax over one.
    classifier({name: tf.zeros([1, 2], tf.int32) for name in classify_signature()})
    training = settings.training
    optimizer = keras.optimizers.AdamW(
        SlantedTriangle(training.learning_rate, total_steps, warmup=training.warmup),
        weight_decay=training.weight_decay,
        global_clipnorm=training.clip_norm,
    )
    spared = [v for v in classifier.trainable_variables if v.name == "bias" or "norm" in v.path]
    optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(classifier.trainable_variables)
    classifier.compile(
        optimizer=optimizer,
        # Not "sum_over_batch_size", which would divide by padded sentences too.
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # batches come in many shapes, and XLA compiles each anew
    )


def _fit(
    classifier: SentenceClassifier,
    settings: Settings,
    data: TrainingData,
    run: Path,
    *,
    vocabulary: Vocabulary,
    steps: int,
) -> list[dict[str, Any]]:
    """Runs the epochs that are still to run; returns the figures of all."""
    training = settings.training
    epochs_done, steps_done = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(
        classifier=classifier,
        optimizer=classifier.optimizer,
        # Dropout's; TensorFlow does not find Keras's seed generators by itself.
        random_states=[variable.value for variable in classifier.non_trainable_variables],
        epochs_done=epochs_done,
        steps_done=steps_done,
    )
    manager = tf.train.CheckpointManager(checkpoint, str(run / "checkpoints"), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    history = read_history(run)[: int(epochs_done)]
    engine = Engine(_live_classify(classifier), pad_id=vocabulary.pad_id, batch_tokens=training.batch_tokens)
    tokens = sum(length * count for length, count in data.window_lengths["train"].items())
    dev = list(read_windows(data, "dev")) if data.window_lengths.get("dev") else []

    for epoch in range(int(epochs_done), training.epochs):
        batches = training_batches(
            data,
            "train",
            batch_tokens=training.batch_tokens,
            pad_id=vocabulary.pad_id,
            seed=training.seed,
            epoch=epoch,
        )
        left = steps - int(steps_done)
        batches = batches.skip(int(steps_done)).apply(tf.data.experimental.assert_cardinality(left))
        title = f"epoch {epoch + 1} of {training.epochs}"
        with ProgressReporter(title, total=steps, unit="batches") as progress:
            watcher = _Watcher(
                progress,
                manager,
                steps_done,
                steps=steps,
                tokens_a_step=tokens / steps,
                seconds=training.checkpoint_seconds,
            )
            started = time.monotonic()
            fitted = classifier.fit(
                batches,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
                shuffle=False,  # the input pipeline does
                callbacks=[watcher],
            ).history
        seconds = time.monotonic() - started
        figures: dict[str, Any] = {
            "epoch": epoch + 1,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens * left / steps / seconds),
            "loss": fitted["loss"][-1],
            "train_accuracy": fitted["accuracy"][-1],
        }
        if dev:
            figures["dev"] = _evaluate(engine, dev, data.labels).to_json()
        history.append(figures)
        _print_epoch(figures, training.epochs)
        if best_epoch(history) is figures:
            classifier.save_weights(run / "writing.weights.h5")
            (run / "writing.weights.h5").replace(run / "best.weights.h5")
        write_json(run / "history.json", history)
        epochs_done.assign(epoch + 1)
        steps_done.assign(0)
        manager.save()
    return history


def _live_classify(classifier: SentenceClassifier) -> Any:
    @tf.function(input_signature=[classify_signature()])
    def run(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.nn.softmax(classifier(batch, training=False))

    return lambda batch: np.asarray(run({name: tf.constant(array) for name, array in batch.items()}))


def _evaluate(engine: Engine, windows: list[Any], labels: tuple[str, ...]) -> Metrics:
    sentences, probabilities = predict(engine, windows)
    return measure(sentences, probabilities.argmax(axis=1), labels=labels)


class _Watcher(keras.callbacks.Callback):
    """Shows progress and saves a checkpoint every so many seconds."""

    def __init__(
        self,
        progress: ProgressReporter,
        manager: tf.train.CheckpointManager,
        steps_done: tf.Variable,
        *,
        steps: int,
        tokens_a_step: float,
        seconds: float,
    ) -> None:
        super().__init__()
        self._progress, self._manager, self._steps_done = progress, manager, steps_done
        self._steps, self._tokens_a_step, self._seconds = steps, tokens_a_step, seconds
        self._first = int(steps_done)
        self._saved = self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        done = self._first + batch + 1
        self._steps_done.assign(done)
        speed = (batch + 1) * self._tokens_a_step / (time.monotonic() - self._started)
        figures = f"loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}, " if logs else ""
        self._progress.update(done=done, note=f"{figures}{speed:,.0f} tokens/s")
        # After the last batch the epoch's end saves, so that a resumed epoch always has a batch left to fit.
        if done < self._steps and time.monotonic() - self._saved >= self._seconds:
            self._manager.save()
            self._saved = time.monotonic()


def _print_epoch(figures: Mapping[str, Any], epochs: int) -> None:
    line = (
        f"epoch {figures['epoch']} of {epochs}: loss {figures['loss']:.4f}, "
        f"train accuracy {figures['train_accuracy']:.4f}"
    )
    if "dev" in figures:
        line += f", dev accuracy {figures['dev']['accuracy']:.4f}, dev macro F1 {figures['dev']['macro_f1']:.4f}"
    print(f"{line} ({figures['seconds']:.0f} s, {figures['tokens_per_second']:,} tokens/s)", flush=True)
