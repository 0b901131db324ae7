"""Runs the epochs of a training: checkpoints, metrics, the best epoch, early stopping, exact resumption."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.config import TrainingSettings
from model.folders import read_json, write_json
from model.progress import ProgressReporter
from model.training.checkpoints import Checkpoints, Progress, reporting_disk_errors
from model.training.devices import Devices
from model.training.input_pipeline import Batching, TrainingSet, training_batches
from model.training.step import TrainableClassifier, count_steps, distribute, group
from model.training.stopping import Stop, stopping_between_steps

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
        before_epoch: is called before each epoch; what it raises ends the training.
    """

    run: Path
    training: TrainingSettings
    sets: Sequence[TrainingSet]
    batching: Batching
    devices: Devices
    evaluate: Callable[[], dict[str, Any]] | None
    before_epoch: Callable[[], None]

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
            total += a_pass * one.batches / one.plan.batches
        return round(total)


def run_epochs(classifier: TrainableClassifier, fit: Fit) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Runs the remaining epochs and returns the metrics of all, and the best epoch's weights.

    Raises:
        Interrupted: the user or the machine stopped it; the next call resumes.
        JobFailure: a checkpoint can't be written.
    """
    running = [tf.Variable(variable.value) for mean in classifier.metrics for variable in mean.variables]
    variables = [*(variable.value for variable in classifier.variables), *running]
    checkpoints = Checkpoints(fit.run, variables, classifier.optimizer)
    progress = checkpoints.restore()
    if progress.steps >= fit.steps:  # of an earlier version, whose epochs had more batches
        progress = replace(progress, steps=0)
    summaries = tf.summary.create_file_writer(str(fit.run / "tensorboard"))
    epochs = fit.training.epochs
    for epoch in range(progress.epochs, epochs):
        if has_stopped(progress.history, fit.training.patience):
            break
        fit.before_epoch()
        first, left = progress.steps, fit.steps - progress.steps
        steps = group(training_batches(fit.sets, fit.batching, epoch=epoch), fit.training.accumulate).skip(first)
        steps = steps.apply(tf.data.experimental.assert_cardinality(left))
        with (
            ProgressReporter(f"epoch {epoch + 1} of {epochs}", total=fit.steps, unit="steps") as reporter,
            stopping_between_steps() as stop,
            reporting_disk_errors(fit.run),
        ):
            watcher = _Watcher(fit, reporter, checkpoints, progress, stop, running=running, summaries=summaries)
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
        line = {
            "epoch": epoch + 1,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(fit.tokens * left / fit.steps / seconds),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "loss": figures["loss"][-1],
            **({"train_accuracy": figures["accuracy"][-1]} if "accuracy" in figures else {}),
            **({"dev": fit.evaluate()} if fit.evaluate else {}),
        }
        history, best = [*progress.history, line], progress.best
        _report(line, epochs, summaries, steps=fit.steps)
        if best_epoch(history) is line:
            best = checkpoints.save_best(classifier.get_weights(), epoch + 1)
        progress = Progress(epoch + 1, 0, history, best)
        checkpoints.save(progress)
        write_json(fit.run / _HISTORY, history)
    if progress.best is None:
        raise AssertionError("a training has at least one epoch")
    write_json(fit.run / _HISTORY, progress.history)
    return progress.history, checkpoints.read_best(progress.best)


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
    """Returns the metrics of the epochs that a run has finished.

    Raises:
        DamagedFileError: their file is not JSON.
    """
    file = Path(run_dir) / _HISTORY
    return list(read_json(file, hint="--overwrite the run, to train anew")) if file.exists() else []


def _goodness(dev: Mapping[str, Any]) -> float:
    return float(dev["accuracy"] if "accuracy" in dev else -dev["mse"])


class _Watcher(keras.callbacks.Callback):
    """Shows progress, writes summaries, and saves a checkpoint every `checkpoint_seconds` and when told to stop."""

    def __init__(
        self,
        fit: Fit,
        reporter: ProgressReporter,
        checkpoints: Checkpoints,
        progress: Progress,
        stop: Stop,
        *,
        running: Sequence[tf.Variable],
        summaries: tf.summary.SummaryWriter,
    ) -> None:
        super().__init__()
        self._fit, self._reporter, self._checkpoints, self._progress = fit, reporter, checkpoints, progress
        self._stop, self._running, self._summaries = stop, running, summaries
        self._saved = self._started = time.monotonic()
        self._due: tuple[int, float, Any, Mapping[str, Any]] | None = None  # the summary that is not written yet
        self._known: list[str] = []  # the metrics of the last summary

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Goes on with the figures of a resumed epoch, which Keras has just set to 0."""
        if self._progress.steps:
            for there, saved in zip(self._figures(), self._running, strict=True):
                there.assign(saved)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Looks at the step before; `on_train_batch_end` would wait for each step's metrics."""
        if batch:
            self._look(batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Looks at the last step."""
        total, before = self._fit.steps, self._progress.steps
        self._look(total - before)
        self._write()

    def _look(self, steps: int) -> None:
        """Reports, saves and stops if it is time to, after so many steps."""
        done, total = self._progress.steps + steps, self._fit.steps
        speed = steps * self._fit.tokens / total / (time.monotonic() - self._started)
        if done % _STEPS_BETWEEN_SUMMARIES == 0 or done == total:
            self._write()
            self._due = done, speed, self.model.optimizer.learning_rate, self.model.get_metrics_result()
        self._reporter.update(done=done, note=", ".join([*self._known, f"{speed:,.0f} tokens/s"]))
        if done == total:  # the end of the epoch saves; so a resumed epoch always has at least one step left
            return
        if self._stop or time.monotonic() - self._saved >= self._fit.training.checkpoint_seconds:
            self._save(done)
        if self._stop:
            self._stop.end(
                f"epoch {self._progress.epochs + 1} of {self._fit.training.epochs} is saved at step {done} of {total}; "
                "repeat the command to continue"
            )

    def _write(self) -> None:
        """Writes the summary that is due; a few steps late, so that no device has to wait until it has been read."""
        if self._due is None:
            return
        done, speed, rate, metrics = self._due
        figures = {name: float(figure) for name, figure in metrics.items()}
        self._known = [f"{name} {figure:.3f}" for name, figure in figures.items()]
        named = {f"train/{name}": figure for name, figure in figures.items()}
        named |= {"train/learning_rate": float(rate), "train/tokens_per_second": speed}
        _summarize(self._summaries, named, step=self._progress.epochs * self._fit.steps + done)
        self._due = None

    def _save(self, done: int) -> None:
        for saved, there in zip(self._running, self._figures(), strict=True):
            saved.assign(there.value)
        self._checkpoints.save(replace(self._progress, steps=done))
        self._saved = time.monotonic()

    def _figures(self) -> list[Any]:
        return [variable for mean in self.model.metrics for variable in mean.variables]


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
    summaries.flush()


def _summarize(summaries: tf.summary.SummaryWriter, figures: Mapping[str, float], *, step: int) -> None:
    with summaries.as_default(step=step):
        for name, figure in figures.items():
            tf.summary.scalar(name, figure)
