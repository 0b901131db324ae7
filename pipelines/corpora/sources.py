"""Finds, opens and fingerprints input files on any filesystem: local, gs://, s3:// or hdfs://."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from model.errors import UserError
from model.records import Document, Reason, Reject
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records
from pipelines.storage import filesystems

_THREADS = 8
_BLOCK_BYTES = 64 * 1024
# A block of zstd input grows at most 32,768-fold, so this bounds what one call decompresses to 32 MiB.
_ZSTD_INPUT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One input file.

    Attributes:
        path: its full name.
        size: its size in bytes, as stored.
    """

    path: str
    size: int


def match_sources(patterns: Sequence[str]) -> list[Source]:
    """Returns the files that match any of the patterns, sorted by path, each once.

    A folder among files is returned too. It is rejected when it is read, so that it doesn't stop the others.

    Args:
        patterns: paths and globs, on any filesystem that Beam knows.

    Raises:
        UserError: a pattern matches nothing, all patterns name folders, or a filesystem refuses to list files.
        JobFailure: a filesystem does not answer.
    """
    sources: dict[str, Source] = {}
    folders = [pattern for pattern in patterns if pattern.endswith("/") or os.path.isdir(pattern)]
    if folders and len(folders) == len(patterns):
        raise UserError(f"{folders[0]!r} is a folder; name its files, for example {folders[0].rstrip('/') + '/*'!r}")
    for pattern in patterns:
        found = [Source(pattern, 0)] if pattern in folders else _match(pattern)
        if not found:
            raise UserError(f"no file matches {pattern!r}; check the path")
        sources.update((source.path, source) for source in found)
    return [sources[path] for path in sorted(sources)]


def open_source(path: str) -> io.BufferedReader:
    """Returns the decompressed content of a file: gzip, bzip2 and zstd are recognized by their first bytes.

    The stream of a compressed file can't seek; that of any other file can if its filesystem allows it.

    Raises:
        OSError: the file cannot be opened or read.
        JobFailure: its filesystem does not answer, here or when the stream is read.
    """
    return _decompressed(filesystems.open_stream(path))


def read_source(path: str, options: ReadOptions, start: RecordPosition = START) -> Iterator[Document | Reject]:
    """Yields one document or reject for every record of a file, as `reader.read_records` does.

    A file that is missing or cannot be opened raises nothing, but yields one reject.

    Raises:
        JobFailure: its filesystem does not answer.
    """
    try:
        stream = open_source(path)
    except (OSError, ValueError) as error:  # ValueError: Beam knows no such filesystem
        message = f"the file cannot be opened: {error}"
        yield Reject(path, start.record_index, Reason.UNREADABLE_SOURCE, message)
        return
    with stream:
        yield from read_records(stream, path, options, start)


def fingerprint_source(source: Source) -> dict[str, str | int | None]:
    """Returns path, size in bytes and SHA-256 of a file as stored; the hash is None if the file can't be read.

    For a remote file, the store's own checksum (etag, crc32c) replaces the hash, so that the file isn't read.
    """
    described: dict[str, str | int | None] = {"path": source.path, "size": source.size}
    try:
        if filesystems.scheme(source.path) is not None:
            return {**described, "checksum": filesystems.checksum(source.path)}
        with filesystems.open_stream(source.path) as stream:
            return {**described, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    except (OSError, ValueError):  # reading it will be a reject with the reason
        return {**described, "sha256": None}


def fingerprint_sources(patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the fingerprints of the files that match the patterns, in the order of `match_sources`.

    Raises:
        UserError, JobFailure: as `match_sources`.
    """
    sources = match_sources(patterns)
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing and the network both let other threads run
        return list(pool.map(fingerprint_source, sources))


def sample_records(path: str, options: ReadOptions, *, most_bytes: int = 1 << 19) -> tuple[int, int]:
    """Returns the number of records at the beginning of a file, and how many bytes they take as stored."""
    records = 0
    try:
        with filesystems.open_stream(path) as file, _decompressed(file) as stream:
            for _ in read_records(stream, path, options):
                records += 1
                if file.tell() >= most_bytes:
                    break
            return records, file.tell()
    except (OSError, ValueError):
        return records, 0


def _match(pattern: str) -> list[Source]:
    try:
        found = filesystems.match(pattern)
        # A file's name may look like a glob, such as "a[1].xml".
        if not found and filesystems.exists(pattern):
            found = [(pattern, filesystems.size(pattern))]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot look for {pattern!r}: {error}") from error
    return [Source(path, size) for path, size in found]


def _decompressed(file: io.BufferedReader) -> io.BufferedReader:
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
    """A forward-only stream of blocks of bytes. It raises an error only after all bytes decompressed before it."""

    def __init__(self, file: io.BufferedReader, blocks: Callable[[BinaryIO], Iterator[bytes]]) -> None:
        self._file = file
        self._blocks = blocks(file)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._rest or next(self._blocks, b"")
        size = min(len(block), len(buffer))
        buffer[:size] = block[:size]
        self._rest = block[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
