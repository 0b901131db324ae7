"""Finds input files, fingerprints them, and opens them decompressed.

A file can fail in two ways. Its *content* may be broken, which is a reject: the same file will never read otherwise. Or
it can't be *read*: a bad disk, a share or store that does not answer, a permission, or a file that has changed since it
was fingerprinted. That is retried for a moment and then raises `SourceFailure`; it never looks like an end of the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar, cast

from model.errors import JobFailure, UserError
from model.records import Document, Reason, Reject
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records
from pipelines.storage import filesystems
from pipelines.storage.decompression import decompressed
from pipelines.storage.packed import Packed
from pipelines.storage.parallel import map_files

T = TypeVar("T")

_READ_BYTES = 256 * 1024
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

    def __reduce__(self) -> tuple[type[FileState], tuple[Any, ...]]:  # see `Unit`
        return FileState, (self.size, self.modified_ns, self.inode, self.checksum)


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

    def __reduce__(self) -> tuple[type[FingerprintedSource], tuple[Any, ...]]:  # see `Unit`
        return FingerprintedSource, (self.path, self.fingerprint, self.state, self.failure)


def match_sources(patterns: Sequence[str]) -> list[Source]:
    """Returns the files that match any of the patterns, sorted by path, each once.

    A folder among files is returned too. It is rejected when it is read, so that it doesn't stop the others.

    Args:
        patterns: paths and globs, on any filesystem that Beam knows.

    Raises:
        UserError: a pattern matches nothing, all patterns name folders, or a filesystem refuses to list files.
        JobFailure: a filesystem does not answer.
    """
    sources: list[Source] = []
    folders = [pattern for pattern in patterns if pattern.endswith("/") or os.path.isdir(pattern)]
    if folders and len(folders) == len(patterns):
        raise UserError(f"{folders[0]!r} is a folder; name its files, for example {folders[0].rstrip('/') + '/*'!r}")
    for pattern in patterns:
        found = [Source(pattern, 0)] if pattern in folders else _match(pattern)
        if not found:
            raise UserError(f"no file matches {pattern!r}; check the path")
        sources += found
    sources.sort(key=attrgetter("path"))
    return [next(twins) for _, twins in groupby(sources, attrgetter("path"))]


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
        self.stream = decompressed(self.stored)

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
            described |= {"size": state.size, "sha256": _sha256(file, state.size)}
            file.check_unchanged()
        return FingerprintedSource(source.path, described, state)
    except SourceFailure as failure:
        return FingerprintedSource(source.path, unread, failure=str(failure))


def require_readable(sources: Sequence[FingerprintedSource]) -> None:
    """Raises `SourceFailure` if one of the sources couldn't be read."""
    for source in sources:
        if source.failure is not None:
            raise SourceFailure(f"{source.failure}; repeat the command")


def fingerprint_sources(patterns: Sequence[str]) -> Sequence[FingerprintedSource]:
    """Returns the fingerprints of the files that match the patterns, in the order of `match_sources`.

    Raises:
        UserError, JobFailure: as `match_sources`.
    """
    sources = match_sources(patterns)
    local = all(filesystems.scheme(pattern) is None for pattern in patterns)
    return Packed(map_files(fingerprint_source, sources, local=local))


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
            return [Source(pattern, _size(pattern))] if os.path.lexists(pattern) else list(_match_local(pattern))
        if set("*?[") & set(pattern) and filesystems.exists(pattern):
            return [Source(pattern, filesystems.size(pattern))]
        return [Source(path, size) for path, size in filesystems.match(pattern)]
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and filesystems.scheme(pattern) is None:  # a bad disk, not a wrong path
            raise JobFailure(f"cannot look for {pattern!r}: {error}; repeat the command") from error
        raise UserError(f"cannot look for {pattern!r}: {error}") from error


def _match_local(pattern: str) -> Iterator[Source]:
    """Yields the files that a local glob matches; `**` matches across folders, as Beam's globs do.

    Beam's own search leaves out what it can't list or look at, such as a folder on a bad disk, without a word.

    Raises:
        OSError: a folder can't be listed.
    """
    top = re.match(r"[^*?\[]*", pattern).group().rpartition("/")[0]  # type: ignore[union-attr]
    matches = re.compile(filesystems.translate_pattern(pattern)).fullmatch
    deepest = None if "**" in pattern else pattern.count("/")
    folders = [f"{top}/" if top or pattern.startswith("/") else ""]
    while folders:
        place = folders.pop()
        try:
            entries = os.scandir(place or ".")
        except FileNotFoundError:  # it is gone meanwhile
            continue
        with entries:
            for entry in entries:
                path = f"{place}{entry.name}"
                if not _is_folder(entry):
                    if matches(path):
                        yield Source(path, _size(entry))
                elif not entry.is_symlink() and (deepest is None or place.count("/") < deepest):
                    folders.append(f"{path}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere; fingerprinting it says why
        return False


def _sha256(file: io.RawIOBase, size: int) -> str:
    """Returns the hash of a file; with a small buffer for a small file, since there may be many."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size + 1, _READ_BYTES)))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def _size(path: str | os.DirEntry[str]) -> int:
    try:
        return os.stat(path).st_size if isinstance(path, str) else path.stat().st_size
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
        state = _retrying(self._path, lambda: _look_at(self._path, self._stream, self._expected))
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
        self._state = _look_at(self._path, stream, self._expected)
        if self._expected is not None and self._state != self._expected:
            stream.close()
            raise SourceFailure(f"{shown_path(self._path)}: has changed since this command began")
        return stream


def _look_at(path: str, stream: io.BufferedReader | None = None, expected: FileState | None = None) -> FileState:
    """Returns the state of a file: of the open one, if it is local, however its name is used now.

    A store is asked for the checksum alone if it is known what is expected: another content has another one.
    """
    if filesystems.scheme(path) is not None:
        size = filesystems.size(path) if expected is None else expected.size
        return FileState(size, checksum=filesystems.checksum(path))
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
