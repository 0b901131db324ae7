"""Fine-tunes the classifier on training records and exports the best epoch as a bundle.

A run's folder:

    run.json          what is trained: settings and data, by fingerprint; a folder begun with others is refused
    checkpoints/      the last checkpoint; a killed run goes on from it
    best.weights.h5   the weights of the best epoch so far
    history.json      each epoch's figures
    tensorboard/      the same and more for TensorBoard
    bundle/           the result, written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import model
from model.bundles.bundle import Bundle, load_bundle, write_bundle
from model.bundles.training_data import TrainingData, open_training_data
from model.classifier.classifier import SentenceClassifier
from model.config import Settings, TrainingSettings
from model.encoders.encoder import describe_encoder, load_encoder, load_vocabulary
from model.errors import UserError
from model.evaluation.calibration import fit_temperature
from model.evaluation.evaluate import measure_outputs, predict
from model.folders import claim_folder
from model.inference.predictor import Outputs, Predictor
from model.inference.serving import ServingModule
from model.records import LabelledWindow
from model.schema import classify_signature
from model.text.tokenization import Tokenizer
from model.text.vocabulary import Vocabulary
from model.training.devices import Devices, choose_devices
from model.training.input_pipeline import Batching, plan_training_sets, read_windows
from model.training.loop import BEST_WEIGHTS, Fit, best_epoch, run_epochs
from model.training.step import TrainableClassifier, compile_classifier, count_steps
from model.training.warm_start import warm_start


def train_and_evaluate(
    settings: Settings,
    data_dirs: str | Sequence[str],
    run_dir: str,
    *,
    shares: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Trains on the train split, keeps the epoch that does best on dev, and returns the exported bundle.

    A finished run is returned as it is; an interrupted one goes on from its last checkpoint.

    Args:
        settings: the sections `encoder`, `model` and `training` count here.
        data_dirs: folders of training records. The first one's settings hold, and its dev split chooses the epoch.
        run_dir: the folder of the run.
        shares: the share of the batches that each folder gets; by their sizes when None.
        overwrite: True to replace a run that the folder holds already.

    Raises:
        UserError: settings and data don't fit together, or the run's folder holds another run.
    """
    folders = [open_training_data(path) for path in ([data_dirs] if isinstance(data_dirs, str) else data_dirs)]
    data = folders[0]
    settings = _settle(settings, data)
    vocabulary = load_vocabulary(settings.encoder)
    _check(settings, folders, shares, vocabulary)
    labels = tuple(dict.fromkeys(label for folder in folders for label in folder.labels))
    run, training = Path(run_dir), settings.training
    initial = load_bundle(training.warm_start) if training.warm_start else None
    mark = {
        "data": [folder.fingerprint for folder in folders],
        "shares": list(shares) if shares else None,
        "warm_start": initial.fingerprint if initial else None,
        "settings": settings.model_dump(mode="json"),
    }
    claim_folder(run, "run.json", mark, overwrite=overwrite)
    if (run / "bundle").is_dir():
        return load_bundle(run / "bundle")

    encoder = describe_encoder(settings.encoder)
    keras.utils.set_random_seed(training.seed)
    devices = choose_devices(training.precision)
    print(describe(training, devices), flush=True)
    sets = plan_training_sets(folders, shares=shares, labels=labels, batch_tokens=training.batch_tokens)
    num_labels = len(labels) or None
    with devices.scope():
        classifier = TrainableClassifier(load_encoder(settings.encoder), num_labels, settings.model, name="classifier")
        steps = count_steps(sum(one.batches for one in sets), training.accumulate) * training.epochs
        compile_classifier(classifier, training, devices, features=len(data.features), steps=steps)
        if initial:
            warm_start(classifier, initial, labels)
    dev = list(read_windows(data, "dev")) if data.window_lengths.get("dev") else []

    predictor = _predictor(classifier.outputs, data, vocabulary, training.batch_tokens)

    def evaluate_dev() -> dict[str, Any]:
        return measure_outputs(*predict(predictor, dev), labels=labels).to_json()

    history = run_epochs(
        classifier,
        Fit(
            run=run,
            training=training,
            sets=sets,
            batching=Batching(
                batch_tokens=training.batch_tokens,
                pad_id=vocabulary.pad_id,
                seed=training.seed,
                label_weights=label_weights(training, folders, labels),
                static_shapes=training.xla,
            ),
            devices=devices,
            evaluate=evaluate_dev if dev else None,
        ),
    )
    best = best_epoch(history)
    classifier.load_weights(run / BEST_WEIGHTS)
    exported = _plain_classifier(classifier, settings, num_labels, features=len(data.features))
    temperature = calibrate(exported, dev, data, vocabulary, training.batch_tokens) if labels and dev else 1.0
    serving = ServingModule(
        exported,
        Tokenizer(vocabulary, mask_outliers=data.settings.data.mask_outliers),
        labels=labels,
        window=data.settings.window,
        features=data.features,
        temperature=temperature,
    )
    dev_figures = None
    if dev:
        predictor = _predictor(
            lambda batch: exported.outputs(batch, temperature), data, vocabulary, training.batch_tokens
        )
        dev_figures = measure_outputs(*predict(predictor, dev), labels=labels).to_json()
    facts = {
        "sepline": model.__version__,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "encoder": encoder.facts(),
        "target": data.settings.data.target,
        "temperature": temperature,
        "settings": settings.model_dump(mode="json"),
        "data": [{"fingerprint": folder.fingerprint, "counts": folder.stats["counts"]} for folder in folders],
        "best_epoch": best["epoch"],
        "dev": dev_figures,
    }
    return write_bundle(
        run / "bundle",
        serving.export,
        labels=labels,
        window=data.settings.window,
        vocabulary=vocabulary,
        features=data.features,
        mask_outliers=data.settings.data.mask_outliers,
        facts=facts,
    )


