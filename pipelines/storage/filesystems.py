"""Beam's filesystems, with a time limit and two kinds of errors.

When a store does not answer, Beam's S3 client retries reads and lists for ten minutes, without an option for less, but
never retries a write; and its errors are no `OSError`. Here a call to a remote filesystem is given up after a minute,
a listing after a minute without a further object, a write is retried for about half a minute, and a call that fails
raises

- `OSError` if the filesystem refuses it: there is no such object, or no permission;
- `JobFailure` if a retry may help: the filesystem does not answer, or has an error of its own;
- `UserError` if it needs an extra that is not installed.

So a store that is unavailable for a while is never mistaken for a broken input. Local paths are passed on unchanged.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.retry import retry_on_server_errors_and_timeout_filter, with_exponential_backoff

from model.errors import JobFailure
from model.extras import import_extra

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a call may take. Beam's own waits between tries are up to 5, 10, 20, ... seconds."""

_BLOCK_BYTES = 1 << 20
_THREAD = "filesystem"
_ANSWERS = (BeamIOError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_FILESYSTEMS: Any = FileSystems  # its methods have no type annotations
if FileSystems._pipeline_options is None:
    # A worker of an external pool doesn't get the pipeline's options; its store's client reads the environment.
    FileSystems.set_options(PipelineOptions([]))


def scheme(path: str) -> str | None:
    """Returns a path's scheme, such as `s3`, or None for a local path."""
    found: str | None = _FILESYSTEMS.get_scheme(path)
    return found


def has_folders(path: str) -> bool:
    """Returns True if a path's filesystem has folders; object stores list by prefix instead."""
    return bool(_FILESYSTEMS.get_filesystem(path).has_dirs())


def match(pattern: str) -> list[tuple[str, int]]:
    """Returns path and size in bytes of every object that a glob matches.

    Stores list page by page. However many pages there are, each of them has the whole patience.
    """
    progress = _Progress()
    filesystem = _FILESYSTEMS.get_filesystem(pattern)
    list_objects = filesystem._list
    filesystem._list = lambda place: progress.through(list_objects(place))  # what Beam's `match` filters
    (result,) = _ask(pattern, lambda: filesystem.match([pattern]), progress)
    return [(metadata.path, metadata.size_in_bytes) for metadata in result.metadata_list]


def translate_pattern(pattern: str) -> str:
    """Returns a glob as a regular expression; `*` stays within a folder, `**` does not."""
    return str(FileSystem.translate_pattern(pattern))


def exists(path: str) -> bool:
    """Returns True if the object exists."""
    return _ask(path, lambda: bool(_FILESYSTEMS.exists(path)))


def size(path: str) -> int:
    """Returns the size of an object in bytes."""
    return _ask(path, lambda: int(_FILESYSTEMS.get_filesystem(path).size(path)))


def checksum(path: str) -> str:
    """Returns the filesystem's own checksum of an object."""
    return _ask(path, lambda: str(_FILESYSTEMS.checksum(path)))


def delete(paths: Sequence[str]) -> None:
    """Removes objects; filesystems differ in how they treat a missing name."""
    _ask(paths[0], lambda: _FILESYSTEMS.delete(list(paths)))


def rename(path: str, target: str) -> None:
    """Renames an object."""
    _ask(path, lambda: _FILESYSTEMS.rename([path], [target]))


def put(path: str, content: bytes) -> None:
    """Writes an object, with retries."""

    @with_exponential_backoff(num_retries=5, initial_delay_secs=1.0, retry_filter=_is_worth_another_try)
    def write() -> None:
        # No `with`: closing completes the upload, and one that failed must not be completed.
        stream = _FILESYSTEMS.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        stream.write(content)
        stream.close()

    _ask(path, write)


def open_stream(path: str) -> io.BufferedReader:
    """Returns the content of an object, as stored; seekable if its filesystem allows it."""
    if scheme(path) is None:
        return open(path, "rb")
    stream = _ask(path, lambda: _FILESYSTEMS.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
    return io.BufferedReader(_RemoteStream(path, stream), _BLOCK_BYTES)


class _RemoteStream(io.RawIOBase):
    """The content of a remote object; each read has a time limit."""

    def __init__(self, path: str, stream: Any) -> None:
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = len(buffer)
        block = _ask(self._path, lambda: bytes(self._stream.read(length)))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Progress:
    """Knows when a call that takes many steps has made the last one."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items; each is a step."""
        for item in items:
            self.last = time.monotonic()
            yield item


def _ask(path: str, call: Callable[[], T], progress: _Progress | None = None) -> T:
    """Returns the result of a call; see the module for the errors that it raises.

    The call runs in a thread of its own, which is abandoned when the time is up.

    Args:
        path: what the call is about.
        call: to a filesystem.
        progress: of a call that may take longer than the patience, as long as each of its steps does not.
    """
    if scheme(path) is None:
        return call()
    if scheme(path) == "s3":
        import_extra("boto3", extra="s3", purpose=path)
    for logger in ("", "apache_beam.utils.retry"):
        logging.getLogger(logger).addFilter(_is_of_others)
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    progress = progress or _Progress()
    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    while not answer.done() and (left := progress.last + PATIENCE - time.monotonic()) > 0:
        wait([answer], left)
    try:
        return answer.result(0)
    except TimeoutError:
        message = f"no answer in {PATIENCE:.0f} seconds; check endpoint, credentials and network"
        raise JobFailure(f"{path}: {message}") from None
    except ValueError:  # not a path
        raise
    except Exception as error:
        cause = _cause(error)
        reason = " ".join(str(getattr(cause, "message", None) or cause).split())
        if _is_worth_another_try(error):
            raise JobFailure(f"{path}: the filesystem fails: {reason}") from error
        raise cause if isinstance(cause, OSError) else OSError(reason) from error


def _cause(error: Exception) -> Exception:
    """Returns the first of the errors that Beam has wrapped in one."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return error


def _is_worth_another_try(error: Exception) -> bool:
    """Returns True if a filesystem has failed, so that a retry may help; one that has refused would refuse again."""
    cause = _cause(error)
    return not isinstance(cause, _ANSWERS) and bool(retry_on_server_errors_and_timeout_filter(cause))


def _is_of_others(record: logging.LogRecord) -> bool:
    """Keeps Beam from logging a traceback for an error that is raised anyway."""
    return record.threadName != _THREAD
