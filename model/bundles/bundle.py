"""A trained model as one folder: a SavedModel, its vocabulary, and `bundle.json`, which describes it.

    saved_model.pb, variables/, ...   the signatures in model/inference/serving.py
    vocab.txt                         the encoder's wordpieces
    openvino/model.xml, model.bin     the classifier for the predictor openvino; not in every bundle
    openvino/int8.xml, int8.bin       the same in int8; in bundles that `sepline optimize --int8` wrote
    bundle.json                       labels, windows, encoder, data and code versions, metrics, files, fingerprint

`bundle.json` is written last and the folder is renamed into place, so a folder that has it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from model.config import WindowSettings
from model.errors import DamagedFileError, UserError
from model.folders import json_bytes, publish_folder
from model.graphs import check_graph
from model.text.vocabulary import Vocabulary

BUNDLE_FORMAT = 2
DESCRIPTION = "bundle.json"
"""The file that describes a bundle."""
OPENVINO_MODEL = "openvino/model.xml"
"""The classifier for OpenVINO, in float32; its weights are in `openvino/model.bin`."""
OPENVINO_INT8_MODEL = "openvino/int8.xml"
"""The same quantized; its weights are in `openvino/int8.bin`."""
_VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class Bundle:
    """A bundle's description; loading it runs no TensorFlow.

    Attributes:
        path: the folder.
        labels: in the order of the probabilities; none for a model of scores.
        window: how documents are cut for this model.
        features: mean and standard deviation of each additional feature, which standardize it.
        mask_outliers: whether very short and very long sentences are masked, as in `config.DataSettings`.
        vocabulary: the encoder's.
        fingerprint: SHA-256 over the contents of all its files and its description.
        description: the whole content of `bundle.json`.
        trusted: True to run its graph whatever that does.
    """

    path: Path
    labels: tuple[str, ...]
    window: WindowSettings
    features: tuple[tuple[float, float], ...]
    mask_outliers: bool
    vocabulary: Vocabulary
    fingerprint: str
    description: Mapping[str, Any]
    trusted: bool = False

    @property
    def openvino(self) -> Mapping[str, Any] | None:
        """What is known of the bundle's model for OpenVINO; None if it has none.

        `version` is that of openvino, and `dev` how the model differs from TensorFlow's on dev, if that was measured.
        `int8` is there if the bundle has the model in int8: how that was made, and what it costs.
        """
        return openvino_facts(self.description)

    def check_graph(self) -> None:
        """Checks, without running it, that the model's graph only computes; a trusted one is not checked.

        Raises:
            UserError: it can do more.
        """
        if not self.trusted:
            check_graph(self.path, hint="if you trust its source, give --trust-model")

    def standardize(self, features: Sequence[Sequence[float]]) -> np.ndarray:
        """Returns a document's additional features standardized for the model, float32 `[sentences, features]`."""
        mean, deviation = np.array(self.features, np.float64).T
        centred = np.array(features, np.float32).astype(np.float64) - mean
        standardized = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
        with np.errstate(over="ignore"):  # the model's output is checked
            return standardized.astype(np.float32)