def describe(training: TrainingSettings, devices: Devices) -> str:
    """Returns in words what a training runs on."""
    count = len(devices.names)
    on = devices.names[0] if count == 1 else f"{count} devices ({', '.join(devices.names)})"
    steps = "" if training.accumulate == 1 else f", {training.accumulate} batches a step"
    xla = ", XLA" if training.xla and count == 1 else ""
    return f"training on {on} in {devices.precision}{xla}, up to {training.batch_tokens:,} wordpieces a batch{steps}"


def label_weights(
    training: TrainingSettings, folders: Sequence[TrainingData], labels: Sequence[str]
) -> tuple[float, ...] | None:
    """Returns what a sentence counts in the loss by its label; None where all count alike.

    Raises:
        UserError: `training.class_weights` names a label that the records don't have.
    """
    wanted = training.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = np.array(
            [sum(folder.stats["label_counts"]["train"].get(label, 0) for folder in folders) for label in labels], float
        )
        return tuple((counts.sum() / (len(labels) * np.maximum(counts, 1.0))).tolist())
    if unknown := sorted(set(wanted) - set(labels)):
        raise UserError(f"training.class_weights names {unknown[0]!r}; the labels are {', '.join(labels) or 'scores'}")
    return tuple(wanted.get(label, 1.0) for label in labels)


def calibrate(
    classifier: SentenceClassifier,
    dev: Sequence[LabelledWindow],
    data: TrainingData,
    vocabulary: Vocabulary,
    batch_tokens: int,
) -> float:
    """Returns the temperature that makes the probabilities of the dev labels greatest."""
    predictor = _predictor(lambda batch: {"logits": classifier(batch, training=False)}, data, vocabulary, batch_tokens)
    shown = [outputs["logits"] for outputs in predictor.run([window.encoded for window in dev])]
    most = max(map(len, shown))
    logits = np.stack([np.pad(rows, [(0, most - len(rows)), (0, 0)]) for rows in shown])
    mask = np.arange(most)[None, :] < np.array([len(rows) for rows in shown])[:, None]
    targets, owned = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, bool)
    for row, labelled in enumerate(dev):
        window = labelled.encoded.window
        targets[row, : len(labelled.targets)] = labelled.targets
        owned[row, window.owned] = True

    @tf.function
    def log_likelihood(temperature: tf.Tensor) -> tf.Tensor:
        probabilities = classifier.head.predict(tf.constant(logits), tf.constant(mask), temperature)["probabilities"]
        of_target = tf.gather(probabilities, targets, batch_dims=2)
        return tf.reduce_sum(tf.math.log(tf.maximum(tf.boolean_mask(of_target, owned), 1e-12)))

    return fit_temperature(lambda temperature: -float(log_likelihood(tf.constant(temperature, tf.float32))))


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


def _check(
    settings: Settings, folders: Sequence[TrainingData], shares: Sequence[float] | None, vocabulary: Vocabulary
) -> None:
    """Refuses records that can't be trained on together with these settings."""
    first = folders[0]
    if shares is not None and (len(shares) != len(folders) or min(shares) <= 0):
        raise UserError(f"give each of the {len(folders)} folders of records a positive share; got {list(shares)}")
    if settings.model.crf and not first.labels:
        raise UserError("model.crf is true, but data.target is scores; a CRF needs labels")
    for data in folders:
        if vocabulary.fingerprint != data.vocabulary_fingerprint:
            raise UserError(
                f"encoder.handle is {settings.encoder.handle!r}, but {data.path} was made with the vocabulary of "
                f"{data.settings.encoder.handle!r}; preprocess again with this encoder"
            )
        if not data.window_lengths.get("train"):
            raise UserError(f"{data.path}: the train split is empty; preprocess more labelled documents")
        if bool(data.labels) != bool(first.labels) or data.settings.window != first.settings.window:
            raise UserError(f"{data.path}: its target or windows are not those of {first.path}; preprocess both alike")
        if data is not first and (data.features or first.features):
            raise UserError(f"{data.path}: features are standardized by folder; preprocess the corpora together")


def _plain_classifier(
    trained: SentenceClassifier, settings: Settings, num_labels: int | None, *, features: int
) -> SentenceClassifier:
    """Returns the trained classifier in float32 on one device and without its optimizer, as it is exported."""
    plain = SentenceClassifier(load_encoder(settings.encoder), num_labels, settings.model, name="classifier")
    plain.build_variables(features)
    plain.set_weights(trained.get_weights())
    return plain


def _predictor(
    outputs: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    data: TrainingData,
    vocabulary: Vocabulary,
    batch_tokens: int,
) -> Predictor:
    run = tf.function(outputs, input_signature=[classify_signature(len(data.features))])

    def classify(batch: Any) -> Outputs:
        found = run({name: tf.constant(array) for name, array in batch.items()})
        return {name: output.numpy() for name, output in found.items()}

    return Predictor(classify, pad_id=vocabulary.pad_id, batch_tokens=batch_tokens)
