"""A lock with an owner and an expiry, for work that must not overlap, whatever machines it is started on.

The owner refreshes the lock while it runs. Of an owner on this machine the process tells whether it lives, whatever the
clocks say. The lock of any other owner is stale when it has expired, or when the caller is its successor: both have the
same holder's name, of which only one is ever alive. A stale lock is taken over only by a caller who asks for that. The
file is read and written under `flock`, which the operating system releases when a process ends, so that two callers can
never both take it.
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
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from model.errors import DamagedFileError, JobFailure, UserError
from model.folders import make_folder, write_json

_REFRESHES_AN_EXPIRY = 4
_TRIES_A_REFRESH = 10


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
        boot: on Linux a unique name of the machine's present start.
        holder: a name of which only one owner is ever alive, such as that of a Kubernetes job; or empty.
    """

    token: str
    host: str
    namespace: str
    pid: int
    process_started: str
    since: str
    expires: float
    boot: str = ""
    holder: str = ""

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
        holder: str = "",
        report: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepares a lock without taking it.

        Args:
            path: the lock's file.
            expiry: seconds for which it is valid without being refreshed.
            take_over: True to take over a stale one.
            holder: see `Owner`.
            report: called with a message when a lock is taken over, or can't be refreshed or removed.
            clock: returns seconds since 1970.
        """
        self._path, self._expiry, self._take_over, self._holder = path, expiry, take_over, holder
        self._report, self._clock = report, clock
        self._problem: OSError | UserError | None = None
        self._stopped = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            LockHeldError: another run holds it, or it is stale and `take_over` is False.
        """
        make_folder(self._path.parent)
        with self._guarded():
            try:
                there = self._read()
            except DamagedFileError as error:
                self._take_damaged(error)
            else:
                if there:
                    self._take_from(there)
            self._owner = Owner(
                token=uuid.uuid4().hex,
                host=platform.node(),
                namespace=_namespace(),
                pid=os.getpid(),
                process_started=_process_started(os.getpid()),
                since=datetime.now(UTC).isoformat(timespec="seconds"),
                expires=self._clock() + self._expiry,
                boot=_boot(),
                holder=self._holder,
            )
            write_json(self._path, asdict(self._owner))
        self._refreshed = time.monotonic()
        self._refresher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._refresher.join()
        try:
            with self._guarded():
                if self._is_ours():
                    self._path.unlink()
        except (OSError, UserError) as problem:  # the work is done or has its own error
            self._report(f"{self._path}: can't be removed ({problem}); it is stale once this process has ended")

    def check(self) -> None:
        """Checks that the lock is still ours.

        Raises:
            LockHeldError: another run has taken it over, for example while this machine slept past the expiry.
            JobFailure: it could not be refreshed for so long that another run may take it over.
        """
        if self._problem and time.monotonic() - self._refreshed > self._expiry:
            raise JobFailure(
                f"{self._path}: can't be refreshed and has expired ({self._problem}); what is finished is kept, "
                "repeat the command to continue"
            )
        if not self._is_ours():
            raise LockHeldError(f"{self._path}: the lock was taken over by {self._read() or 'nobody'}; this run ends")

    def _take_from(self, there: Owner) -> None:
        """Raises an error unless the existing lock is stale and may be taken over."""
        state = self._why_stale(there)
        if state is None:
            raise LockHeldError(f"{self._path}: {there} is running; wait until it has ended")
        if not self._take_over:
            raise LockHeldError(
                f"{self._path}: a stale lock of {there}, {state}; make sure that it has ended and give --take-over-lock"
            )
        self._report(f"took over the lock of {there}: {state}")

    def _why_stale(self, there: Owner) -> str | None:
        """Returns why a lock is stale; None if its owner lives, as far as can be told."""
        if (lives := _lives(there)) is not None:
            return None if lives else "that process no longer exists"
        if there.holder and there.holder == self._holder:
            return f"it was the predecessor of this one as {there.holder}"
        return "it has expired" if there.expires <= self._clock() else None

    def _take_damaged(self, error: DamagedFileError) -> None:
        """Raises an error unless nobody has refreshed a damaged lock for so long that it has expired."""
        until = self._path.stat().st_mtime + self._expiry
        if until > self._clock() or not self._take_over:
            expires = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
            raise LockHeldError(f"{error}, or after {expires} give --take-over-lock") from error
        self._report(f"took over a damaged lock, {self._path}: it has expired")

    def _refresh(self) -> None:
        pause = self._expiry / _REFRESHES_AN_EXPIRY
        while not self._stopped.wait(pause):
            try:
                with self._guarded():
                    if not self._is_ours():
                        return
                    self._owner = replace(self._owner, expires=self._clock() + self._expiry)
                    write_json(self._path, asdict(self._owner))
            except (OSError, UserError) as problem:
                if self._problem is None:
                    self._report(f"{self._path}: can't be refreshed ({problem}); trying again")
                self._problem = problem
                pause = self._expiry / _REFRESHES_AN_EXPIRY / _TRIES_A_REFRESH
            else:
                self._problem, self._refreshed = None, time.monotonic()
                pause = self._expiry / _REFRESHES_AN_EXPIRY

    def _is_ours(self) -> bool:
        there = self._read()
        return there is not None and there.token == self._owner.token

    def _read(self) -> Owner | None:
        try:
            content = json.loads(self._path.read_bytes())
            return Owner(**{field.name: content[field.name] for field in fields(Owner) if field.name in content})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DamagedFileError(
                f"{self._path}: is not a lock that this sepline can read; remove it if no run is in progress"
            ) from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with open(self._path.with_name(f".{self._path.name}.guard"), "w", encoding="utf-8") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _lives(owner: Owner) -> bool | None:
    """Returns whether the owner's process lives; None if that can't be seen from this machine and namespace."""
    if (owner.host, owner.namespace) != (platform.node(), _namespace()):
        return None
    if owner.boot and owner.boot != _boot():  # the machine has started anew
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return _process_started(owner.pid) == owner.process_started


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


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
