"""tf.Transform's full pass: mean and standard deviation of the additional features over the train sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

from pipelines.storage.parquet import read_table

_SCHEMA = pa.schema([("features", pa.large_list(pa.float32()))])


def analyze_features(
    parts: Sequence[str], folder: str, scratch: str, count: int, *, beam_options: PipelineOptions
) -> tuple[tuple[float, float], ...]:
    """Returns the mean and the standard deviation of each feature.

    Args:
        parts: the train split's parts of documents, `SPLIT/NAME.parquet`.
        folder: of the records.
        scratch: a folder that TensorFlow reaches, here and on the workers.
        count: how many features a sentence has.
        beam_options: of the pipeline.
    """
    graph = f"{scratch}/features"
    with tft_beam.Context(temp_dir=scratch), beam.Pipeline(options=beam_options) as pipeline:
        raw = (
            pipeline
            | "Parts" >> beam.Create(parts)
            | "Spread" >> beam.Reshuffle()
            | "ReadFeatures" >> beam.Map(read_features, folder)
        )
        column = schema_pb2.TensorRepresentation()
        column.ragged_tensor.feature_path.step.append("features")
        column.ragged_tensor.row_partition_dtype = schema_pb2.TensorRepresentation.INT64
        adapter = TensorAdapterConfig(_SCHEMA, {"features": column})
        analysis = (raw, adapter) | "Analyze" >> tft_beam.AnalyzeDataset(make_analysis_fn(count))
        analysis | "WriteGraph" >> tft_beam.WriteTransformFn(graph)
    row = {"features": tf.ragged.constant([[0.0] * count])}
    found = tft.TFTransformOutput(graph).transform_features_layer()(row)
    means, deviations = (found[name][0].numpy().tolist() for name in ("feature_mean", "feature_deviation"))
    return tuple(zip(means, deviations, strict=True))


def read_features(part: str, folder: str) -> pa.RecordBatch:
    """Returns the features of one part of documents as a record batch for tf.Transform.

    The features of a document are one flat list, sentence after sentence.
    """
    documents = read_table(f"{folder}/documents/{part}", ["features"])["features"].to_pylist()
    flat = [[number for sentence in document for number in sentence] for document in documents]
    return pa.RecordBatch.from_arrays([pa.array(flat, _SCHEMA.field("features").type)], schema=_SCHEMA)


def make_analysis_fn(count: int) -> Callable[[dict[str, tf.RaggedTensor]], dict[str, Any]]:
    """Returns the function that tf.Transform analyzes, for `count` features a sentence."""

    def preprocessing_fn(inputs: dict[str, tf.RaggedTensor]) -> dict[str, Any]:
        features = inputs["features"]
        rows = features.nrows()
        # In 64 bits, in which neither sums nor squares of 32-bit numbers overflow.
        table = tf.reshape(tf.cast(features.values, tf.float64), [-1, count])
        mean = tft.mean(table, reduce_instance_dims=False)
        deviation = tf.sqrt(tft.var(table, reduce_instance_dims=False))

        def for_each_row(statistic: tf.Tensor) -> tf.Tensor:
            # Every output has a row for each input; the driver reads the first.
            return tf.tile(tf.reshape(tf.cast(statistic, tf.float32), [1, -1]), [rows, 1])

        return {"feature_mean": for_each_row(mean), "feature_deviation": for_each_row(deviation)}

    return preprocessing_fn
