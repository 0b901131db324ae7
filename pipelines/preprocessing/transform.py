"""tf.Transform's part: full passes over the train split, and one graph that turns text into ids."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

from model.config import DataSettings
from model.errors import UserError
from model.text.tokenization import Tokenizer, is_outlier
from model.text.vocabulary import Vocabulary
from pipelines.runners.options import workers_are_here
from pipelines.storage.objects import is_local

PASSED_THROUGH = ("part", "doc_id", "confidences")
_LABEL_VOCABULARY = "labels"
_STRINGS = pa.large_list(pa.large_binary())
_FLOATS = pa.large_list(pa.float32())


@dataclass(frozen=True)
class Statistics:
    """Statistics of the train split, from tf.Transform's full pass.

    Attributes:
        labels: the label vocabulary, in the order of the label ids.
        length_quantiles: wordpieces of a document, special tokens included, at the inner quantiles.
        mean_tokens, max_tokens: wordpieces of a document.
        mean_sentences: sentences of a document.
        features: mean and standard deviation of each additional feature over the train sentences.
    """

    labels: tuple[str, ...]
    length_quantiles: tuple[int, ...]
    mean_tokens: float
    max_tokens: int
    mean_sentences: float
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


class _AdapterConfig(TensorAdapterConfig):
    """Is sent to the workers with the graph. Unpickling it imports this module, which registers the graph's operations.

    Otherwise a worker that runs only a stage of tf.Transform would not know those of tf.text.
    """


def adapter_config(data: DataSettings) -> TensorAdapterConfig:
    """Returns how tf.Transform reads the record batches of `raw_batch` as ragged tensors."""

    def ragged(column: str) -> schema_pb2.TensorRepresentation:
        representation = schema_pb2.TensorRepresentation()
        representation.ragged_tensor.feature_path.step.append(column)
        representation.ragged_tensor.row_partition_dtype = schema_pb2.TensorRepresentation.INT64
        return representation

    names = [name for name in _raw_schema(data).names if name not in PASSED_THROUGH]
    return _AdapterConfig(_raw_schema(data), {name: ragged(name) for name in names})


def raw_batch(documents: pa.Table, part: str, data: DataSettings) -> pa.RecordBatch:
    """Returns the documents of one part as a record batch for tf.Transform; the columns `PASSED_THROUGH` are unchanged.

    The features of a document are one flat list, sentence after sentence.
    """
    rows = documents.num_rows
    made = {
        "part": pa.array([[part.encode()]] * rows, _STRINGS),
        "doc_id": pa.array([[doc_id.encode()] for doc_id in documents["doc_id"].to_pylist()], _STRINGS),
    }
    schema = _raw_schema(data)
    if "features" in schema.names:
        flat = [[number for row in rows for number in row] for rows in documents["features"].to_pylist()]
        made["features"] = pa.array(flat, _FLOATS)
    columns = [
        made[name] if name in made else documents[name].combine_chunks().cast(schema.field(name).type)
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def make_preprocessing_fn(
    vocabulary: Vocabulary, data: DataSettings
) -> Callable[[dict[str, tf.RaggedTensor]], dict[str, Any]]:
    """Returns the function that tf.Transform analyzes and applies.

    If `data.labels` is None, the full pass finds the label vocabulary, the most frequent label first.
    """

    def preprocessing_fn(inputs: dict[str, tf.RaggedTensor]) -> dict[str, Any]:
        sentences = inputs["sentences"]
        tokens = Tokenizer(vocabulary, mask_outliers=data.mask_outliers).tokenize(sentences.values)
        sentence_tokens = sentences.with_values(tokens.row_lengths() + 1)  # each with its [SEP]
        document_tokens = 1 + tf.reduce_sum(sentence_tokens, axis=1)  # and one [CLS]
        rows = tf.size(document_tokens)

        def for_each_row(statistic: tf.Tensor) -> tf.Tensor:
            # Every output has a row for each input; the driver reads the first.
            return tf.tile(tf.reshape(tf.cast(statistic, tf.float32), [1, -1]), [rows, 1])

        outputs = {
            "token_ids": sentences.with_values(tokens.with_values(tf.cast(tokens.values, tf.int64))),
            "length_quantiles": for_each_row(tft.quantiles(document_tokens, data.buckets, epsilon=0.001)),
            "mean_tokens": for_each_row(tft.mean(document_tokens)),
            "max_tokens": for_each_row(tft.max(document_tokens)),
            "mean_sentences": for_each_row(tft.mean(sentences.row_lengths())),
        }
        if data.target == "labels":
            outputs["label_ids"] = inputs["labels"].with_values(_label_ids(inputs["labels"].values, data.labels))
        else:
            scores = inputs["scores"]
            if data.mask_outliers:
                scores = scores.with_values(tf.where(is_outlier(sentences.values), 0.0, scores.values))
            outputs["scores"] = scores
        if data.features:
            features = inputs["features"]
            # In 64 bits, in which neither sums nor squares of 32-bit numbers overflow.
            table = tf.reshape(tf.cast(features.values, tf.float64), [-1, data.features])
            mean = tf.cast(tft.mean(table, reduce_instance_dims=False), tf.float32)
            deviation = tf.cast(tf.sqrt(tft.var(table, reduce_instance_dims=False)), tf.float32)
            centred = table - tf.cast(mean, tf.float64)
            standardized = tf.math.divide_no_nan(centred, tf.cast(deviation, tf.float64))
            outputs["features"] = features.with_values(tf.cast(tf.reshape(standardized, [-1]), tf.float32))
            outputs["feature_mean"] = for_each_row(mean)
            outputs["feature_deviation"] = for_each_row(deviation)
        return outputs

    return preprocessing_fn


def read_statistics(transform_dir: str, data: DataSettings) -> Statistics:
    """Returns the statistics that the analysis found, read from its saved graph."""
    output = tft.TFTransformOutput(transform_dir)
    row: dict[str, tf.RaggedTensor] = {"sentences": tf.ragged.constant([["."]])}
    if data.target == "labels":
        row["labels"] = tf.ragged.constant([["."]])
    else:
        row["scores"] = tf.ragged.constant([[0.0]])
    if data.features:
        row["features"] = tf.ragged.constant([[0.0] * data.features])
    found = output.transform_features_layer()(row)
    quantiles = [int(quantile) for quantile in found["length_quantiles"][0].numpy()]
    labels: Sequence[str] = ()
    if data.target == "labels":
        labels = data.labels or [label.decode() for label in output.vocabulary_by_name(_LABEL_VOCABULARY)]
    features: list[tuple[float, float]] = []
    if data.features:
        columns = (found[name][0].numpy().tolist() for name in ("feature_mean", "feature_deviation"))
        features = list(zip(*columns, strict=True))
    return Statistics(
        labels=tuple(labels),
        length_quantiles=tuple(quantiles),
        mean_tokens=float(found["mean_tokens"][0, 0]),
        max_tokens=int(found["max_tokens"][0, 0]),
        mean_sentences=float(found["mean_sentences"][0, 0]),
        features=tuple(features),
    )


def _raw_schema(data: DataSettings) -> pa.Schema:
    target = ("labels", _STRINGS) if data.target == "labels" else ("scores", _FLOATS)
    features = [("features", _FLOATS)] if data.features else []
    passed_through = [("part", _STRINGS), ("doc_id", _STRINGS), ("confidences", _FLOATS)]
    return pa.schema([("sentences", _STRINGS), target, *features, *passed_through])


def _label_ids(labels: tf.Tensor, fixed: Sequence[str] | None) -> tf.Tensor:
    """Returns int64 ids, -1 for a label that is not in the vocabulary."""
    if fixed is None:
        return tft.compute_and_apply_vocabulary(labels, vocab_filename=_LABEL_VOCABULARY, default_value=-1)
    matches = tf.equal(labels[:, tf.newaxis], tf.constant(list(fixed))[tf.newaxis, :])
    return tf.where(
        tf.reduce_any(matches, axis=1), tf.argmax(tf.cast(matches, tf.int8), axis=1, output_type=tf.int64), -1
    )


def _scheme(path: str) -> str:
    return path.partition("://")[0]
