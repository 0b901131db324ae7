"""A model's numbered, immutable versions, and the pointer to the one in use, the champion.

REGISTRY/NAME/
    versions/000007/   one bundle each; TensorFlow Serving takes `versions` as a model's base path
    records/000007/    how the version was made, in files of whoever added it
    champion.json      the pointer, replaced as a whole
    changes.jsonl      every change, with who, when and why; lines are only appended
    pins/              versions that unfinished work still needs, one file each

A change of the champion is logged first and made afterwards. If it was interrupted, the next change completes it. A
registry needs a filesystem with atomic renames and `flock`: a local one, NFS 4, a shared volume.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.changes import Change, ChangeLog
from model.errors import DamagedFileError, UserError
from model.folders import json_bytes, make_folder, publish_folder, read_json, sync, write_json

_VERSIONS, _RECORDS, _PINS = "versions", "records", "pins"
_POINTER, _CHANGES, _LOCK = "champion.json", "changes.jsonl", ".lock"
REGISTRY_FILES = (_POINTER, _CHANGES, _LOCK)
"""The files directly in a model's folder."""


def open_model(path: str | Path, *, trusted: bool = False) -> Bundle:
    """Returns the bundle that a path names: the champion of a `REGISTRY/NAME`, or the bundle in any other folder.

    Args:
        path: the folder.
        trusted: see `Bundle`.

    Raises:
        UserError: the path is a `REGISTRY/NAME` without a champion, or `load_bundle` refuses the folder.
    """
    return load_bundle(find_model(path), trusted=trusted)


def find_model(path: str | Path) -> Path:
    """Returns the folder of the bundle that a path names; whether it is one is not looked at.

    Raises:
        UserError: the path is a `REGISTRY/NAME` without a champion.
    """
    folder = Path(path)
    if not (folder / _VERSIONS).is_dir():
        return folder
    registry = Registry(folder)
    version = registry.champion()
    if version is None:
        raise UserError(f"{folder}: has no champion yet; promote a version with `sepline models promote {folder} N`")
    return registry.version_path(version)


@dataclass(frozen=True)
class _Pointer:
    """The champion, and how many changes the log had when it was written."""

    version: int
    changes: int


