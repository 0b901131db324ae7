"""What tf.Transform does: the full passes over the train split, and one graph that turns text into ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

from model.tokenization import Tokenizer
from model.vocabulary import Vocabulary

PASSED_THROUGH = ("part", "doc_id", "confidences")
_LABEL_VOCABULARY = "labels"
_STRINGS = pa.large_list(pa.large_binary())
_RAW_SCHEMA = pa.schema(
    [
        ("sentences", _STRINGS),
        ("labels", _STRINGS),
        ("part", _STRINGS),
        ("doc_id", _STRINGS),
        ("confidences", pa.large_list(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Statistics:
    """What the full pass over the train split found.

    Attributes:
        labels: the label vocabulary, in the order of the label ids.
        length_quantiles: wordpieces of a document, special tokens included, at the inner quantiles.
        mean_tokens, max_tokens: wordpieces of a document.
        mean_sentences: sentences of a document.
    """

    labels: tuple[str, ...]
    length_quantiles: tuple[int, ...]
    mean_tokens: float
    max_tokens: int
    mean_sentences: float


def adapter_config() -> TensorAdapterConfig:
    """Returns how tf.Transform reads the record batches of `raw_batch` as ragged tensors."""

    def ragged(column: str) -> schema_pb2.TensorRepresentation:
        representation = schema_pb2.TensorRepresentation()
        representation.ragged_tensor.feature_path.step.append(column)
        representation.ragged_tensor.row_partition_dtype = schema_pb2.TensorRepresentation.INT64
        return representation

    return TensorAdapterConfig(_RAW_SCHEMA, {name: ragged(name) for name in ("sentences", "labels")})


def raw_batch(documents: pa.Table, part: str) -> pa.RecordBatch:
    """Returns the documents of one part as tf.Transform takes them; `part` travels along."""
    rows = documents.num_rows
    columns = [
        documents["sentences"].combine_chunks().cast(_STRINGS),
        documents["labels"].combine_chunks().cast(_STRINGS),
        pa.array([[part.encode()]] * rows, _STRINGS),
        pa.array([[doc_id.encode()] for doc_id in documents["doc_id"].to_pylist()], _STRINGS),
        documents["confidences"].combine_chunks().cast(_RAW_SCHEMA.field("confidences").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_RAW_SCHEMA)


def make_preprocessing_fn(
    vocabulary: Vocabulary, *, labels: Sequence[str] | None, buckets: int
) -> Callable[[dict[str, tf.RaggedTensor]], dict[str, Any]]:
    """Returns the function that tf.Transform analyzes and applies.

    Args:
        vocabulary: the encoder's.
        labels: the label vocabulary; None lets the full pass find it, the most frequent label first.
        buckets: how many equally filled length buckets the quantiles separate.
    """

    def preprocessing_fn(inputs: dict[str, tf.RaggedTensor]) -> dict[str, Any]:
        sentences = inputs["sentences"]
        tokens = Tokenizer(vocabulary).tokenize(sentences.values)
        sentence_tokens = sentences.with_values(tokens.row_lengths() + 1)  # each with its [SEP]
        document_tokens = 1 + tf.reduce_sum(sentence_tokens, axis=1)  # and one [CLS]
        rows = tf.size(document_tokens)

        def for_each_row(statistic: tf.Tensor) -> tf.Tensor:
            # Every output has a row an input; the driver reads the first.
            return tf.tile(tf.reshape(tf.cast(statistic, tf.float32), [1, -1]), [rows, 1])

        return {
            "token_ids": sentences.with_values(tokens.with_values(tf.cast(tokens.values, tf.int64))),
            "label_ids": inputs["labels"].with_values(_label_ids(inputs["labels"].values, labels)),
            "length_quantiles": for_each_row(tft.quantiles(document_tokens, buckets, epsilon=0.001)),
            "mean_tokens": for_each_row(tft.mean(document_tokens)),
            "max_tokens": for_each_row(tft.max(document_tokens)),
            "mean_sentences": for_each_row(tft.mean(sentences.row_lengths())),
        }

    return preprocessing_fn


def read_statistics(transform_dir: str, *, labels: Sequence[str] | None) -> Statistics:
    """Returns what the analysis found, read back from its saved graph."""
    output = tft.TFTransformOutput(transform_dir)
    row = {"sentences": tf.ragged.constant([["."]]), "labels": tf.ragged.constant([["."]])}
    found = output.transform_features_layer()(row)
    quantiles = [int(quantile) for quantile in found["length_quantiles"][0].numpy()]
    vocabulary = labels or [label.decode() for label in output.vocabulary_by_name(_LABEL_VOCABULARY)]
    return Statistics(
        labels=tuple(vocabulary),
        length_quantiles=tuple(quantiles),
        mean_tokens=float(found["mean_tokens"][0, 0]),
        max_tokens=int(found["max_tokens"][0, 0]),
        mean_sentences=float(found["mean_sentences"][0, 0]),
    )


def _label_ids(labels: tf.Tensor, fixed: Sequence[str] | None) -> tf.Tensor:
    """Returns int64 ids; -1 for a label outside the vocabulary."""
    if fixed is None:
        return tft.compute_and_apply_vocabulary(labels, vocab_filename=_LABEL_VOCABULARY, default_value=-1)
    matches = tf.equal(labels[:, tf.newaxis], tf.constant(list(fixed))[tf.newaxis, :])
    return tf.where(
        tf.reduce_any(matches, axis=1), tf.argmax(tf.cast(matches, tf.int8), axis=1, output_type=tf.int64), -1
    )
