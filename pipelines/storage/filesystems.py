"""Beam's filesystems, with an end to waiting and two ways to fail.

When a store does not answer, Beam's S3 client reads and lists again and again for ten minutes, without an option for
less, but writes once only; what it raises is no `OSError`. Here a call of a filesystem of other machines is given up
after a minute, writing is tried again for about half of one, and what fails raises

- `OSError` where the filesystem says no: there is no such object, or no right to it;
- `JobFailure` where asking again may help: it does not answer, or fails by itself;
- `UserError` where it needs an extra that is not installed.

So a store that is away for a while is never taken for an input that is broken. Local paths are passed on as they are.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
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
    # A worker of an external pool is not told the pipeline's; there a store's client looks into the environment.
    FileSystems.set_options(PipelineOptions([]))


def scheme(path: str) -> str | None:
    """Returns what a path begins with, such as `s3`; None where it names a file of this machine."""
    found: str | None = _FILESYSTEMS.get_scheme(path)
    return found


def has_folders(path: str) -> bool:
    """Returns whether a path's filesystem lists one folder at a time; object stores list all that begins alike."""
    return bool(_FILESYSTEMS.get_filesystem(path).has_dirs())


def match(pattern: str) -> list[tuple[str, int]]:
    """Returns path and size in bytes of every object that a glob names."""
    (result,) = _ask(pattern, lambda: _FILESYSTEMS.match([pattern]))
    return [(metadata.path, metadata.size_in_bytes) for metadata in result.metadata_list]


def exists(path: str) -> bool:
    """Returns whether there is an object of that name."""
    return _ask(path, lambda: bool(_FILESYSTEMS.exists(path)))


def size(path: str) -> int:
    """Returns the size of an object in bytes."""
    return _ask(path, lambda: int(_FILESYSTEMS.get_filesystem(path).size(path)))


def checksum(path: str) -> str:
    """Returns the filesystem's own checksum of an object."""
    return _ask(path, lambda: str(_FILESYSTEMS.checksum(path)))


def delete(paths: Sequence[str]) -> None:
    """Removes objects; filesystems differ in what they make of a name that is not there."""
    _ask(paths[0], lambda: _FILESYSTEMS.delete(list(paths)))


def rename(path: str, target: str) -> None:
    """Gives an object another name."""
    _ask(path, lambda: _FILESYSTEMS.rename([path], [target]))


def put(path: str, content: bytes) -> None:
    """Writes an object, and so again where that fails."""

    @with_exponential_backoff(num_retries=5, initial_delay_secs=1.0, retry_filter=_is_worth_another_try)
    def write() -> None:
        # No `with`: closing completes the upload, and one that failed must not be completed.
        stream = _FILESYSTEMS.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        stream.write(content)
        stream.close()

    _ask(path, write)


def open_stream(path: str) -> io.BufferedReader:
    """Returns the content of an object, as stored; seekable where its filesystem allows."""
    stream = _ask(path, lambda: _FILESYSTEMS.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
    if scheme(path) is not None:
        return io.BufferedReader(_RemoteStream(path, stream), _BLOCK_BYTES)
    return cast(io.BufferedReader, stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream))


class _RemoteStream(io.RawIOBase):
    """The content of an object on other machines; each read is a call with an end."""

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


def _ask(path: str, call: Callable[[], T]) -> T:
    """Returns what a call returns; see the module for what it raises.

    The call runs in a thread of its own, which is left to itself when the time is up.
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

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    try:
        return answer.result(PATIENCE)
    except TimeoutError:
        message = f"no answer in {PATIENCE:.0f} seconds; check endpoint, credentials and network"
        raise JobFailure(f"{path}: {message}") from None
    except ValueError:  # a path that is none
        raise
    except Exception as error:
        cause = _cause(error)
        reason = " ".join(str(getattr(cause, "message", None) or cause).split())
        if _is_worth_another_try(error):
            raise JobFailure(f"{path}: the filesystem fails: {reason}") from error
        raise cause if isinstance(cause, OSError) else OSError(reason) from error


def _cause(error: Exception) -> Exception:
    """Returns the first of the errors that Beam has put into one."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return error


def _is_worth_another_try(error: Exception) -> bool:
    """Returns whether a filesystem has failed, rather than said no, which it would say again."""
    cause = _cause(error)
    return not isinstance(cause, _ANSWERS) and bool(retry_on_server_errors_and_timeout_filter(cause))


def _is_of_others(record: logging.LogRecord) -> bool:
    """Keeps Beam from logging, with tracebacks, what a call of a filesystem raises in the end."""
    return record.threadName != _THREAD
