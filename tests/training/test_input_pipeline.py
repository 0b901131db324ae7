"""Training records as tensors: nothing lost, nothing twice, labels at their own sentences."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import CUES, TINY_VOCABULARY, tiny_documents
from hypothesis import given
from hypothesis import strategies as st

from model.bundles.training_data import TrainingData, open_training_data
from model.examples import encode_training_records
from model.inference.labelled_windows import read_windows
from model.records import LabelledWindow
from model.schema import SPLITS, TRAINING_RECORD, training_spec
from model.text.tokenization import Tokenizer
from model.text.vocabulary import Vocabulary
from model.training.input_pipeline import Batching, plan_split, plan_training_sets, training_batches

PAD, CLS, SEP = 0, 2, 3
BUDGETS = (8, 48, 100, 192, 500, 5000)


@pytest.fixture(scope="module")
def data(tiny_records: Path) -> TrainingData:
    return open_training_data(tiny_records)


def read_batches(
    *folders: TrainingData, epoch: int = 0, shares: list[float] | None = None, **options: Any
) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    batching = Batching(**{"batch_tokens": 192, "pad_id": PAD, "seed": 1, **options})
    labels = list(dict.fromkeys(label for folder in folders for label in folder.labels))
    sets = plan_training_sets(folders, batching, shares=shares, labels=labels)
    return list(training_batches(sets, batching, epoch=epoch).as_numpy_iterator())


def raw_records(data: TrainingData, split: str) -> list[dict[str, Any]]:
    """Returns the records read with nothing but TensorFlow and the spec."""
    parsed = tf.data.TFRecordDataset(data.window_files(split)).map(
        lambda serialized: tf.io.parse_single_example(serialized, training_spec())
    )
    return list(parsed.as_numpy_iterator())


def weighted_labels(batches: list[tuple[Any, np.ndarray, np.ndarray]]) -> Counter[tuple[tuple[int, ...], int, float]]:
    """Returns how often a sentence, told by its window's ids and its [SEP], comes with which label and weight."""
    found: Counter[Any] = Counter()
    for inputs, labels, weights in batches:
        for row in range(len(labels)):
            ids = tuple(inputs["token_ids"][row, : inputs["padding_mask"][row].sum()].tolist())
            for position, label, weight in zip(inputs["sep_positions"][row], labels[row], weights[row], strict=True):
                if weight:
                    found[ids, int(position), int(label), float(weight)] += 1
    return found


def test_the_tiny_records_are_worth_testing_on(data: TrainingData) -> None:
    counts = data.stats["counts"]
    assert counts["windows"]["train"] > counts["documents"]["train"]
    assert counts["truncated"]["train"] > 0
    assert len(data.window_files("train")) > 1
    assert sum(counts["documents"].values()) == 60
    assert sum(counts["sentences"].values()) == sum(len(document["sentences"]) for document in tiny_documents())


def test_every_owned_label_is_in_one_batch_once(data: TrainingData) -> None:
    expected: Counter[Any] = Counter()
    for record in raw_records(data, "train"):
        for place in range(record["owned_start"], record["owned_end"]):
            ids = tuple(record["token_ids"].tolist())
            expected[ids, int(record["sep_positions"][place]), int(record["labels"][place]), 1.0] += 1
    assert sum(expected.values()) == data.stats["counts"]["sentences"]["train"]
    for batch_tokens in BUDGETS:
        assert weighted_labels(read_batches(data, batch_tokens=batch_tokens)) == expected


