"""The only definition of every stored record: tf.Example features of training records, Arrow schemas of the output.

Writers, readers, the serving signature and the tests use these definitions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import tensorflow as tf

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a training record.

    Attributes:
        kind: `int64`, `float32` or `string`, as tf.Example stores it.
        ragged: True for a list, False for a single value.
        optional: True if a corpus need not have it.
    """

    kind: str
    ragged: bool
    optional: bool = False


TRAINING_RECORD: Mapping[str, Feature] = {
    "doc_id": Feature("string", ragged=False),
    "window_index": Feature("int64", ragged=False),
    "token_ids": Feature("int64", ragged=True),  # [tokens], [CLS] and [SEP]s included
    "segment_ids": Feature("int64", ragged=True),  # [tokens]
    "sep_positions": Feature("int64", ragged=True),  # [sentences], indices into token_ids
    "first_sentence": Feature("int64", ragged=False),  # the shown sentences are first_sentence + [0, sentences)
    "owned_start": Feature(
        "int64", ragged=False
    ),  # within the window: sentences owned_start..owned_end - 1 are its own
    "owned_end": Feature("int64", ragged=False),
    "truncated": Feature("int64", ragged=True),  # [sentences], 1 if the sentence's end was cut off
    "labels": Feature("int64", ragged=True, optional=True),  # [sentences], indices into the label vocabulary
    "scores": Feature("float32", ragged=True, optional=True),  # [sentences]; a record has either these or labels
    "confidences": Feature("float32", ragged=True, optional=True),  # [sentences]; if absent, all are 1
    "features": Feature("float32", ragged=True, optional=True),  # [sentences * features], standardized, by sentence
}
"""A training record is one window of one labelled document, context sentences included."""


def training_spec() -> dict[str, Any]:
    """Returns the spec for `tf.io.parse_example`, in whose result lists are ragged `[records, (items)]`.

    For `tf.io.parse_single_example` they are tensors. Absent lists are empty.
    """
    import tensorflow as tf

    return {
        name: tf.io.RaggedFeature(feature.kind, row_splits_dtype=tf.int64)
        if feature.ragged
        else tf.io.FixedLenFeature([], feature.kind)
        for name, feature in TRAINING_RECORD.items()
    }


