"""Finds input files, fingerprints them, and opens them decompressed.

A file can fail in two ways. Its *content* may be broken, which is a reject: the same file will never read otherwise. Or
it can't be *read*: a bad disk, a share or store that does not answer, a permission, or a file that has changed since it
was fingerprinted. That is retried for a moment and then raises `SourceFailure`; it never looks like an end of the file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, TypeVar, cast

import zstandard

from model.errors import JobFailure, UserError
from model.records import Document, Reason, Reject
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records
from pipelines.storage import filesystems

T = TypeVar("T")

_THREADS = 8
_BLOCK_BYTES = 64 * 1024
_READ_BYTES = 256 * 1024
# A block of zstd input grows at most 32,768-fold, so this bounds what one call decompresses to 32 MiB.
_ZSTD_INPUT_BYTES = 1024
_WAITS = (0.1, 0.5, 2.0)
"""Seconds before the tries that follow a failed one."""
_REFUSALS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class SourceFailure(JobFailure):
    """An input file can't be read now, or has changed since it was fingerprinted."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input file.

    Attributes:
        path: its full name.
        size: its size in bytes, as stored.
    """

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file is still the same one, without reading it.

    Attributes:
        size: in bytes.
        modified_ns, inode: of a local file.
        checksum: of the object in a store.
    """

    size: int
    modified_ns: int | None = None
    inode: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class FingerprintedSource:
    """One input file and what identifies its content.

    Attributes:
        path: its full name.
        fingerprint: JSON values: the path as `shown_path` gives it, size, and `sha256` or a store's `checksum`. The
            hash is None if the file couldn't be read, or is none.
        state: of the file when it was fingerprinted; None if it couldn't be, or is none.
        failure: why it couldn't be read; None if it could.
    """

    path: str
    fingerprint: dict[str, Any]
    state: FileState | None = None
    failure: str | None = None


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


def open_source(path: str, state: FileState | None = None) -> SourceReader:
    """Opens a file to read it once; use the result as a context manager.

    Args:
        path: of the file.
        state: what it has to look like still; None for anything.

    Raises:
        SourceFailure: the file can't be opened, or has changed.
    """
    return SourceReader(path, state)


class SourceReader:
    """An open file.

    Attributes:
        stream: its content, decompressed: gzip, bzip2 and zstd are recognized by their first bytes. The stream of a
            compressed file can't seek; that of any other file can if its filesystem allows it.
    """

    def __init__(self, path: str, state: FileState | None) -> None:
        self._path = path
        self._file = _SteadyStream(path, state)
        self.stored = cast(io.BufferedReader, io.BufferedReader(self._file, _READ_BYTES))
        self.stream = _decompressed(self.stored)

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()

    def records(self, options: ReadOptions, start: RecordPosition = START) -> Iterator[Document | Reject]:
        """Yields one document or reject for every record, as `reader.read_records` does."""
        return read_records(self.stream, shown_path(self._path), options, start)

    def check_unchanged(self) -> None:
        """Checks that what has been read is what was fingerprinted.

        Raises:
            SourceFailure: the file has changed.
        """
        self._file.check_unchanged()


def read_source(path: str, options: ReadOptions) -> Iterator[Document | Reject]:
    """Yields one document or reject for every record of a file, as `reader.read_records` does.

    Raises:
        SourceFailure: the file can't be read.
    """
    if (other := describe_other_than_file(path)) is not None:
        yield Reject(shown_path(path), 0, Reason.UNREADABLE_SOURCE, other)
        return
    with open_source(path) as source:
        yield from source.records(options)


def describe_other_than_file(path: str) -> str | None:
    """Returns what a path names if that is no file but a folder, pipe or device; None for a file.

    Opening a pipe or device might wait for ever, or read without end.
    """
    if filesystems.scheme(path) is not None:
        return None
    try:
        mode = os.stat(path).st_mode
    except OSError:  # opening it says why
        return None
    if stat.S_ISREG(mode):
        return None
    return "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device; write its content into a file"


def shown_path(path: str) -> str:
    """Returns a path as it is written into tables and JSON: bytes that are not UTF-8 as `\\xff`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def fingerprint_source(source: Source) -> FingerprintedSource:
    """Returns what identifies the content of a file as stored.

    For a remote file, the store's own checksum (etag, crc32c) replaces the hash, so that the file isn't read.
    """
    described: dict[str, Any] = {"path": shown_path(source.path), "size": source.size}
    unread = {**described, "sha256": None}
    if describe_other_than_file(source.path) is not None:
        return FingerprintedSource(source.path, unread)
    try:
        if filesystems.scheme(source.path) is not None:
            state = _retrying(source.path, lambda: _look_at(source.path))
            described |= {"size": state.size, "checksum": state.checksum}
            return FingerprintedSource(source.path, described, state)
        with _SteadyStream(source.path, None) as file:
            state = file.state
            described |= {"size": state.size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}  # type: ignore[arg-type]
            file.check_unchanged()
        return FingerprintedSource(source.path, described, state)
    except SourceFailure as failure:
        return FingerprintedSource(source.path, unread, failure=str(failure))


def require_readable(sources: Sequence[FingerprintedSource]) -> None:
    """Raises `SourceFailure` if one of the sources couldn't be read."""
    for source in sources:
        if source.failure is not None:
            raise SourceFailure(f"{source.failure}; repeat the command")