def test_batches_are_padded_and_masked(data: TrainingData) -> None:
    for inputs, labels, weights in read_batches(data):
        mask, positions = inputs["padding_mask"], inputs["sep_positions"]
        assert inputs["token_ids"].shape == inputs["segment_ids"].shape == mask.shape
        assert positions.shape == labels.shape == weights.shape
        lengths = mask.sum(axis=1)
        assert (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all()
        assert lengths.max() == mask.shape[1]
        assert (inputs["token_ids"][mask == 0] == PAD).all() and (inputs["segment_ids"][mask == 0] == 0).all()
        assert (inputs["token_ids"][:, 0] == CLS).all()
        for row, seps in zip(inputs["token_ids"], positions, strict=True):
            assert np.flatnonzero(row == SEP).tolist() == seps[seps >= 0].tolist()
        assert (weights[positions == -1] == 0).all() and (labels[positions == -1] == 0).all()
        dtypes = {array.dtype for array in inputs.values()}
        assert (dtypes, labels.dtype, weights.dtype) == ({np.dtype("int32")}, np.dtype("int32"), np.dtype("float32"))


@pytest.mark.parametrize("batch_tokens", BUDGETS)
def test_batches_are_counted_and_within_the_budget(data: TrainingData, batch_tokens: int) -> None:
    for epoch in (0, 3):
        batches = read_batches(data, batch_tokens=batch_tokens, epoch=epoch)
        assert len(batches) == plan_split(data, "train", Batching(batch_tokens, PAD, 1)).batches
        for inputs, _, _ in batches:
            assert inputs["token_ids"].size <= batch_tokens or len(inputs["token_ids"]) == 1


def test_a_batch_holds_windows_of_similar_length(data: TrainingData) -> None:
    plan = plan_split(data, "train", Batching(192, PAD, 1))
    mixed = 0
    for inputs, _, _ in read_batches(data, batch_tokens=192):
        buckets = set(np.searchsorted(plan.longest, inputs["padding_mask"].sum(axis=1)).tolist())
        mixed += len(buckets) > 1
        assert len(inputs["token_ids"]) <= plan.sizes[max(buckets)]
    assert mixed <= len(plan.rest_sizes) < plan.batches
    padded = sum(inputs["token_ids"].size for inputs, _, _ in read_batches(data, batch_tokens=192))
    assert padded / sum(length * count for length, count in data.window_lengths["train"].items()) < 1.2


def test_static_shapes_are_one_for_each_bucket(data: TrainingData) -> None:
    shapes = set()
    batches = read_batches(data, batch_tokens=500, static_shapes=True)
    for inputs, labels, weights in batches:
        assert labels.shape == weights.shape == inputs["sep_positions"].shape
        shapes.add((inputs["token_ids"].shape, labels.shape))
        empty = inputs["padding_mask"].sum(axis=1) == 0
        assert (inputs["sep_positions"][empty] == -1).all() and (weights[empty] == 0).all()
    assert 1 < len(shapes) <= len(data.bucket_boundaries) + 1 < len(batches)
    expected = read_batches(data, batch_tokens=500)
    assert weighted_labels(batches) == weighted_labels(expected)


def batch_bytes(data: TrainingData, **options: Any) -> list[bytes]:
    return [
        b"".join(array.tobytes() for array in (*(inputs[name] for name in sorted(inputs)), labels, weights))
        for inputs, labels, weights in read_batches(data, **options)
    ]


def test_the_order_depends_on_the_seeds_and_the_epoch_alone(data: TrainingData) -> None:
    tf.random.set_seed(5)
    first = batch_bytes(data, seed=1, epoch=0)
    tf.random.uniform([3])  # what else was drawn does not matter
    assert batch_bytes(data, seed=1, epoch=0) == first
    assert batch_bytes(data, seed=1, epoch=1) != first
    assert batch_bytes(data, seed=2, epoch=0) != first
    assert batch_bytes(data, seed=2, epoch=1) != batch_bytes(data, seed=1, epoch=2)
    tf.random.set_seed(5)
    assert batch_bytes(data, seed=1, epoch=0) == first


def decoded(ids: np.ndarray) -> str:
    return " ".join(TINY_VOCABULARY[i] for i in ids)


@pytest.mark.parametrize("split", SPLITS)
def test_labels_stand_at_their_own_sentences(data: TrainingData, split: str) -> None:
    """Each window's ids, read back as words, are the words of the sentences that it says it shows."""
    documents = {document["doc_id"]: document for document in tiny_documents()}
    tokenizer = Tokenizer(Vocabulary(TINY_VOCABULARY, lower_case=True))
    owned: dict[str, list[int]] = {}
    kinds = set()
    for window in read_windows(data, split):
        shown = window.encoded.window
        document = documents[window.doc_id]
        sentences = document["sentences"][shown.start : shown.end]
        pieces = tokenizer.tokenize(tf.constant(sentences)).to_list()
        spans = np.split(window.encoded.token_ids[1:], window.encoded.sep_positions)[:-1]
        for span, ids, truncated in zip(spans, pieces, window.encoded.truncated, strict=True):
            assert decoded(span) == decoded(np.array([*ids[:46], SEP]))  # 48 less [CLS] and [SEP]
            assert truncated == (len(ids) > 46)
        expected = document["labels"][shown.start : shown.end]
        assert [data.labels[label] for label in window.targets] == expected
        for span, label, truncated in zip(spans, expected, window.encoded.truncated, strict=True):
            assert truncated or set(decoded(span).split()) & set(CUES[label])
        owned.setdefault(window.doc_id, []).extend(range(shown.owned_start, shown.owned_end))
        kinds.add((shown.index > 0, bool(window.encoded.truncated.any()), len(document["sentences"]) == 1))
    assert owned == {doc_id: list(range(len(documents[doc_id]["sentences"]))) for doc_id in owned}
    assert len(owned) == data.stats["counts"]["documents"][split]
    if split == "train":  # windows after the first, truncated sentences, documents of one sentence
        assert [any(kind[i] for kind in kinds) for i in range(3)] == [True] * 3


def test_stored_documents_are_those_of_the_windows(data: TrainingData) -> None:
    documents = {document["doc_id"]: document for document in tiny_documents()}
    for split in SPLITS:
        tables = [pq.read_table(file, partitioning=None) for file in data.document_files(split)]
        rows = [row for table in tables for row in table.to_pylist()]
        assert {row["doc_id"] for row in rows} == {window.doc_id for window in read_windows(data, split)}
        for row in rows:
            assert {key: row[key] for key in ("doc_id", "sentences", "labels")} == documents[row["doc_id"]]


def test_records_hold_what_the_schema_says(data: TrainingData) -> None:
    (file, *_) = data.window_files("train")
    names = set()
    for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
        example = tf.train.Example.FromString(serialized)
        kinds = {name: feature.WhichOneof("kind") for name, feature in example.features.feature.items()}
        lists = {"int64": "int64_list", "float32": "float_list", "string": "bytes_list"}
        assert kinds == {name: lists[TRAINING_RECORD[name].kind] for name in kinds}
        names |= set(kinds)
    assert names == {name for name, feature in TRAINING_RECORD.items() if not feature.optional} | {"labels"}


def record(**changes: Any) -> dict[str, Any]:
    values = {
        "doc_id": "dé",
        "window_index": 2,
        "token_ids": [CLS, 7, SEP, 8, SEP, SEP],
        "segment_ids": [0, 0, 0, 1, 1, 0],
        "sep_positions": [2, 4, 5],
        "first_sentence": 3,
        "owned_start": 1,
        "owned_end": 3,
        "truncated": [False, True, False],
        "labels": [1, 0, 2],
        "confidences": [0.5, 0.25, 1.0],
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def write_records(folder: Path, data: TrainingData, *records: dict[str, Any]) -> TrainingData:
    (folder / "windows" / "train").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "windows" / "train" / "part-0.tfrecord")) as writer:
        for serialized in encode_training_records(records):
            writer.write(serialized)
    lengths = Counter(len(values["token_ids"]) for values in records)
    sentences = Counter(len(values["sep_positions"]) for values in records)
    return dataclasses.replace(
        data, path=folder, window_lengths={"train": lengths}, window_sentences={"train": sentences}
    )


