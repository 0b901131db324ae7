"""One step of training: the loss of a batch over all devices, its gradients, and the optimizer's update."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.classifier.classifier import SentenceClassifier, sentence_mask
from model.config import TrainingSettings
from model.training.devices import Devices
from model.training.schedule import SlantedTriangle


class TrainableClassifier(SentenceClassifier):
    """A classifier with a training step; used only in training, while the bundle has the plain class.

    The loss of a batch is the weighted mean over all of its sentences on all devices. Keras's own step would take the
    mean on each device and clip each device's gradients, so that the result would depend on the number of devices.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._means = [keras.metrics.Mean(name="loss")]
        if hasattr(self.head, "num_labels"):
            self._means.append(keras.metrics.Mean(name="accuracy"))

    @property
    def metrics(self) -> list[Any]:
        return self._means

    @tf.autograph.experimental.do_not_convert  # no Python branch depends on a tensor; tracing is faster without
    def train_step(self, data: Any) -> dict[str, Any]:
        """Runs one step on its batches, each `(inputs, targets, weights)`, with the effect of one large batch."""
        total = tf.maximum(_sum_over_devices(sum(tf.reduce_sum(weights) for _, _, weights in data)), 1e-9)
        gradients: list[tf.Tensor] = []
        figures = [0.0] * len(self._means)
        for inputs, targets, weights in data:
            # One after the other, so that memory for one batch is enough.
            with tf.control_dependencies(gradients):
                found, more = self._gradients(inputs, targets, weights, total)
            gradients = [one + other for one, other in zip(gradients, found, strict=True)] if gradients else found
            figures = [one + other for one, other in zip(figures, more, strict=True)]
        self.optimizer.apply(_average_over_devices(gradients), self.trainable_weights)
        for mean, figure in zip(self._means, figures, strict=True):
            mean.update_state(_sum_over_devices(figure), sample_weight=total)
        return {mean.name: mean.result() for mean in self._means}

    def _gradients(self, inputs: Any, targets: Any, weights: Any, total: Any) -> tuple[list[Any], list[Any]]:
        """Returns the gradients of a batch's share of the loss, and its share of the metrics."""
        mask = sentence_mask(inputs)
        with tf.GradientTape() as tape:
            logits = self(inputs, training=True)
            loss = self.head.loss(logits, targets, weights, mask) / total
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, self.trainable_weights)]
        figures = [loss]
        if len(self._means) > 1:
            hits = tf.cast(self.head.predict(logits, mask)["label_ids"] == targets, tf.float32)
            figures.append(tf.reduce_sum(hits * weights) / total)
        return gradients, figures


def compile_classifier(
    classifier: TrainableClassifier, training: TrainingSettings, devices: Devices, *, features: int, steps: int
) -> None:
    """Builds the classifier's variables and its optimizer; `steps` is the number of steps in all epochs together."""
    classifier.build_variables(features)  # so that a checkpoint can be restored before the first batch
    optimizer = keras.optimizers.AdamW(
        SlantedTriangle(training.learning_rate, steps, warmup=training.warmup),
        weight_decay=training.weight_decay,
        # Every device has the whole gradient divided by their number; the optimizer sums these up after clipping.
        global_clipnorm=training.clip_norm / len(devices.names),
    )
    spared = [v for v in classifier.trainable_variables if v.name == "bias" or "norm" in v.path]
    optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(classifier.trainable_variables)
    classifier.compile(optimizer=optimizer, jit_compile=training.xla and devices.strategy is None)


def count_steps(batches: int, accumulate: int) -> int:
    """Returns the number of steps in an epoch of `batches` batches."""
    return -(-batches // accumulate)


def group(batches: tf.data.Dataset, accumulate: int) -> tf.data.Dataset:
    """Returns the steps of an epoch, each a tuple of `accumulate` batches.

    The last step is filled up with the first batches, at weight 0.
    """
    surplus = -int(batches.cardinality()) % accumulate
    weightless = batches.repeat().take(surplus).map(lambda inputs, targets, weights: (inputs, targets, weights * 0.0))
    filled = batches.concatenate(weightless)
    return tf.data.Dataset.zip(tuple(filled.shard(accumulate, index) for index in range(accumulate)))


def distribute(steps: tf.data.Dataset, devices: Devices) -> Any:
    """Returns the steps distributed to the devices: each batch is cut into equal parts, one per device.

    If the number of windows in a batch is not a multiple of that, empty windows of weight 0 fill it up.
    """
    if devices.strategy is None:
        return steps
    count = len(devices.names)

    def part(index: int, *step: Any) -> Any:
        def cut(batch: tf.Tensor) -> tf.Tensor:
            surplus = -tf.shape(batch)[0] % count
            filled = tf.pad(batch, [[0, surplus], *[[0, 0]] * (len(batch.shape) - 1)])
            size = tf.shape(filled)[0] // count
            return filled[index * size : (index + 1) * size]

        return tf.nest.map_structure(cut, step)

    parts = [steps.map(lambda *step, index=index: part(index, *step)) for index in range(count)]
    turns = tf.data.Dataset.range(count).repeat()
    dealt = tf.data.Dataset.choose_from_datasets(parts, turns)
    return devices.strategy.distribute_datasets_from_function(lambda _: dealt)


def _sum_over_devices(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value) if context.num_replicas_in_sync > 1 else value


def _average_over_devices(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    return list(context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients))