def fingerprint_sources(patterns: Sequence[str]) -> list[FingerprintedSource]:
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
    if describe_other_than_file(path) is not None:
        return 0, 0
    try:
        with open_source(path) as source:
            for _ in source.records(options):
                records += 1
                if source.stored.tell() >= most_bytes:
                    break
            return records, source.stored.tell()
    except (SourceFailure, ValueError):
        return records, 0


def _match(pattern: str) -> list[Source]:
    try:
        # A file's name may look like a glob, such as "a[1].xml". A link that leads nowhere exists, too.
        if filesystems.scheme(pattern) is None:
            found = [(pattern, _size(pattern))] if os.path.lexists(pattern) else _match_local(pattern)
        elif set("*?[") & set(pattern) and filesystems.exists(pattern):
            found = [(pattern, filesystems.size(pattern))]
        else:
            found = filesystems.match(pattern)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and filesystems.scheme(pattern) is None:  # a bad disk, not a wrong path
            raise JobFailure(f"cannot look for {pattern!r}: {error}; repeat the command") from error
        raise UserError(f"cannot look for {pattern!r}: {error}") from error
    return [Source(path, size) for path, size in found]


def _match_local(pattern: str) -> list[tuple[str, int]]:
    """Returns path and size of the files that a local glob matches; `**` matches across folders, as Beam's globs do.

    Beam's own search leaves out what it can't list or look at, such as a folder on a bad disk, without a word.

    Raises:
        OSError: a folder can't be listed.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    top = re.match(r"[^*?\[]*", pattern).group().rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")  # type: ignore[union-attr]
    matches = re.compile(filesystems.translate_pattern(pattern)).fullmatch
    deepest = None if "**" in pattern else pattern.count("/")
    found = []
    for folder, folders, files in os.walk(top, onerror=fail):
        place = "" if folder == "." else f"{folder.rstrip('/')}/"
        place = place.removeprefix("./") if not pattern.startswith("./") else place
        found += [(f"{place}{name}", _size(f"{place}{name}")) for name in files if matches(f"{place}{name}")]
        if deepest is not None and place.count("/") >= deepest:
            folders.clear()
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # fingerprinting it says why
        return 0


class _SteadyStream(io.RawIOBase):
    """The bytes of a file as stored. What fails is tried again; a file that has changed fails for good."""

    def __init__(self, path: str, state: FileState | None) -> None:
        self._path, self._expected, self._offset = path, state, 0
        self._stream = _retrying(path, self._open)
        self._expected = self._expected or self._state  # when it is opened again, it has to be the same file

    @property
    def state(self) -> FileState:
        """What the file looked like when it was opened."""
        return self._state

    def check_unchanged(self) -> None:
        """Raises `SourceFailure` if the file is no longer as expected, or else as it was when it was opened."""
        state = _retrying(self._path, lambda: _look_at(self._path, self._stream))
        if state != self._expected:
            raise SourceFailure(f"{shown_path(self._path)}: has changed since this command began")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = _retrying(self._path, lambda: self._stream.seek(offset, whence))
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        def read() -> int:
            return self._stream.readinto(buffer)

        def reread() -> int:
            self._stream.close()
            self._stream = self._open()
            if self._offset:
                self._stream.seek(self._offset)
            return read()

        count = _retrying(self._path, read, reread)
        self._offset += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _open(self) -> io.BufferedReader:
        stream = filesystems.open_stream(self._path)
        self._state = _look_at(self._path, stream)
        if self._expected is not None and self._state != self._expected:
            stream.close()
            raise SourceFailure(f"{shown_path(self._path)}: has changed since this command began")
        return stream


def _look_at(path: str, stream: io.BufferedReader | None = None) -> FileState:
    """Returns the state of a file: of the open one, if it is local, however its name is used now."""
    if filesystems.scheme(path) is not None:
        return FileState(filesystems.size(path), checksum=filesystems.checksum(path))
    found = os.stat(path if stream is None else stream.fileno())
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino)


def _retrying(path: str, call: Callable[[], T], again: Callable[[], T] | None = None) -> T:
    """Returns the result of a call, which may fail a few times; `again` is what is called after the first time.

    Raises:
        SourceFailure: it fails still, or its filesystem refuses it.
    """
    waits = iter(_WAITS)
    while True:
        try:
            return call()
        except SourceFailure:
            raise
        except (OSError, ValueError, JobFailure) as error:  # ValueError: Beam knows no such filesystem
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            wait = None if isinstance(error, (*_REFUSALS, ValueError, JobFailure)) else next(waits, None)
            if wait is None:
                raise SourceFailure(f"{shown_path(path)}: cannot be read: {reason}") from error
        time.sleep(wait)
        call = again or call


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