def test_one_record_literally(tmp_path: Path, data: TrainingData) -> None:
    (window,) = read_windows(write_records(tmp_path, data, record()), "train")
    assert isinstance(window, LabelledWindow)
    assert window.doc_id == "dé"
    shown = window.encoded.window
    assert (shown.index, shown.start, shown.end, shown.owned_start, shown.owned_end) == (2, 3, 6, 4, 6)
    assert window.encoded.token_ids.tolist() == [CLS, 7, SEP, 8, SEP, SEP]
    assert window.encoded.segment_ids.tolist() == [0, 0, 0, 1, 1, 0]
    assert window.encoded.sep_positions.tolist() == [2, 4, 5]
    assert window.encoded.truncated.tolist() == [False, True, False]
    assert window.targets.tolist() == [1, 0, 2]
    assert window.confidences.tolist() == [0.5, 0.25, 1.0]


def test_confidences_are_the_weights_of_owned_sentences(tmp_path: Path, data: TrainingData) -> None:
    ((_, labels, weights),) = read_batches(write_records(tmp_path, data, record()))
    assert labels.tolist() == [[1, 0, 2]]
    assert weights.tolist() == [[0.0, 0.25, 1.0]]


def test_without_confidences_owned_sentences_weigh_one(tmp_path: Path, data: TrainingData) -> None:
    without = write_records(tmp_path, data, record(confidences=None))
    ((_, _, weights),) = read_batches(without)
    assert weights.tolist() == [[0.0, 1.0, 1.0]]
    (window,) = read_windows(without, "train")
    assert window.confidences.tolist() == [1.0, 1.0, 1.0]