def load_bundle(path: str | Path, *, trusted: bool = False) -> Bundle:
    """Returns the bundle in a folder after checking every file against the description.

    Args:
        path: the folder.
        trusted: see `Bundle`.

    Raises:
        DamagedFileError: the folder is not a bundle, or its files were changed or lost.
        UserError: it has another format.
    """
    folder = Path(path)
    description = read_description(folder)
    if description["format"] != BUNDLE_FORMAT:
        raise UserError(
            f"{folder}: bundle format {description['format']}, this sepline reads {BUNDLE_FORMAT}; export it again"
        )
    files, listed = _hash_files(folder), description.get("files", {})
    if files != listed or _fingerprint(description) != description.get("fingerprint"):
        changed = sorted(name for name in files | listed if files.get(name) != listed.get(name))
        what = ", ".join(changed) or DESCRIPTION
        raise DamagedFileError(f"{folder}: {what} changed since the export; export it again")
    try:
        window = WindowSettings.model_validate(description["window"])
    except ValidationError as error:
        raise UserError(f"{folder}: {DESCRIPTION} has invalid window settings: {error}") from error
    text = (folder / _VOCABULARY).read_text(encoding="utf-8")
    return Bundle(
        path=folder,
        labels=tuple(description["labels"]),
        window=window,
        features=tuple((feature["mean"], feature["deviation"]) for feature in description["features"]),
        mask_outliers=description["mask_outliers"],
        vocabulary=Vocabulary.from_text(text, lower_case=description["lower_case"]),
        fingerprint=description["fingerprint"],
        description=description,
        trusted=trusted,
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Returns what is in a bundle's `bundle.json`; nothing is checked against it.

    Raises:
        DamagedFileError: the folder has none.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        description = None
    if not isinstance(description, dict) or "format" not in description:
        hint = "give the `bundle` folder that `sepline train` wrote, or the REGISTRY/NAME of a model"
        raise DamagedFileError(f"{folder}: not a bundle ({DESCRIPTION} is missing or unreadable); {hint}")
    return description


def openvino_facts(description: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns `Bundle.openvino` of a bundle with this description."""
    facts: Mapping[str, Any] | None = description.get("openvino")
    return facts if OPENVINO_MODEL in description.get("files", {}) else None


def write_bundle(
    path: str | Path,
    export: Callable[[Path], Mapping[str, Any] | None],
    *,
    labels: tuple[str, ...],
    window: WindowSettings,
    vocabulary: Vocabulary,
    features: tuple[tuple[float, float], ...] = (),
    mask_outliers: bool = False,
    facts: Mapping[str, Any],
) -> Bundle:
    """Writes a bundle under a temporary name, renames it to `path`, replacing what is there, and returns it.

    Args:
        path: the bundle's folder.
        export: writes the SavedModel, and what else belongs there, into the folder it is given; it may return further
            JSON values for the description.
        labels, window, vocabulary, features, mask_outliers: see `Bundle`.
        facts: further JSON values for the description.
    """

    def fill(fresh: Path) -> dict[str, Any]:
        more = export(fresh)
        (fresh / _VOCABULARY).write_text(vocabulary.text, encoding="utf-8")
        return {
            **facts,
            **(more or {}),
            "format": BUNDLE_FORMAT,
            "labels": list(labels),
            "window": window.model_dump(mode="json"),
            "features": [{"mean": mean, "deviation": deviation} for mean, deviation in features],
            "mask_outliers": mask_outliers,
            "lower_case": vocabulary.lower_case,
        }

    return _publish(Path(path), fill)


def rewrite_bundle(bundle: Bundle, path: str | Path, change: Callable[[Path], Mapping[str, Any]]) -> Bundle:
    """Writes a changed copy of a bundle, under a temporary name first, and returns it.

    Args:
        bundle: what is copied.
        path: the folder of the new one.
        change: changes the files in the folder it is given, and returns JSON values that replace the description's.
    """

    def fill(fresh: Path) -> dict[str, Any]:
        shutil.copytree(bundle.path, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DESCRIPTION))
        return {**bundle.description, **change(fresh)}

    return _publish(Path(path), fill)


def _publish(folder: Path, fill: Callable[[Path], dict[str, Any]]) -> Bundle:
    fresh = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        description = {**fill(fresh), "files": _hash_files(fresh)}
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    description["fingerprint"] = _fingerprint(description)
    (fresh / DESCRIPTION).write_bytes(json_bytes(description))
    publish_folder(fresh, folder)
    return load_bundle(folder)


def _hash_files(folder: Path) -> dict[str, str]:
    hashes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != DESCRIPTION:
            with open(file, "rb") as stream:
                hashes[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _fingerprint(description: Mapping[str, Any]) -> str:
    content = {key: value for key, value in description.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
