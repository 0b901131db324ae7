"""Runs the epochs of a training: checkpoints, metrics, the best epoch, early stopping, exact resumption."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from model.config import TrainingSettings
from model.folders import write_json
from model.progress import ProgressReporter
from model.training.devices import Devices
from model.training.input_pipeline import Batching, TrainingSet, training_batches
from model.training.step import TrainableClassifier, count_steps, distribute, group

BEST_WEIGHTS = "best.weights.h5"
_HISTORY = "history.json"
_STEPS_BETWEEN_SUMMARIES = 10


@dataclass(frozen=True)
class Fit:
    """What a training needs besides the classifier.

    Attributes:
        run: the folder of the run.
        training: its settings.
        sets: the records.
        batching: how they become batches.
        devices: where it runs.
        evaluate: returns the classifier's metrics on dev as JSON values; None if there is no dev split.
    """

    run: Path
    training: TrainingSettings
    sets: Sequence[TrainingSet]
    batching: Batching
    devices: Devices
    evaluate: Callable[[], dict[str, Any]] | None

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        return count_steps(sum(one.batches for one in self.sets), self.training.accumulate)

    @property
    def tokens(self) -> int:
        """The number of wordpieces in an epoch, without padding; an estimate if the sets have shares."""
        total = 0.0
        for one in self.sets:
            lengths = one.data.window_lengths["train"]
            a_pass = sum(length * count for length, count in lengths.items())
            total += a_pass * one.batches / one.own_batches
        return round(total)


def run_epochs(classifier: TrainableClassifier, fit: Fit) -> list[dict[str, Any]]:
    """Runs the remaining epochs and returns the metrics of all; saves the best epoch's weights to `BEST_WEIGHTS`."""
    epochs_done, steps_done = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(
        # Listed one by one, with dropout's random states: TensorFlow finds neither layers in lists nor seed generators.
        variables=[variable.value for variable in classifier.variables],
        optimizer=classifier.optimizer,
        epochs_done=epochs_done,
        steps_done=steps_done,
    )
    manager = tf.train.CheckpointManager(checkpoint, str(fit.run / "checkpoints"), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    history = read_history(fit.run)[: int(epochs_done)]
    summaries = tf.summary.create_file_writer(str(fit.run / "tensorboard"))
    epochs = fit.training.epochs
    for epoch in range(int(epochs_done), epochs):
        if has_stopped(history, fit.training.patience):
            break
        first = int(steps_done)
        left = fit.steps - first
        steps = group(training_batches(fit.sets, fit.batching, epoch=epoch), fit.training.accumulate).skip(first)
        steps = steps.apply(tf.data.experimental.assert_cardinality(left))
        with ProgressReporter(f"epoch {epoch + 1} of {epochs}", total=fit.steps, unit="steps") as progress:
            watcher = _Watcher(fit, progress, manager, steps_done, summaries=summaries, epoch=epoch)
            started = time.monotonic()
            figures = classifier.fit(
                distribute(steps, fit.devices),
                steps_per_epoch=left if fit.devices.strategy else None,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
                shuffle=False,  # the input pipeline shuffles
                callbacks=[watcher],
            ).history
        seconds = time.monotonic() - started
        history.append(
            {
                "epoch": epoch + 1,
                "seconds": round(seconds, 1),
                "tokens_per_second": round(fit.tokens * left / fit.steps / seconds),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "loss": figures["loss"][-1],
                **({"train_accuracy": figures["accuracy"][-1]} if "accuracy" in figures else {}),
                **({"dev": fit.evaluate()} if fit.evaluate else {}),
            }
        )
        _report(history[-1], epochs, summaries, steps=fit.steps)
        if best_epoch(history) is history[-1]:
            classifier.save_weights(fit.run / f"writing.{BEST_WEIGHTS}")
            (fit.run / f"writing.{BEST_WEIGHTS}").replace(fit.run / BEST_WEIGHTS)
        write_json(fit.run / _HISTORY, history)
        epochs_done.assign(epoch + 1)
        steps_done.assign(0)
        manager.save()
    return history


def best_epoch(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the epoch that is best on dev, the earlier of equals; without a dev split, the last one.

    The best has the highest accuracy, or for scores the lowest squared error.
    """
    if "dev" not in history[-1]:
        return history[-1]
    return max(history, key=lambda epoch: (_goodness(epoch["dev"]), -epoch["epoch"]))


def has_stopped(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Returns True if none of the last `patience` epochs has improved on dev."""
    if patience is None or not history or "dev" not in history[-1]:
        return False
    return bool(history[-1]["epoch"] - best_epoch(history)["epoch"] >= patience)


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """Returns the metrics of the epochs that a run has finished."""
    file = Path(run_dir) / _HISTORY
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def _goodness(dev: Mapping[str, Any]) -> float:
    return float(dev["accuracy"] if "accuracy" in dev else -dev["mse"])


class _Watcher(keras.callbacks.Callback):
    """Shows progress, writes summaries, and saves a checkpoint every `checkpoint_seconds`."""

    def __init__(
        self,
        fit: Fit,
        progress: ProgressReporter,
        manager: tf.train.CheckpointManager,
        steps_done: tf.Variable,
        *,
        summaries: tf.summary.SummaryWriter,
        epoch: int,
    ) -> None:
        super().__init__()
        self._fit, self._progress, self._manager, self._steps_done = fit, progress, manager, steps_done
        self._summaries, self._epoch = summaries, epoch
        self._first = int(steps_done)
        self._saved = self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        done, total = self._first + batch + 1, self._fit.steps
        self._steps_done.assign(done)
        speed = (batch + 1) * self._fit.tokens / total / (time.monotonic() - self._started)
        figures = dict(logs or {})
        note = ", ".join([*(f"{name} {figure:.3f}" for name, figure in figures.items()), f"{speed:,.0f} tokens/s"])
        self._progress.update(done=done, note=note)
        if done % _STEPS_BETWEEN_SUMMARIES == 0 or done == total:
            rate = float(self.model.optimizer.learning_rate)
            named = {f"train/{name}": figure for name, figure in figures.items()}
            named |= {"train/learning_rate": rate, "train/tokens_per_second": speed}
            _summarize(self._summaries, named, step=self._epoch * total + done)
        # After the last step, the end of the epoch saves; so a resumed epoch always has at least one step left.
        if done < total and time.monotonic() - self._saved >= self._fit.training.checkpoint_seconds:
            self._manager.save()
            self._saved = time.monotonic()


def _report(figures: Mapping[str, Any], epochs: int, summaries: tf.summary.SummaryWriter, *, steps: int) -> None:
    """Prints an epoch's metrics and writes them for TensorBoard."""
    line = f"epoch {figures['epoch']} of {epochs}: loss {figures['loss']:.4f}"
    if "train_accuracy" in figures:
        line += f", train accuracy {figures['train_accuracy']:.4f}"
    dev = figures.get("dev", {})
    if "accuracy" in dev:
        line += f", dev accuracy {dev['accuracy']:.4f}, dev macro F1 {dev['macro_f1']:.4f}"
    elif dev:
        line += f", dev MSE {dev['mse']:.4f}, dev Spearman {dev['spearman']:.4f}"
    print(f"{line} ({figures['seconds']:.0f} s, {figures['tokens_per_second']:,} tokens/s)", flush=True)
    plain = {f"dev/{name}": float(figure) for name, figure in dev.items() if isinstance(figure, int | float)}
    _summarize(summaries, plain, step=figures["epoch"] * steps)


def _summarize(summaries: tf.summary.SummaryWriter, figures: Mapping[str, float], *, step: int) -> None:
    with summaries.as_default(step=step):
        for name, figure in figures.items():
            tf.summary.scalar(name, figure)
    summaries.flush()
