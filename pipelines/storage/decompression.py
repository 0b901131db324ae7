"""Decompresses streams as they are read: gzip, bzip2 and zstd, which are told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

_BLOCK_BYTES = 64 * 1024
# A block of zstd input grows at most 32,768-fold, so this bounds what one call decompresses to 32 MiB.
_ZSTD_INPUT_BYTES = 1024


def decompressed(file: io.BufferedReader) -> io.BufferedReader:
    """Returns the content of a file that is open at its beginning: a stream that can't seek, or the file itself."""
    head = file.peek(4)
    for magic, blocks in _decompressors().items():
        if head.startswith(magic):
            return io.BufferedReader(_BlockStream(file, blocks), _BLOCK_BYTES)
    return file


def _decompressors() -> dict[bytes, Callable[[BinaryIO], Iterator[bytes]]]:
    return {b"\x1f\x8b": _gzip_blocks, b"BZh": _bzip2_blocks, b"\x28\xb5\x2f\xfd": _zstd_blocks}


def _gzip_blocks(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as content:
        while block := content.read1(_BLOCK_BYTES):
            yield block


def _bzip2_blocks(file: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(file) as content:
        while block := content.read1(_BLOCK_BYTES):
            yield block


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    # Frame by frame, because zstandard's own stream reader doesn't notice that a file is truncated.
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    inside_frame = False
    while data := file.read(_ZSTD_INPUT_BYTES):
        while data:
            inside_frame = True
            if block := frame.decompress(data):
                yield block
            data = b""
            if frame.eof:
                data = frame.unused_data
                frame = decompressor.decompressobj()
                inside_frame = False
    if inside_frame:
        raise EOFError("Compressed file ended before the end of a zstd frame")


class _BlockStream(io.RawIOBase):
    """A forward-only stream of blocks of bytes. It raises an error only after all bytes decompressed before it.

    An error is raised again by every later read: what comes after it is never taken for the end.
    """

    def __init__(self, file: io.BufferedReader, blocks: Callable[[BinaryIO], Iterator[bytes]]) -> None:
        self._file = file
        self._blocks = blocks(file)
        self._rest = b""
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._error is not None:
            raise self._error
        try:
            block = self._rest or next(self._blocks, b"")
        except Exception as error:
            self._error = error
            raise
        size = min(len(block), len(buffer))
        buffer[:size] = block[:size]
        self._rest = block[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
