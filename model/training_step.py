"""One step of training: the loss of a batch over all devices, its gradients, and the optimizer's update."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.classifier import SentenceClassifier, sentence_mask
from model.config import TrainingSettings
from model.devices import Devices
from model.schedule import SlantedTriangle


class TrainableClassifier(SentenceClassifier):
    """A classifier with its step of training; only training makes one, the bundle holds the plain class.

    The loss of a batch is the weighted mean over all of its sentences on all devices. Keras's own step would take a
    mean on each device, and clip the gradients of each, so that the result would depend on how many there are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._means = [keras.metrics.Mean(name="loss")]
        if hasattr(self.head, "num_labels"):
            self._means.append(keras.metrics.Mean(name="accuracy"))

    @property
    def metrics(self) -> list[Any]:
        return self._means

    def train_step(self, data: Any) -> dict[str, Any]:
        inputs, targets, weights = data
        mask = sentence_mask(inputs)
        total = tf.maximum(_sum_over_devices(tf.reduce_sum(weights)), 1e-9)
        with tf.GradientTape() as tape:
            logits = self(inputs, training=True)
            loss = self.head.loss(logits, targets, weights, mask) / total
        gradients = _average_over_devices(tape.gradient(loss, self.trainable_weights))
        self.optimizer.apply(gradients, self.trainable_weights)
        figures = [_sum_over_devices(loss)]
        if len(self._means) > 1:
            hits = tf.cast(self.head.predict(logits, mask)["label_ids"] == targets, tf.float32)
            figures.append(_sum_over_devices(tf.reduce_sum(hits * weights)) / total)
        for mean, figure in zip(self._means, figures, strict=True):
            mean.update_state(figure, sample_weight=total)
        return {mean.name: mean.result() for mean in self._means}


def compile_classifier(
    classifier: TrainableClassifier, training: TrainingSettings, devices: Devices, *, features: int, batches: int
) -> None:
    """Builds the classifier's variables and its optimizer; `batches` is how many all epochs have together."""
    classifier.build_variables(features)  # so that a checkpoint can be restored before the first batch
    steps = max(1, batches // training.accumulate)
    optimizer = keras.optimizers.AdamW(
        SlantedTriangle(training.learning_rate, steps, warmup=training.warmup),
        weight_decay=training.weight_decay,
        # Every device holds the whole gradient divided by their number, and the optimizer sums them up after clipping.
        global_clipnorm=training.clip_norm / len(devices.names),
        gradient_accumulation_steps=training.accumulate if training.accumulate > 1 else None,
    )
    spared = [v for v in classifier.trainable_variables if v.name == "bias" or "norm" in v.path]
    optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(classifier.trainable_variables)
    classifier.compile(optimizer=optimizer, jit_compile=training.xla and devices.strategy is None)


def distribute(batches: tf.data.Dataset, devices: Devices) -> Any:
    """Returns the batches dealt out to the devices, each in as many equal parts as there are devices.

    Where the windows of a batch don't divide by that, empty ones that weigh nothing fill it up.
    """
    if devices.strategy is None:
        return batches
    count = len(devices.names)

    def cut(batch: tf.Tensor) -> tf.Tensor:
        surplus = -tf.shape(batch)[0] % count
        filled = tf.pad(batch, [[0, surplus], *[[0, 0]] * (len(batch.shape) - 1)])
        return tf.reshape(filled, tf.concat([[count, -1], tf.shape(filled)[1:]], axis=0))

    def deal(*batch: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(cut, batch))

    dealt = batches.flat_map(deal)
    return devices.strategy.distribute_datasets_from_function(lambda _: dealt)


def _sum_over_devices(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value) if context.num_replicas_in_sync > 1 else value


def _average_over_devices(gradients: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return list(context.all_reduce(tf.distribute.ReduceOp.MEAN, dense))
