"""A lock with an owner and an expiry, for work that must not overlap, whatever machines it is started on.

The owner refreshes the lock while it runs. A lock is stale when it has expired, or when its owner's process on this
machine no longer exists; a stale lock is taken over only by a caller who asks for that. The file is read and written
under `flock`, which the operating system releases when a process ends, so that two callers can never both take it.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from model.errors import UserError
from model.folders import write_json

_REFRESHES_AN_EXPIRY = 4


class LockHeldError(UserError):
    """Another run holds the lock, or has left a stale one behind."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: a unique name of this acquisition.
        host, namespace: the machine, and on Linux the namespace that `pid` belongs to: containers have their own.
        pid, process_started: the process, and on Linux when it started, since process numbers are reused.
        since: when the lock was taken, UTC, ISO 8601.
        expires: when it expires unless refreshed, in seconds since 1970.
    """

    token: str
    host: str
    namespace: str
    pid: int
    process_started: str
    since: str
    expires: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class RunLock:
    """Held inside a `with` block; refreshed in the background.

    Example:
        with RunLock(Path("work/lock.json"), expiry=3600, take_over=False) as lock:
            lock.check()
    """

    def __init__(
        self,
        path: Path,
        *,
        expiry: float,
        take_over: bool,
        report: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepares a lock without taking it.

        Args:
            path: the lock's file.
            expiry: seconds for which it is valid without being refreshed.
            take_over: True to take over a stale one.
            report: called with a message when a lock is taken over.
            clock: returns seconds since 1970.
        """
        self._path, self._expiry, self._take_over, self._report, self._clock = path, expiry, take_over, report, clock
        self._stopped = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            LockHeldError: another run holds it, or it is stale and `take_over` is False.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._guarded():
            if there := self._read():
                self._take_from(there)
            self._owner = Owner(
                token=uuid.uuid4().hex,
                host=platform.node(),
                namespace=_namespace(),
                pid=os.getpid(),
                process_started=_process_started(os.getpid()),
                since=datetime.now(UTC).isoformat(timespec="seconds"),
                expires=self._clock() + self._expiry,
            )
            write_json(self._path, asdict(self._owner))
        self._refresher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._refresher.join()
        with self._guarded():
            if self._is_ours():
                self._path.unlink()

    def check(self) -> None:
        """Checks that the lock is still ours.

        Raises:
            LockHeldError: another run has taken it over, for example while this machine slept past the expiry.
        """
        if not self._is_ours():
            raise LockHeldError(f"{self._path}: the lock was taken over by {self._read() or 'nobody'}; this run ends")

    def _take_from(self, there: Owner) -> None:
        """Raises an error unless the existing lock is stale and may be taken over."""
        if there.expires <= self._clock():
            state = "it has expired"
        elif _is_gone(there):
            state = "that process no longer exists"
        else:
            raise LockHeldError(f"{self._path}: {there} is running; wait until it has ended")
        if not self._take_over:
            raise LockHeldError(
                f"{self._path}: a stale lock of {there}, {state}; make sure that it has ended and give --take-over-lock"
            )
        self._report(f"took over the lock of {there}: {state}")

    def _refresh(self) -> None:
        while not self._stopped.wait(self._expiry / _REFRESHES_AN_EXPIRY):
            with self._guarded():
                if not self._is_ours():
                    return
                self._owner = replace(self._owner, expires=self._clock() + self._expiry)
                write_json(self._path, asdict(self._owner))

    def _is_ours(self) -> bool:
        there = self._read()
        return there is not None and there.token == self._owner.token

    def _read(self) -> Owner | None:
        try:
            return Owner(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._path}: is not a lock that this sepline can read; remove it if no run is in progress"
            ) from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with open(self._path.with_name(f".{self._path.name}.guard"), "w", encoding="utf-8") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _is_gone(owner: Owner) -> bool:
    """Returns whether the owner's process has certainly ended, which only its own machine and namespace can tell."""
    if (owner.host, owner.namespace) != (platform.node(), _namespace()):
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _process_started(owner.pid) != owner.process_started


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_started(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
