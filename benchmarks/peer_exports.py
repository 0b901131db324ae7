"""Writes what the PyTorch scripts read: a bundle as a Hugging Face checkpoint, and training windows as arrays.

    python benchmarks/peer_exports.py checkpoint BUNDLE FOLDER
    python benchmarks/peer_exports.py windows RECORDS FILE.npz

A checkpoint has the encoder as transformers' `BertModel`, its tokenizer, and `classifier.safetensors` and
`classifier.json` for the linear layer. The bundle must have the default head over the default encoder. The arrays are
`token_ids` and, of the owned sentences, `sep_positions` and `labels`, of all windows one after another; `tokens` and
`sentences` say how many each window has.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np


def export_checkpoint(path: str, folder: Path) -> None:
    """Writes a bundle as a checkpoint into a new folder."""
    from safetensors.numpy import save_file

    from model.bundles.bundle import load_bundle
    from model.classifier.classifier import SentenceClassifier
    from model.config import settings_from_dict
    from model.encoders.encoder import open_encoder
    from model.encoders.huggingface import tensor_names
    from model.training.warm_start import warm_start

    bundle = load_bundle(path)
    settings = settings_from_dict(bundle.description["settings"], origin=path)
    encoder = open_encoder(settings.encoder)
    classifier = SentenceClassifier(encoder.build(pretrained=False), len(bundle.labels), settings.model)
    classifier.build_variables()
    warm_start(classifier, bundle, bundle.labels)
    weights = {
        tensor_names(name)[0]: np.ascontiguousarray(
            variable.numpy().T if name.endswith("/kernel") else variable.numpy()
        )
        for name, variable in classifier.encoder.pretrained_weights.items()
    }
    kernel, bias = classifier.head.linear.get_weights()
    shutil.copytree(open_files(settings.encoder.handle), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = settings.encoder.layers or config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"weight": np.ascontiguousarray(kernel.T), "bias": bias}, folder / "classifier.safetensors")
    facts = {
        "labels": list(bundle.labels),
        "temperature": bundle.description["temperature"],
        "window": bundle.window.model_dump(),
    }
    (folder / "classifier.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def open_files(handle: str) -> Path:
    """Returns the folder of an encoder."""
    from model.encoders.downloads import DOWNLOADS, fetch

    return fetch(handle) if handle in DOWNLOADS else Path(handle)


def export_windows(records: str, file: Path) -> None:
    """Writes the windows of the train split as arrays."""
    import tensorflow as tf

    from model.bundles.training_data import open_training_data
    from model.schema import training_spec

    columns: dict[str, list[np.ndarray]] = {"token_ids": [], "sep_positions": [], "labels": []}
    sizes: dict[str, list[int]] = {"tokens": [], "sentences": []}
    for serialized in tf.data.TFRecordDataset(open_training_data(records).window_files("train")):
        record = {
            name: value.numpy() for name, value in tf.io.parse_single_example(serialized, training_spec()).items()
        }
        owned = slice(int(record["owned_start"]), int(record["owned_end"]))
        columns["token_ids"].append(record["token_ids"])
        columns["sep_positions"].append(record["sep_positions"][owned])
        columns["labels"].append(record["labels"][owned])
        sizes["tokens"].append(len(record["token_ids"]))
        sizes["sentences"].append(len(record["labels"][owned]))
    arrays: dict[str, Any] = {**{name: np.concatenate(parts) for name, parts in columns.items()}, **sizes}
    np.savez(file, **arrays)


def main() -> None:
    what, source, target = sys.argv[1:]
    {"checkpoint": export_checkpoint, "windows": export_windows}[what](source, Path(target))


if __name__ == "__main__":
    main()