class Registry:
    """One model's folder, `REGISTRY/NAME`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._log = ChangeLog(self.folder / _CHANGES)

    def version_path(self, version: int) -> Path:
        """Returns the bundle folder of a version, whether it exists or not."""
        return self.folder / _VERSIONS / f"{version:06d}"

    def record_path(self, version: int) -> Path:
        """Returns the folder of a version's records, which stay when the version is pruned."""
        return self.folder / _RECORDS / f"{version:06d}"

    def versions(self) -> list[int]:
        """Returns the existing versions, ascending."""
        return _numbered(self.folder / _VERSIONS)

    def champion(self) -> int | None:
        """Returns the version in use, or None if there is none yet; a lost or damaged pointer is taken from the log.

        Raises:
            UserError: the pointer is damaged, and the log doesn't tell either.
        """
        pointer = self.folder / _POINTER
        if there := _read_pointer(pointer):
            return there.version
        succession = self._succession()
        if not succession and pointer.exists():
            hint = f"promote a version with `sepline models promote {self.folder} N`"
            raise UserError(f"{pointer}: is damaged; {hint}")
        return succession[-1] if succession else None

    def changes(self) -> list[Change]:
        """Returns the log, oldest first."""
        return self._log.read()

    def missing_versions(self) -> list[int]:
        """Returns the versions that were added and not pruned, and are not there."""
        pruned = {change.version for change in self.changes() if change.change == "prune"}
        added = {change.version for change in self.changes() if change.change == "add"}
        return sorted(added - pruned - set(self.versions()))

    def check_pointer(self) -> list[str]:
        """Returns what is wrong with the pointer: it is not as it was written, or not what the log says."""
        file, succession = self.folder / _POINTER, self._succession()
        pointer = _read_pointer(file)
        if pointer is None:
            return [f"{_POINTER} is missing or damaged"] if succession or file.exists() else []
        if file.read_bytes() != json_bytes({"version": pointer.version, "changes": pointer.changes}):
            return [f"{_POINTER} has changed"]
        if [pointer.version] != succession[-1:] or pointer.changes > len(self.changes()):
            return [f"{_POINTER} says version {pointer.version}, and the log says otherwise"]
        return []

    def fallback(self) -> int | None:
        """Returns the version that a rollback would restore: the previous champion."""
        former = self._succession()[:-1]
        return former[-1] if former else None

    def find(self, fingerprint: str) -> int | None:
        """Returns the version whose bundle has a fingerprint, or None."""
        for version in self.versions():
            with suppress(FileNotFoundError, DamagedFileError):  # then it is another one
                description = read_json(self.version_path(version) / "bundle.json", hint="prune it")
                if description["fingerprint"] == fingerprint:
                    return version
        return None

    def add(self, bundle: Bundle, *, why: str, who: str | None = None, records: Sequence[Path] = ()) -> int:
        """Adds a copy of a bundle and returns its new version; a bundle that is there already keeps its version.

        Args:
            bundle: what to add.
            why, who: for the log.
            records: files to keep as the version's records.
        """
        with self._changing():
            version = self.find(bundle.fingerprint)
            if version is None:
                taken = [*self.versions(), *(change.version for change in self.changes())]
                version = max(taken, default=0) + 1
                _copy_into(self.record_path(version), records)
                _copy_into(self.version_path(version), sorted(bundle.path.iterdir()))
            if not any(change.change == "add" and change.version == version for change in self.changes()):
                self._log.append("add", version, who, why)
            return version

    def promote(self, version: int, *, why: str, who: str | None = None) -> None:
        """Makes a version the champion; does nothing if it is already.

        Raises:
            UserError: there is no such version.
        """
        with self._changing():
            self._promote(version, who, why)

    def publish(self, version: int, *, champion: int | None, why: str, who: str | None = None) -> None:
        """Makes a version the champion, replacing the one that it was compared with.

        Does nothing if the version was promoted before: a later rollback stays in force.

        Raises:
            UserError: there is no such version, or the champion has changed.
        """
        with self._changing():
            if any(change.change == "promote" and change.version == version for change in self.changes()):
                return
            if self.champion() != champion:
                was, now = (f"version {one}" if one else "none" for one in (champion, self.champion()))
                raise UserError(f"{self.folder}: the champion was {was} and is now {now}; run again")
            self._promote(version, who, why)

    def rollback(self, *, why: str, who: str | None = None) -> int:
        """Makes the previous champion the champion again and returns its version.

        Raises:
            UserError: there is no previous champion.
        """
        with self._changing():
            version = self.fallback()
            if version is None:
                raise UserError(f"{self.folder}: there is no earlier champion to go back to")
            self._log.append("rollback", version, who, why)
            self._point(version)
            return version

    def prune(self, *, keep: int, why: str, who: str | None = None, dry_run: bool = False) -> list[int]:
        """Removes old versions and returns them; their records stay.

        Kept are the newest `keep` versions, the champion, the one that a rollback would restore, and pinned ones.

        Raises:
            UserError: there is no such registry.
        """
        with self._changing():
            versions = self.versions()
            spared = {*versions[-keep:], self.champion(), self.fallback(), *self._pinned()}
            leaving = [version for version in versions if version not in spared]
            for version in leaving if not dry_run else []:
                self._log.append("prune", version, who, why)
                self._remove(version)
            return leaving

    def pin(self, version: int, holder: str) -> None:
        """Keeps a version from being pruned until `holder` unpins it; a holder pins one version at a time."""
        with self._changing():
            self._check(version)
            make_folder(self.folder / _PINS)
            write_json(self.folder / _PINS / f"{holder}.json", {"version": version})

    def unpin(self, holder: str) -> None:
        """Removes the pin of `holder`, if it has one."""
        (self.folder / _PINS / f"{holder}.json").unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the registry's lock, and first completes a change that was interrupted."""
        make_folder(self.folder / _VERSIONS)
        with open(self.folder / _LOCK, "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._log.repair()
            self._complete()
            for change in self.changes():
                if change.change == "prune":
                    self._remove(change.version)
            yield

    def _complete(self) -> None:
        """Makes log and pointer agree: the log is first, unless it has lost lines that the pointer knows of."""
        pointer, succession = _read_pointer(self.folder / _POINTER), self._succession()
        if pointer and len(self.changes()) < pointer.changes and pointer.version in self.versions():
            if succession[-1:] != [pointer.version]:
                self._log.append("promote", pointer.version, None, f"{_POINTER} has it; lines of this log were lost")
            self._point(pointer.version)
        elif succession and (pointer is None or succession[-1] != pointer.version):
            self._point(succession[-1])

    def _succession(self) -> list[int]:
        """Returns the champions that rollbacks can restore, oldest first; the last one is the present champion."""
        succession: list[int] = []
        there = set(self.versions())
        for change in self.changes():
            if change.change == "promote":
                succession.append(change.version)
            elif change.change == "rollback":
                while succession and succession[-1] != change.version:
                    succession.pop()
        return [version for version in succession if version in there]

    def _pinned(self) -> set[int]:
        files = (self.folder / _PINS).glob("*.json")
        hint = "remove it if no retraining is unfinished"
        return {int(read_json(file, hint=hint)["version"]) for file in files}

    def _promote(self, version: int, who: str | None, why: str) -> None:
        self._check(version)
        if self.champion() != version:
            self._log.append("promote", version, who, why)
            self._point(version)

    def _check(self, version: int) -> None:
        if version not in self.versions():
            there = ", ".join(str(one) for one in self.versions()) or "none"
            raise UserError(f"{self.folder}: has no version {version}; there are: {there}")

    def _point(self, version: int) -> None:
        write_json(self.folder / _POINTER, {"version": version, "changes": len(self.changes())})

    def _remove(self, version: int) -> None:
        """Renames a version away before its files are removed, so that no reader finds half of one."""
        path = self.version_path(version)
        going = path.with_name(f".{path.name}.going")
        if path.exists():
            shutil.rmtree(going, ignore_errors=True)
            path.rename(going)
            sync(path.parent)
        if going.exists():
            shutil.rmtree(going)


def _numbered(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def _read_pointer(file: Path) -> _Pointer | None:
    """Returns the pointer; None if there is none, or a damaged one."""
    try:
        content = json.loads(file.read_bytes())
        return _Pointer(int(content["version"]), int(content.get("changes", 0)))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _copy_into(target: Path, items: Sequence[Path]) -> None:
    """Copies files and folders into a new, read-only folder; it gets its name once everything is on disk."""
    fresh = target.with_name(f".{target.name}.writing")
    shutil.rmtree(fresh, ignore_errors=True)
    make_folder(target.parent)
    fresh.mkdir()
    for item in items:
        if item.is_dir():
            shutil.copytree(item, fresh / item.name)
        else:
            shutil.copy(item, fresh / item.name)
    for path in fresh.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    publish_folder(fresh, target)  # in place of records of a version that was never completed
