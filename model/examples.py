"""Writes many training records at once as serialized `tf.Example`s, without an object for each.

The bytes are those of `tf.train.Example.SerializeToString(deterministic=True)`. The format:
https://protobuf.dev/programming-guides/encoding; the messages: tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from model.schema import TRAINING_RECORD, Feature

# The first byte of a field: its number, and that its length follows.
_FIELD_1, _FIELD_2, _FIELD_3 = (bytes([number << 3 | 2]) for number in (1, 2, 3))
_REQUIRED = {name for name, feature in TRAINING_RECORD.items() if not feature.optional}
_TARGETS = {"labels", "scores"}


def encode_training_records(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Returns a serialized tf.Example for each record.

    Args:
        records: values of `schema.TRAINING_RECORD` by name: a text, a number, or for a list any sequence of numbers.

    Raises:
        ValueError: a feature is missing or unknown.
    """
    for names in {frozenset(record) for record in records}:
        _check(names)
    entries: list[list[bytes]] = [[] for _ in records]
    for name, feature in sorted(TRAINING_RECORD.items()):
        having = [index for index, record in enumerate(records) if name in record]
        values = [records[index][name] for index in having]
        key = _field(_FIELD_1, name.encode("ascii"))
        for index, encoded in zip(having, _encode_feature(feature, values), strict=True):
            entries[index].append(_field(_FIELD_1, key + _field(_FIELD_2, encoded)))
    return [_field(_FIELD_1, b"".join(parts)) for parts in entries]


def _check(names: frozenset[str]) -> None:
    if unknown := names - TRAINING_RECORD.keys():
        raise ValueError(f"not in the training record: {sorted(unknown)}")
    if missing := (_REQUIRED - names) | (set() if names & _TARGETS else {"labels or scores"}):
        raise ValueError(f"missing in the training record: {sorted(missing)}")


def _encode_feature(feature: Feature, values: Sequence[Any]) -> Iterable[bytes]:
    """Yields a `Feature` message for each value: the field of its kind, with the list of its items."""
    if feature.kind == "string":
        assert not feature.ragged
        return (_field(_FIELD_1, _field(_FIELD_1, value.encode("utf-8"))) for value in values)
    lists = values if feature.ragged else [[value] for value in values]
    if feature.kind == "float32":
        packed = (np.asarray(items, "<f4").tobytes() for items in lists)
        return (_field(_FIELD_2, _field(_FIELD_1, items) if items else b"") for items in packed)
    return (_field(_FIELD_3, _field(_FIELD_1, items) if items else b"") for items in _pack(lists))


def _pack(lists: Sequence[Sequence[int]]) -> Iterable[bytes]:
    """Yields each list of integers as varints, which are made for all lists together."""
    arrays = [np.asarray(items, np.int64) for items in lists]
    if not arrays:
        return
    packed, sizes = varints(np.concatenate(arrays))
    ends = np.concatenate(([0], np.cumsum(sizes)))[np.cumsum([len(items) for items in arrays])].tolist()
    start = 0
    for end in ends:
        yield packed[start:end]
        start = end


def varints(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Returns int64 `[numbers]` as varints, 7 bits in a byte, the lowest first, and how many bytes each has."""
    bits = numbers.astype(np.uint64)  # a negative number has all ten bytes
    sizes = np.ones(len(bits), np.int64)
    for size in range(1, 10):
        longer = bits >= np.uint64(1 << 7 * size)
        if not longer.any():
            break
        sizes += longer
    width = int(sizes.max(initial=1))
    place = np.arange(width)
    table = np.empty((len(bits), width), np.uint8)
    for index in place:
        table[:, index] = (bits >> np.uint64(7 * index)).astype(np.uint8) & 0x7F | (sizes - 1 > index) * np.uint8(0x80)
    return table[place < sizes[:, np.newaxis]].tobytes(), sizes


def _field(tag: bytes, content: bytes) -> bytes:
    """Returns a field that has a length."""
    return tag + _length(len(content)) + content


@cache
def _length(length: int) -> bytes:
    """Returns one number as a varint."""
    return varints(np.array([length]))[0]
