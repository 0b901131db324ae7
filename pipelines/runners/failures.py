"""Reports in one line why a job ended early: Ctrl-C, SIGTERM, a full or bad disk, a worker that died."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from model.errors import Interrupted, JobFailure, Terminated

_SHOW_THREAD_ERROR = threading.excepthook
_LONGEST_LINE = 500
_SYSTEM_REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
_SYSTEM_ERROR = re.compile(
    r"\w+Error: \[Errno \d+\] (?P<errno>.+?)(?: \[while running|$)"
    rf"|^(?:[\w.]+Error: )?(?:{{{{.*}}}} )?(?P<told>.*?(?:{'|'.join(map(os.strerror, _SYSTEM_REASONS))}))"
)


@contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, so that all is cleaned up as at Ctrl-C; Python's default ends at once."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated("terminated")

    with _handling(signal.SIGTERM, end):
        yield


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """Yields the list of the signals that have come: Ctrl-C, SIGTERM. They still raise, but Beam may wrap that."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    with _handling(signal.SIGINT, note), _handling(signal.SIGTERM, note):
        yield noted


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Sets the handler of a signal for a while, unless it is ignored, as shells make background jobs ignore Ctrl-C."""
    # Python delivers signals to the main thread only.
    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or signal.getsignal(number) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def one_line_failures(*, interrupted: Callable[[], str], failed: str, lost: Callable[[], str] = str) -> Iterator[None]:
    """Turns what ends a pipeline early into an error whose message is one line.

    Args:
        interrupted: returns what to tell a user whose job was interrupted: how far it got and what to do next.
        failed: what to tell a user if the job failed: what became of its work and what to do next.
        lost: returns what to tell besides if the runner gave the job up, having lost a worker or the like: what its
            workers were doing; empty if that is not known.

    Raises:
        Interrupted: the user stopped it, or, as `Terminated`, the machine did.
        JobFailure: a worker raised one, or the runner gave the job up.
    """
    quiet_expected_errors()
    with _noting_signals() as signals:
        try:
            yield
        except BaseException as error:
            if signal.SIGTERM in signals:
                raise Terminated(f"terminated; {interrupted()}") from None
            if signals:
                raise Interrupted(f"interrupted; {interrupted()}") from None
            if reason := _find_failure(error):
                raise JobFailure(f"{reason}; {failed}") from error
            if reason := _find_loss(error):
                raise JobFailure("; ".join(filter(None, (reason, lost(), failed)))) from error
            raise


def _find_failure(error: BaseException) -> str | None:
    """Returns the message of the `JobFailure` behind a pipeline's error: runners pass on a worker's error as text."""
    said = re.search(
        r"(?:JobFailure|SourceFailure): (.+?)(?: \[while running|\n|$)", f"{type(error).__name__}: {error}"
    )
    return said[1] if said else None


def _find_loss(error: BaseException) -> str | None:
    """Returns what a runner says that gives up a job without an error of Python: it has lost a worker or the like."""
    said = None if "Traceback" in str(error) else re.match(r"(Pipeline \S+ failed in state .+)", str(error))
    return said[1] if said else None


def system_failure(error: BaseException) -> str | None:
    """Returns in one line what the system refused, if that is why an error was raised: a full disk, a bad one.

    TensorFlow, HDF5, the dynamic linker and Beam's runners pass on the system's reason as text alone.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError):
            reason = cause.strerror or " ".join(str(cause).split())
            return f"{os.fsdecode(cause.filename)}: {reason}" if isinstance(cause.filename, str | bytes) else reason
    for cause in causes:
        for line in str(cause).splitlines():
            if match := _SYSTEM_ERROR.search(line):
                return (match["errno"] or match["told"].strip())[:_LONGEST_LINE]
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def quiet_expected_errors() -> None:
    """Keeps Beam from logging the traceback of an error that the command line reports in one line, or not at all.

    A runner whose workers run in this process hangs up on their threads when its job is done.
    """
    for logger in ("apache_beam.runners.common", "apache_beam.runners.worker.data_plane"):
        logging.getLogger(logger).addFilter(_is_worth_logging)
    threading.excepthook = _show_thread_error


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not _is_expected(record.exc_info[1])


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    if not _is_expected(error.exc_value):
        _SHOW_THREAD_ERROR(error)


def _is_expected(error: BaseException | None) -> bool:
    import grpc  # heavy, and Beam has loaded it

    hung_up = isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.CANCELLED
    if hung_up or isinstance(error, JobFailure | KeyboardInterrupt):
        return True
    return error is not None and system_failure(error) is not None
