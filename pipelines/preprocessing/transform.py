"""tf.Transform's graph, which turns text into ids: how it is written, and where."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from tensorflow_transform.impl_helper import analyze_in_place
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader

from model.config import DataSettings
from model.errors import UserError
from model.text.tokenization import Tokenizer, is_outlier
from model.text.vocabulary import Vocabulary
from pipelines.runners.options import workers_are_here
from pipelines.storage.objects import is_local

LABEL_VOCABULARY = "labels"


@dataclass(frozen=True, slots=True)
class TransformedDocuments:
    """The documents of one part, as the transform graph returns them; what belongs to sentences lies one by one.

    Attributes:
        doc_ids: the documents' identifiers.
        sentences: int64 `[documents]`, how many sentences each has.
        lengths: int64 `[sentences]`, how many wordpieces each has.
        token_ids: int64 `[wordpieces]`, without special tokens.
        targets: int64 label ids or float32 scores, `[sentences]`.
        confidences: for each document a number for each sentence; None if it has none.
        features: float32 `[sentences, features]`, standardized; None if the model takes none.
    """

    doc_ids: Sequence[str]
    sentences: np.ndarray
    lengths: np.ndarray
    token_ids: np.ndarray
    targets: np.ndarray
    confidences: Sequence[Sequence[float] | None]
    features: np.ndarray | None


@dataclass(frozen=True)
class Analysis:
    """What the transform graph takes from the train split.

    Attributes:
        labels: the label vocabulary, in the order of the label ids; empty for scores.
        features: mean and standard deviation of each additional feature over the train sentences.
    """

    labels: tuple[str, ...]
    features: tuple[tuple[float, float], ...]


def scratch_place(output: str, options: PipelineOptions) -> str | None:
    """Returns the folder for tf.Transform's temporary files, which driver and workers reach through TensorFlow (no S3).

    It is the output folder if that is local or shared, else `--temp_location`. Without one it is None, which stands for
    this machine's folder for temporary files, if the workers run here.

    Raises:
        UserError: TensorFlow can't reach `--temp_location`, or there is none and the workers are elsewhere.
    """
    place: str | None = options.view_as(GoogleCloudOptions).temp_location
    if is_local(output):
        return output
    if place is None and not workers_are_here(options):
        raise UserError(
            f"{output}: TensorFlow needs a folder for temporary files that every worker reaches; "
            "name a shared one, or one in gs://, with --temp_location after --"
        )
    if place is not None and not is_local(place) and _scheme(place) not in tf.io.gfile.get_registered_schemes():
        raise UserError(
            f"temp_location: TensorFlow can't write to {_scheme(place)}://; name a shared folder, or one in gs://"
        )
    if place is not None and is_local(place) and not Path(place).is_dir():
        raise UserError(f"temp_location: there is no folder {place!r}")
    return place


@contextmanager
def scratch_folder(place: str | None) -> Iterator[str]:
    """Yields a new folder in a `scratch_place`, and removes it at the end."""
    if place is None or is_local(place):
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            yield scratch
        return
    scratch = f"{place.rstrip('/')}/sepline-{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(scratch)
    try:
        yield scratch
    finally:
        tf.io.gfile.rmtree(scratch)


def write_graph(path: str, vocabulary: Vocabulary, data: DataSettings, analysis: Analysis) -> None:
    """Writes the transform graph: the function that turns text into ids, with what the analysis found.

    Args:
        path: a folder that TensorFlow reaches.
        vocabulary: the encoder's.
        data: decides which columns there are.
        analysis: of the train split.
    """
    with tempfile.TemporaryDirectory() as scratch:
        label_file = Path(scratch) / LABEL_VOCABULARY  # becomes part of the graph
        label_file.write_text("".join(f"{label}\n" for label in analysis.labels), encoding="utf-8")
        preprocessing_fn = make_preprocessing_fn(vocabulary, data, analysis, str(label_file))
        analyze_in_place(
            preprocessing_fn,
            force_tf_compat_v1=False,
            feature_specs={},
            type_specs=_input_specs(data),
            transform_output_path=path,
        )
    if data.target == "labels" and data.labels is None:
        with tf.io.gfile.GFile(f"{path}/{tft.TFTransformOutput.TRANSFORMED_METADATA_DIR}/asset_map", "w") as file:
            file.write(json.dumps({LABEL_VOCABULARY: LABEL_VOCABULARY}))


def make_preprocessing_fn(
    vocabulary: Vocabulary, data: DataSettings, analysis: Analysis, label_file: str
) -> Callable[[dict[str, tf.RaggedTensor]], dict[str, Any]]:
    """Returns the function that tf.Transform applies to every document.

    Args:
        vocabulary: the encoder's.
        data: decides which columns there are.
        analysis: of the train split.
        label_file: a file with the labels of the analysis, one a line.
    """

    def preprocessing_fn(inputs: dict[str, tf.RaggedTensor]) -> dict[str, Any]:
        sentences = inputs["sentences"]
        tokens = Tokenizer(vocabulary, mask_outliers=data.mask_outliers).tokenize(sentences.values)
        outputs = {"token_ids": sentences.with_values(tokens.with_values(tf.cast(tokens.values, tf.int64)))}
        if data.target == "labels":
            labels = inputs["labels"]
            outputs["label_ids"] = labels.with_values(_label_ids(labels.values, data.labels, label_file))
        else:
            scores = inputs["scores"]
            if data.mask_outliers:
                scores = scores.with_values(tf.where(is_outlier(sentences.values), 0.0, scores.values))
            outputs["scores"] = scores
        if data.features:
            features = inputs["features"]
            mean, deviation = (tf.constant(numbers, tf.float32) for numbers in zip(*analysis.features, strict=True))
            table = tf.reshape(tf.cast(features.values, tf.float64), [-1, data.features])
            centred = table - tf.cast(mean, tf.float64)
            standardized = tf.math.divide_no_nan(centred, tf.cast(deviation, tf.float64))
            outputs["features"] = features.with_values(tf.cast(tf.reshape(standardized, [-1]), tf.float32))
        return outputs

    return preprocessing_fn


class TransformGraph:
    """The graph, loaded; its methods may be called in several threads."""

    def __init__(self, path: str, data: DataSettings) -> None:
        """Loads it.

        Args:
            path: where it was written.
            data: as when it was written.
        """
        self._data = data
        self._loaded = SavedModelLoader(f"{path}/{tft.TFTransformOutput.TRANSFORM_FN_DIR}")
        self._loaded.finalize(_input_specs(data), self._loaded.structured_outputs)

    def apply(self, documents: pa.Table) -> TransformedDocuments:
        """Returns documents, a table of `schema.document_schema`, as the graph transforms them.

        Raises:
            ValueError: a label is not in the label vocabulary.
        """
        data, columns = self._data, {name: documents[name].combine_chunks() for name in documents.column_names}
        counts = columns["sentences"].value_lengths().to_numpy()
        inputs = {}
        for name in _input_specs(data):
            values = columns[name].flatten()
            if name == "features":
                inputs[name] = _ragged(values.flatten().to_numpy(), counts * data.features)
            else:
                inputs[name] = _ragged(values.to_numpy(zero_copy_only=False), counts)
        found = self._loaded.apply_transform_model(inputs)
        tokens = found["token_ids"].values
        targets = found["label_ids" if data.target == "labels" else "scores"].values.numpy()
        if data.target == "labels" and len(targets) and targets.min() < 0:
            first = int(np.searchsorted(np.cumsum(counts), int(np.argmin(targets)), side="right"))
            name = columns["doc_id"][first].as_py()
            raise ValueError(f"document {name!r}: the transform graph has no id for one of its labels")
        return TransformedDocuments(
            doc_ids=columns["doc_id"].to_pylist(),
            sentences=counts,
            lengths=tokens.row_lengths().numpy(),
            token_ids=tokens.values.numpy(),
            targets=targets,
            confidences=columns["confidences"].to_pylist(),
            features=found["features"].values.numpy().reshape(-1, data.features) if data.features else None,
        )


def _ragged(values: np.ndarray, lengths: np.ndarray) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(values, lengths.astype(np.int64), validate=False)


def _input_specs(data: DataSettings) -> dict[str, tf.RaggedTensorSpec]:
    """Returns what the graph takes, as ragged tensors `[documents, (sentences)]`; features lie one after the other."""
    target = ("labels", tf.string) if data.target == "labels" else ("scores", tf.float32)
    columns = [("sentences", tf.string), target, *([("features", tf.float32)] if data.features else [])]
    return {name: tf.RaggedTensorSpec([None, None], dtype, row_splits_dtype=tf.int64) for name, dtype in columns}


def _label_ids(labels: tf.Tensor, fixed: Sequence[str] | None, label_file: str) -> tf.Tensor:
    """Returns int64 ids, -1 for a label that is not in the vocabulary."""
    if fixed is None:
        return tft.apply_vocabulary(labels, label_file, default_value=-1)
    matches = tf.equal(labels[:, tf.newaxis], tf.constant(list(fixed))[tf.newaxis, :])
    return tf.where(
        tf.reduce_any(matches, axis=1), tf.argmax(tf.cast(matches, tf.int8), axis=1, output_type=tf.int64), -1
    )


def _scheme(path: str) -> str:
    return path.partition("://")[0]
