"""The dev split during a training: metrics after each epoch, and calibration of the best one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from model.bundles.training_data import TrainingData
from model.classifier.classifier import SentenceClassifier
from model.evaluation.calibration import fit_temperature
from model.evaluation.evaluate import labelled_sentences, measure_outputs, predict
from model.evaluation.metrics import LabelledSentences
from model.inference.kinds import Outputs
from model.inference.labelled_windows import read_windows
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.records import EncodedWindow
from model.schema import classify_signature

_LEAST_PROBABILITY = 1e-12


class DevSplit:
    """The windows of the dev split, read once and kept in memory."""

    def __init__(self, data: TrainingData, *, labels: tuple[str, ...], pad_id: int, batch_tokens: int) -> None:
        """Reads the windows.

        Args:
            data: the training records.
            labels: the model's; none for scores.
            pad_id: the vocabulary's `[PAD]`.
            batch_tokens: the most padded wordpieces in a micro-batch.
        """
        self._labels, self._pad_id, self._batch_tokens = labels, pad_id, batch_tokens
        self._signature = classify_signature(len(data.features))
        self._windows = list(read_windows(data, "dev")) if data.window_lengths.get("dev") else []

    @property
    def windows(self) -> list[EncodedWindow]:
        """The windows without their labels."""
        return [one.encoded for one in self._windows]

    def __bool__(self) -> bool:
        return bool(self._windows)

    def evaluator(self, classifier: SentenceClassifier) -> Callable[[], dict[str, Any]]:
        """Returns a function that returns the classifier's current metrics as JSON values; its graph is traced once."""
        predictor = self._predictor(classifier.outputs)
        return lambda: self._figures(*predict(predictor, self._windows))

    def calibrate(self, classifier: SentenceClassifier) -> tuple[float, dict[str, Any], Outputs]:
        """Returns the temperature that makes the true labels most probable (1 for scores), metrics and outputs with it.

        The outputs are those of all sentences in order, `[sentences, ...]` by name.
        """
        predictor = self._predictor(lambda batch: {"logits": classifier(batch, training=False)})
        logits, mask = _pad(outputs["logits"] for outputs in predictor.run([one.encoded for one in self._windows]))
        # Arguments, not constants of the graph, which can't hold more than 2 GiB.
        head = tf.function(classifier.head.predict, autograph=False)
        shown = [one.encoded.window for one in self._windows]

        def owned(temperature: float) -> Outputs:
            outputs = {
                name: array.numpy() for name, array in head(logits, mask, tf.constant(temperature, tf.float32)).items()
            }
            return take_owned(
                shown, ({name: array[row] for name, array in outputs.items()} for row in range(len(shown)))
            )

        sentences = labelled_sentences(self._windows)

        def negative_log_likelihood(temperature: float) -> float:
            probabilities = owned(temperature)["probabilities"].astype(float)
            of_target = np.take_along_axis(probabilities, sentences.targets[:, None], axis=1)
            return -float(np.log(np.maximum(of_target, _LEAST_PROBABILITY)).sum())

        temperature = fit_temperature(negative_log_likelihood) if self._labels else 1.0
        outputs = owned(temperature)
        return temperature, self._figures(sentences, outputs), outputs

    def _figures(self, sentences: LabelledSentences, outputs: Outputs) -> dict[str, Any]:
        return measure_outputs(sentences, outputs, labels=self._labels).to_json()

    def _predictor(self, outputs: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]) -> Predictor:
        run = tf.function(outputs, input_signature=[self._signature], autograph=False)

        def classify(batch: Mapping[str, np.ndarray]) -> Outputs:
            found = run({name: tf.constant(array) for name, array in batch.items()})
            return {name: output.numpy() for name, output in found.items()}

        return Predictor(classify, pad_id=self._pad_id, batch_tokens=self._batch_tokens)


def _pad(rows: Iterable[np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns rows of different lengths as `[windows, sentences, outputs]`, and a mask that is False for padding."""
    shown = list(rows)
    most = max(map(len, shown))
    padded = np.stack([np.pad(one, [(0, most - len(one)), (0, 0)]) for one in shown])
    mask = np.arange(most)[None, :] < np.array([len(one) for one in shown])[:, None]
    return tf.constant(padded), tf.constant(mask)
