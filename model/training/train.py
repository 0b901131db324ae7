"""Fine-tunes the classifier on training records and exports the best epoch as a bundle.

A run's folder:

    run.json          settings, and fingerprints of the data; a folder with others is refused
    checkpoints/      the last two checkpoints; a killed run resumes from the last one that is whole
    best-N.npz        the weights of the best epoch so far
    history.json      the metrics of each epoch
    tensorboard/      the same and more for TensorBoard
    bundle/           the result, written last
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import model
from model.bundles.bundle import Bundle, load_bundle, write_bundle
from model.bundles.registry import open_model
from model.bundles.training_data import open_training_data
from model.classifier.classifier import SentenceClassifier
from model.config import Settings
from model.encoders.encoder import open_encoder
from model.errors import UserError
from model.folders import claim_folder
from model.inference.kinds import Outputs
from model.inference.serving import ServingModule
from model.optimization.optimize import add_openvino, is_installed
from model.records import EncodedWindow
from model.text.tokenization import Tokenizer
from model.training.checkpoints import reporting_disk_errors
from model.training.checks import check_records, settle
from model.training.dev_split import DevSplit
from model.training.devices import choose_devices, describe_devices
from model.training.input_pipeline import Batching, label_weights, plan_training_sets
from model.training.loop import Fit, best_epoch, run_epochs
from model.training.step import TrainableClassifier, compile_classifier, count_steps
from model.training.warm_start import warm_start


def train_and_evaluate(
    settings: Settings,
    data_dirs: str | Sequence[str],
    run_dir: str,
    *,
    shares: Sequence[float] | None = None,
    overwrite: bool = False,
    before_epoch: Callable[[], None] = lambda: None,
) -> Bundle:
    """Trains on the train split, chooses the epoch that is best on dev, and returns the exported bundle.

    If the run is finished already, its bundle is returned; an interrupted run resumes from its last checkpoint.

    Args:
        settings: the sections `encoder`, `model` and `training` are used.
        data_dirs: folders of training records. The first one's settings are used, and its dev split chooses the epoch.
        run_dir: the folder of the run.
        shares: each folder's share of the batches; None for shares by size.
        overwrite: True to replace a run that the folder holds already.
        before_epoch: is called before each epoch; what it raises ends the training.

    Raises:
        UserError: settings and data don't fit together, or the run's folder holds another run.
        JobFailure: the run's files can't be written; a repeated call resumes.
        Interrupted: the user or the machine stopped it; a repeated call resumes.
    """
    folders = [open_training_data(path) for path in ([data_dirs] if isinstance(data_dirs, str) else data_dirs)]
    data = folders[0]
    settings = settle(settings, data)
    encoder = open_encoder(settings.encoder)
    vocabulary = encoder.vocabulary
    check_records(settings, folders, shares, vocabulary)
    labels = tuple(dict.fromkeys(label for folder in folders for label in folder.labels))
    run, training = Path(run_dir), settings.training
    initial = open_model(training.warm_start) if training.warm_start else None
    mark = {
        "data": [folder.fingerprint for folder in folders],
        "shares": list(shares) if shares else None,
        "warm_start": initial.fingerprint if initial else None,
        "settings": settings.model_dump(mode="json", exclude={"encoder": {"trusted"}}),
    }
    claim_folder(run, "run.json", mark, overwrite=overwrite)
    if (run / "bundle").is_dir():
        return load_bundle(run / "bundle")

    keras.utils.set_random_seed(training.seed)
    devices = choose_devices(training.precision)
    print(describe_devices(training, devices), flush=True)
    num_labels, width = len(labels) or None, len(data.features)
    batching = Batching(
        batch_tokens=training.batch_tokens,
        pad_id=vocabulary.pad_id,
        seed=training.seed,
        label_weights=label_weights(training, folders, labels),
        static_shapes=training.xla,
    )
    sets = plan_training_sets(folders, batching, shares=shares, labels=labels)
    with devices.scope():
        classifier = TrainableClassifier(encoder.build(), num_labels, settings.model, name="classifier")
        steps = count_steps(sum(one.batches for one in sets), training.accumulate) * training.epochs
        compile_classifier(classifier, training, devices, features=width, steps=steps)
        if initial:
            warm_start(classifier, initial, labels)
    dev = DevSplit(data, labels=labels, pad_id=vocabulary.pad_id, batch_tokens=training.batch_tokens)
    history, best_weights = run_epochs(
        classifier,
        Fit(
            run=run,
            training=training,
            sets=sets,
            batching=batching,
            devices=devices,
            evaluate=dev.evaluator(classifier) if dev else None,
            before_epoch=before_epoch,
        ),
    )
    # What is exported is in float32, on one device and without the optimizer.
    exported = SentenceClassifier(encoder.build(pretrained=False), num_labels, settings.model, name="classifier")
    exported.build_variables(width)
    exported.set_weights(best_weights)
    temperature, dev_figures, dev_outputs = dev.calibrate(exported) if dev else (1.0, None, None)
    serving = ServingModule(
        exported,
        Tokenizer(vocabulary, mask_outliers=data.settings.data.mask_outliers),
        labels=labels,
        window=data.settings.window,
        features=data.features,
        temperature=temperature,
    )
    facts = {
        "sepline": model.__version__,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "encoder": encoder.describe().facts(),
        "target": data.settings.data.target,
        "temperature": temperature,
        "settings": settings.model_dump(mode="json", exclude={"encoder": {"trusted"}}),
        "data": [{"fingerprint": folder.fingerprint, "counts": folder.stats["counts"]} for folder in folders],
        "best_epoch": best_epoch(history)["epoch"],
        "dev": dev_figures,
    }

    def export(folder: Path) -> dict[str, Any]:
        serving.export(folder)
        return _add_openvino(folder, dev.windows, dev_outputs, pad_id=vocabulary.pad_id)

    with reporting_disk_errors(run):
        return write_bundle(
            run / "bundle",
            export,
            labels=labels,
            window=data.settings.window,
            vocabulary=vocabulary,
            features=data.features,
            mask_outliers=data.settings.data.mask_outliers,
            facts=facts,
        )


def _add_openvino(
    folder: Path, windows: Sequence[EncodedWindow], expected: Outputs | None, *, pad_id: int
) -> dict[str, Any]:
    """Adds the model for OpenVINO if that is installed; a model that it can't convert is served by TensorFlow alone."""
    if not is_installed():
        return {}
    try:
        return add_openvino(folder, windows, expected, pad_id=pad_id)
    except UserError as error:
        print(f"the bundle has no model for openvino: {error}", file=sys.stderr, flush=True)
        return {}