def classify_signature(features: int = 0) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of the bundle's `classify` signature: a padded batch of windows.

    `token_ids`, `segment_ids` and `padding_mask` are int32 `[batch, tokens]`; the mask is 1 for real tokens.
    `sep_positions` is int32 `[batch, sentences]`, -1 for padding. A model with additional features also takes
    `features`, standardized, float32 `[batch, sentences, features]`.
    """
    import tensorflow as tf

    names = ("token_ids", "segment_ids", "padding_mask", "sep_positions")
    signature = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}
    if features:
        signature["features"] = tf.TensorSpec([None, None, features], tf.float32, name="features")
    return signature


LAYOUTS = ("sentences", "documents")
"""What a row of the predictions is."""


def prediction_schema(
    labels: Sequence[str],
    metadata: Mapping[str, str],
    *,
    layout: str = "sentences",
    columns: Collection[str] | None = None,
    text: bool = True,
) -> pa.Schema:
    """Returns the Arrow schema of a scored part: one row per sentence, or one per document with a list of sentences.

    Args:
        labels: the bundle's labels; `probabilities` follows their order. Without labels, a row has a `score`.
        metadata: written into the file, for readers that have only the file.
        layout: one of `LAYOUTS`.
        columns: only these columns, of documents and sentences alike; None for all.
        text: False to leave out the sentences' text.

    Raises:
        UserError: there is no such column, or none is left.
    """
    import pyarrow as pa

    about_document = [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("record_index", pa.int64(), nullable=False),
    ]
    said = [pa.field("score", pa.float32(), nullable=False)]
    if labels:
        said = [
            pa.field("label", pa.dictionary(pa.int16(), pa.string()), nullable=False),
            pa.field("probability", pa.float32(), nullable=False),
            pa.field("probabilities", pa.list_(pa.field("element", pa.float32(), nullable=False), len(labels))),
        ]
    about_sentence = [
        pa.field("sentence", pa.string(), nullable=False),
        *said,
        pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False),
    ]
    if layout == "sentences":
        about_sentence = [pa.field("sentence_index", pa.int32(), nullable=False), *about_sentence]
    known = [field.name for field in (*about_document, *about_sentence)]
    if unknown := sorted(set(columns or ()) - set(known)):
        raise UserError(f"predictions have no column {unknown[0]!r} in this layout; they have {', '.join(known)}")
    wanted = set(known if columns is None else columns) - (set() if text else {"sentence"})
    if not wanted:
        raise UserError("no column of the predictions is left; name others with --columns")
    about_document = [field for field in about_document if field.name in wanted]
    about_sentence = [field for field in about_sentence if field.name in wanted]
    if layout == "documents" and about_sentence:
        sentence = pa.field("element", pa.struct(about_sentence), nullable=False)
        about_sentence = [pa.field("sentences", pa.list_(sentence), nullable=False)]
    # The id comes first, where people look for it.
    fields = sorted((*about_document, *about_sentence), key=lambda field: field.name in ("source", "record_index"))
    return pa.schema(fields, metadata=dict(metadata))


def document_schema() -> pa.Schema:
    """Returns the Arrow schema of the text of training documents, one row per document; absent lists are null."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("record_index", pa.int64(), nullable=False),
            pa.field("sentences", pa.list_(pa.string()), nullable=False),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("confidences", pa.list_(pa.float32())),
            pa.field("features", pa.list_(pa.list_(pa.float32()))),
            pa.field("highlights", pa.list_(pa.string())),
        ]
    )


STATUSES = ("ok", "truncated")
"""Values of the `status` column: `truncated` marks a sentence that was longer than a window and was cut off."""


def reject_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """Returns the Arrow schema of rejected records, one row per record, wherever rejects are written."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("record_index", pa.int64(), nullable=False),
            pa.field("doc_id", pa.string()),
            pa.field("reason", pa.dictionary(pa.int8(), pa.string()), nullable=False),
            pa.field("message", pa.string(), nullable=False),
            pa.field("excerpt", pa.string(), nullable=False),
        ],
        metadata=dict(metadata),
    )


def part_list_schema() -> pa.Schema:
    """Returns the Arrow schema of the list of a scored folder's parts, one row per file."""
    import pyarrow as pa

    numbers = [pa.field(name, pa.int64(), nullable=False) for name in ("rows", "bytes")]
    return pa.schema(
        [pa.field("name", pa.string(), nullable=False), *numbers, pa.field("sha256", pa.string(), nullable=False)]
    )


def vocabulary_schema() -> pa.Schema:
    """Returns the Arrow schema of wordpiece counts: one row per wordpiece that occurs, one count per split."""
    import pyarrow as pa

    counts = [pa.field(split, pa.int64(), nullable=False) for split in SPLITS]
    return pa.schema(
        [pa.field("piece_id", pa.int32(), nullable=False), pa.field("piece", pa.string(), nullable=False), *counts]
    )


def key_schema() -> pa.Schema:
    """Returns the Arrow schema of the keys by which duplicates are found, one row per record; see `keys.py`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("text", pa.binary(16)),  # a hash of the text; null for a record that isn't used
            pa.field("id", pa.binary(16), nullable=False),  # a hash of the id
            pa.field("split", pa.string(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("record_index", pa.int64(), nullable=False),
            pa.field("deletes", pa.bool_(), nullable=False),
        ]
    )


def duplicate_schema() -> pa.Schema:
    """Returns the Arrow schema of the list of duplicates, one row per document that duplicates another."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("kind", pa.string(), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("record_index", pa.int64(), nullable=False),
            pa.field("dropped", pa.bool_(), nullable=False),
        ]
    )
