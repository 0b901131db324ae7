"""The log of a registry's changes: one JSON line per change; lines are only appended."""

from __future__ import annotations

import getpass
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.errors import DamagedFileError
from model.folders import sync


@dataclass(frozen=True)
class Change:
    """A line of the log.

    Attributes:
        change: `add`, `promote`, `rollback` or `prune`.
        version: the version that was added or removed, or that became the champion.
        who: the user and machine that made the change.
        when: UTC, ISO 8601.
        why: the reason, as text.
    """

    change: str
    version: int
    who: str
    when: str
    why: str


def whoami() -> str:
    """Returns the user and the machine in the form used in the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


class ChangeLog:
    """The log in a file. A last line that a crash cut short is ignored; `repair` removes it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> list[Change]:
        """Returns the changes, oldest first.

        Raises:
            DamagedFileError: a whole line is not a change.
        """
        if not self._file.exists():
            return []
        lines = self._file.read_bytes().split(b"\n")[:-1]
        return [self._parse(number, line) for number, line in enumerate(lines, 1)]

    def append(self, change: str, version: int, who: str | None, why: str) -> None:
        """Appends a change and flushes it to disk; `who` defaults to the current user."""
        line = Change(change, version, who or whoami(), datetime.now(UTC).isoformat(timespec="seconds"), why)
        is_new = not self._file.exists()
        with open(self._file, "a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(line)) + "\n")
            log.flush()
            os.fsync(log.fileno())
        if is_new:
            sync(self._file.parent)

    def repair(self) -> None:
        """Removes a last line that was cut short, so that the next change begins on a new line."""
        if self._file.exists() and (content := self._file.read_bytes()) and not content.endswith(b"\n"):
            with open(self._file, "r+b") as log:
                log.truncate(content.rfind(b"\n") + 1)

    def _parse(self, number: int, line: bytes) -> Change:
        try:
            return Change(**json.loads(line))
        except (ValueError, TypeError) as error:
            hint = "restore the file, or remove that line"
            raise DamagedFileError(f"{self._file}: line {number} is damaged; {hint}") from error
