"""A sequence of very many small objects that takes tens of bytes for each."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, cast, overload

T = TypeVar("T")

_PACKET_ITEMS = 1000


class Packed(Sequence[T]):
    """Objects in compressed packets, which are opened one after the other when it is iterated over."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._packets: list[bytes] = []
        self._loose: list[T] = []  # the last ones
        for item in items:
            self.add(item)

    def add(self, item: T) -> None:
        """Adds an object at the end."""
        self._loose.append(item)
        if len(self._loose) == _PACKET_ITEMS:
            self._packets.append(_pack(self._loose))
            self._loose = []

    def packets(self) -> list[bytes]:
        """Returns packets of up to a thousand objects, see `unpack`."""
        return [*self._packets, _pack(self._loose)] if self._loose else list(self._packets)

    def __len__(self) -> int:
        return len(self._packets) * _PACKET_ITEMS + len(self._loose)

    def __iter__(self) -> Iterator[T]:
        for packet in self._packets:
            yield from cast(list[T], unpack(packet))
        yield from self._loose

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        packet, number = divmod(range(len(self))[index], _PACKET_ITEMS)
        items = self._loose if packet == len(self._packets) else cast(list[T], unpack(self._packets[packet]))
        return items[number]


def unpack(packet: bytes) -> list[object]:
    """Returns the objects of a packet."""
    items: list[object] = pickle.loads(zlib.decompress(packet))
    return items


def _pack(items: Sequence[object]) -> bytes:
    return zlib.compress(pickle.dumps(list(items), pickle.HIGHEST_PROTOCOL), 1)
