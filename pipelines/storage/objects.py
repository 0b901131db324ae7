"""Output objects: written whole or not at all, listed, read and removed; on this machine and on Beam's filesystems.

How an object becomes visible in one step differs:

- local files are written under a temporary name, which begins with a dot, and renamed;
- object stores (`gs://`, `s3://`, `azfs://`) show an object once its upload is complete, so it is put under its own
  name; renaming would copy it. Beam puts no empty object on S3, so whatever is written has content;
- `hdfs://` shows files while they are written and does not rename over others, so what is there is removed first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import JobFailure, UserError
from pipelines.storage import filesystems

_TEMPORARY = ".writing"
_THREADS = 8


def is_local(path: str) -> bool:
    """Returns whether a path names a file of this machine rather than of another filesystem of Beam's."""
    return filesystems.scheme(path) is None


def write_bytes(path: str, content: bytes) -> None:
    """Writes an object that is there whole or not at all; a retry writes the same name again.

    Raises:
        JobFailure: it can't be written: a full disk, a lost connection, a right that is missing.
    """
    if not content:
        raise ValueError(f"{path}: an object has at least one byte")
    try:
        if is_local(path):
            _write_local(Path(path), content)
        elif filesystems.scheme(path) == "hdfs":
            _write_and_rename(path, content)
        else:
            filesystems.put(path, content)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise JobFailure(f"{path}: cannot be written: {reason}") from error


def read_bytes(path: str) -> bytes:
    """Returns the content of an object.

    Raises:
        OSError: it is not there or can't be read.
    """
    with open_object(path) as stream:
        return stream.read()


def write_json(path: str, content: Any) -> None:
    """Writes an object of JSON."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode("utf-8"))


def read_json(path: str) -> Any:
    """Returns what an object of JSON holds."""
    return json.loads(read_bytes(path))


def open_object(path: str) -> BinaryIO:
    """Returns an object as a seekable stream.

    Raises:
        OSError: it is not there or can't be read.
        JobFailure: its filesystem does not answer, here or when the stream is read.
    """
    return filesystems.open_stream(path)


def list_names(folder: str) -> set[str]:
    """Returns the names of the objects directly in a folder; none where there is no such folder.

    What is still being written, or was when its writer died, is not listed.

    Raises:
        UserError: the folder can't be looked into.
        JobFailure: its filesystem does not answer.
    """
    with _looking_into(folder):
        if is_local(folder):
            try:
                with os.scandir(folder) as entries:
                    names = {entry.name for entry in entries if entry.is_file()}
            except FileNotFoundError:
                return set()
        else:
            names = set(_list_remote(folder))
    return {name for name in names if not name.endswith(_TEMPORARY)}


def list_tree(folder: str) -> set[str]:
    """Returns the names of the objects in a folder and in those below it, `BELOW/NAME`; else as `list_names`.

    Raises:
        UserError, JobFailure: as `list_names`.
    """
    with _looking_into(folder):
        if is_local(folder):
            top = Path(folder)
            names = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}
        else:
            names = _list_remote_tree(folder)
    return {name for name in names if not name.endswith(_TEMPORARY)}


def copy_tree(source: str, target: str) -> None:
    """Copies the objects in a folder, and in those below it, each under its name."""

    def copy(name: str) -> None:
        write_bytes(f"{target}/{name}", read_bytes(f"{source}/{name}"))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, sorted(list_tree(source))))


def is_empty(folder: str) -> bool:
    """Returns whether a folder holds nothing but what dead writers have left, or is not there."""
    if not is_local(folder):
        return not list_tree(folder)
    try:
        with os.scandir(folder) as entries:
            return all(entry.name.endswith(_TEMPORARY) for entry in entries)
    except FileNotFoundError:
        return True


def remove(paths: Sequence[str]) -> None:
    """Removes objects; those that are gone already are no error."""
    if not paths:
        return
    if is_local(paths[0]):
        for path in paths:
            Path(path).unlink(missing_ok=True)
        return
    # Beam's filesystems differ in what they make of a name that is not there.
    with suppress(OSError):
        filesystems.delete(paths)
        return
    if there := [path for path in paths if filesystems.exists(path)]:
        filesystems.delete(there)


def empty_folder(folder: str, *, keep: str) -> None:
    """Removes all that is in a folder and below it, but the object of the name `keep` directly in it."""
    if not is_local(folder):
        remove([f"{folder}/{name}" for name in sorted(list_tree(folder) - {keep})])
        return
    for path in Path(folder).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != keep:
            path.unlink()


def remove_folder(folder: str) -> None:
    """Removes a local folder that is empty; elsewhere an empty folder is nothing."""
    if is_local(folder):
        remove_temporaries(folder)
        with suppress(FileNotFoundError):
            Path(folder).rmdir()


def remove_temporaries(folder: str) -> None:
    """Removes what dead writers have left under temporary names in a local folder. Call it under `lock_folder`."""
    if is_local(folder):
        for leftover in Path(folder).rglob(f".*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Makes a local folder where it is missing, and keeps other processes of this machine out of it meanwhile.

    The lock dies with the process. There is none on other filesystems: what two jobs do there at once is the same work
    twice, since equal names have equal bytes.

    Raises:
        UserError: another process holds the lock, or the folder can't be made.
    """
    if not is_local(folder):
        yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except FileExistsError as error:
        raise UserError(f"{folder}: is a file; name a folder for the output") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be used: {error.strerror}; name another --output") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = "another sepline is writing there; wait for it, or name another --output"
            raise UserError(f"{folder}: {message}") from error
        except OSError:  # a network share without locks: as on the other filesystems
            pass
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _looking_into(folder: str) -> Iterator[None]:
    try:
        yield
    except NotADirectoryError as error:
        raise UserError(f"{folder}: is a file; name a folder for the output") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be looked into: {' '.join(str(error).split())}") from error


def _list_remote(folder: str, pattern: str = "*") -> dict[str, int]:
    """Returns the sizes of what is in a folder, by name."""
    try:
        # Its name may read like a glob.
        found = filesystems.match(re.sub(r"[*?\[]", "?", folder) + f"/{pattern}")
    except OSError:
        if filesystems.exists(folder):
            raise
        return {}  # only some filesystems take a folder that is not there for an empty one
    start = f"{folder}/"
    return {path.removeprefix(start): size for path, size in found if path.startswith(start)}


def _list_remote_tree(folder: str) -> set[str]:
    if not filesystems.has_folders(folder):
        return set(_list_remote(folder, "**"))
    names = set()
    for name, size in _list_remote(folder).items():
        # Where there are folders, one is listed with what is in the folder above it, and without a size.
        names |= {name} if size else {f"{name}/{below}" for below in _list_remote_tree(f"{folder}/{name}")}
    return names


def _write_local(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with open(fresh, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # else a crash of the machine may leave an empty file under the name
        fresh.replace(target)
    except BaseException:  # also where the user interrupts it
        fresh.unlink(missing_ok=True)
        raise


def _write_and_rename(path: str, content: bytes) -> None:
    folder, _, name = path.rpartition("/")
    fresh = f"{folder}/.{name}.{uuid.uuid4().hex}{_TEMPORARY}"
    filesystems.put(fresh, content)
    if filesystems.exists(path):
        filesystems.delete([path])
    filesystems.rename(fresh, path)
