"""A sequence of very many small objects that takes tens of bytes for each."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, cast, overload

T_co = TypeVar("T_co", covariant=True)

_PACKET_ITEMS = 1000


class Packed(Sequence[T_co]):
    """Objects in compressed packets, which are opened one after the other when it is iterated over.

    Attributes:
        packets: each holds up to a thousand objects, see `unpack`.
    """

    def __init__(self, items: Iterable[T_co]) -> None:
        self.packets: list[bytes] = []
        self._length = 0
        left = iter(items)
        while group := list(islice(left, _PACKET_ITEMS)):
            self.packets.append(zlib.compress(pickle.dumps(group, pickle.HIGHEST_PROTOCOL), 1))
            self._length += len(group)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T_co]:
        for packet in self.packets:
            yield from cast(list[T_co], unpack(packet))

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...

    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        number = range(self._length)[index]
        return cast(T_co, unpack(self.packets[number // _PACKET_ITEMS])[number % _PACKET_ITEMS])


def unpack(packet: bytes) -> list[object]:
    """Returns the objects of a packet."""
    items: list[object] = pickle.loads(zlib.decompress(packet))
    return items