def test_a_wrong_record_is_never_written() -> None:
    with pytest.raises(ValueError, match="not in the training record: \\['label'\\]"):
        encode_training_records([record(label=[1])])
    with pytest.raises(ValueError, match="missing in the training record: \\['labels or scores'\\]"):
        encode_training_records([record(labels=None)])


@given(
    st.lists(
        st.builds(
            record,
            doc_id=st.text(max_size=200),
            window_index=st.integers(0, 2**40),
            token_ids=st.lists(st.integers(0, 2**21), max_size=200),
            labels=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
            confidences=st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=5),
            features=st.none() | st.lists(st.floats(-1e9, 1e9), max_size=40),
        ),
        max_size=5,
    )
)
def test_records_have_the_bytes_of_protocol_buffers(records: list[dict[str, Any]]) -> None:
    def serialized(values: dict[str, Any]) -> bytes:
        example = tf.train.Example()
        for name, value in values.items():
            feature, slot = TRAINING_RECORD[name], example.features.feature[name]
            items = value if feature.ragged else [value]
            if feature.kind == "string":
                slot.bytes_list.value.extend(item.encode() for item in items)
            elif feature.kind == "float32":
                slot.float_list.value.extend(items)
            else:
                slot.int64_list.value.extend(int(item) for item in items)
        return example.SerializeToString(deterministic=True)

    assert encode_training_records(records) == [serialized(values) for values in records]


def test_lengths_that_disagree_with_the_files_fail_loudly(tmp_path: Path, data: TrainingData) -> None:
    wrong = dataclasses.replace(write_records(tmp_path, data, record(), record()), window_lengths={"train": {6: 100}})
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain 100 elements"):
        read_batches(wrong, batch_tokens=8)


def test_the_folder_says_how_long_its_windows_are(data: TrainingData) -> None:
    for split in SPLITS:
        records = raw_records(data, split)
        assert data.window_lengths[split] == Counter(len(record["token_ids"]) for record in records)
        assert data.window_sentences[split] == Counter(len(record["sep_positions"]) for record in records)
        assert data.stats["counts"]["windows"][split] == len(records) > 0
