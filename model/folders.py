"""Output folders and the files in them, written so that a crash of the machine leaves the old state or the new one.

Each folder belongs to one job with fixed inputs and settings, which a mark file in the folder records.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import DamagedFileError, UserError


def claim_folder(folder: Path, mark_file: str, mark: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Claims a folder for a job, or checks that it belongs to the job already.

    Args:
        folder: created if it doesn't exist.
        mark_file: the name of the file in it that identifies the job.
        mark: JSON values that identify the job: settings, fingerprints of inputs.
        overwrite: True to empty a folder that an earlier job of this kind has marked.

    Raises:
        UserError: the folder belongs to a job with another mark, or holds files that are not of this kind of job.
    """
    file = folder / mark_file
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder for the output")
    if file.exists():
        if not overwrite:
            there = read_json(file, hint="--overwrite its folder, or name another one")
            if there == json.loads(json.dumps(mark)):
                return
            raise UserError(
                f"{folder}: was made with {difference(there, mark)}; name another --output, or --overwrite this one"
            )
        _empty(folder, mark_file)
    elif folder.exists() and any(path != _unfinished(file) for path in folder.iterdir()):
        raise UserError(f"{folder}: is not empty and has no {mark_file}; name another --output")
    make_folder(folder)
    write_json(file, mark)


def read_json(path: Path, *, hint: str) -> Any:
    """Returns the JSON values of a file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not JSON; the message ends with the hint.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(f"{path}: is damaged ({error}); {hint}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as `write_bytes` does."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Returns JSON values as sepline writes them into files."""
    return (json.dumps(content, indent=1) + "\n").encode("utf-8")


def write_bytes(path: Path, content: bytes | memoryview, *, shared: bool = False) -> None:
    """Writes a file so that readers, and the machine after a crash, see all of it or what was there before.

    Args:
        path: the file.
        content: all of it.
        shared: True if several processes may write it at once.

    Raises:
        OSError: it can't be written; the error names the file, and what was there before is unchanged.
    """
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing") if shared else _unfinished(path)
    try:
        with open(fresh, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException as error:  # also if the user interrupts it
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # of a write, it names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, unless they exist, so that a crash of the machine does not undo it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def publish_folder(fresh: Path, path: Path) -> None:
    """Gives a folder that is written completely its name, in place of what has that name now.

    Raises:
        OSError: it can't be done.
    """
    sync_tree(fresh)
    shutil.rmtree(path, ignore_errors=True)
    fresh.rename(path)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Makes the content of a folder and its subfolders survive a crash of the machine."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            sync(path)


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems can't sync folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")


def _empty(folder: Path, mark_file: str) -> None:
    """Removes everything in a folder except its mark, which must survive if the job is killed during this."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != mark_file:
            path.unlink()


def difference(there: Any, here: Any, key: str = "") -> str:
    """Returns a phrase that names the first difference between two marks of JSON values."""
    if isinstance(there, dict) and isinstance(here, Mapping):
        for name in sorted(there.keys() | here.keys()):
            if json.dumps(there.get(name), sort_keys=True) != json.dumps(here.get(name), sort_keys=True):
                return difference(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    return f"{key} {json.dumps(there)[:80]}, which is now {json.dumps(here)[:80]}"
