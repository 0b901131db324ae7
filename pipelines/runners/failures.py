"""How a job that breaks off says so in one line: a Ctrl-C, a full disk, a worker that died."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import grpc

from model.errors import Interrupted, JobFailure

_SHOW_THREAD_ERROR = threading.excepthook


@contextmanager
def noting_interrupts() -> Iterator[threading.Event]:
    """Gives an event that a Ctrl-C sets, beside raising KeyboardInterrupt: Beam makes other exceptions of that."""
    interrupted = threading.Event()
    # Python delivers signals to the main thread only, and shells tell what runs in the background to ignore this one.
    of_others = threading.current_thread() is not threading.main_thread()
    if of_others or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield interrupted
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def breaking_off(progress: Callable[[], str], then: str) -> Iterator[None]:
    """Makes of what ends a pipeline in the middle what the command line says in one line.

    Args:
        progress: says how far the job has come, and what to do, for a user who interrupted it.
        then: says what has become of the work of a job that failed, and what to do.

    Raises:
        Interrupted: the user stopped it.
        JobFailure: a worker raised one, or an engine has given the job up.
    """
    quiet_expected_errors()
    with noting_interrupts() as interrupted:
        try:
            yield
        except BaseException as error:
            if interrupted.is_set():
                raise Interrupted(f"interrupted; {progress()}") from None
            if reason := _find_failure(error):
                raise JobFailure(f"{reason}; {then}") from error
            raise


def _find_failure(error: BaseException) -> str | None:
    """Returns what a `JobFailure` behind an error of a pipeline says: runners hand on what a worker raised as text.

    An engine that gives a job up without an exception of ours has lost a worker or the like.
    """
    said = re.search(r"JobFailure: (.+?)(?: \[while running|\n|$)", f"{type(error).__name__}: {error}")
    if not said and "Traceback" not in str(error):
        said = re.match(r"(Pipeline \S+ failed in state .+)", str(error))
    return said[1] if said else None


def quiet_expected_errors() -> None:
    """Keeps Beam from showing the traceback of what the command line says in one line, or need not say.

    An engine whose workers run here hangs up on their threads when its job is done.
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
    hung_up = isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.CANCELLED
    return hung_up or isinstance(error, JobFailure | KeyboardInterrupt)
