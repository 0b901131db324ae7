"""Output objects, locally or on Beam's filesystems: written completely or not at all, listed, read and removed.

How an object becomes visible in one step differs:

- local files are written under a temporary name, which begins with a dot, and renamed;
- object stores (`gs://`, `s3://`, `azfs://`) show an object once its upload is complete, so it is written under its
  own name; renaming would copy it. Beam writes no empty object to S3, so every object has content;
- `hdfs://` shows files while they are written and does not rename over others, so the old file is removed first.
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

from model import folders
from model.errors import DamagedFileError, JobFailure, UserError
from model.folders import json_bytes
from pipelines.storage import filesystems

_TEMPORARY = ".writing"
_THREADS = 8


def is_local(path: str) -> bool:
    """Returns True for a local path, False for a path on another of Beam's filesystems."""
    return filesystems.scheme(path) is None


def write_bytes(path: str, content: bytes) -> None:
    """Writes an object completely or not at all; a retry writes the same name again.

    Raises:
        JobFailure: it can't be written: a full disk, a lost connection, a missing permission.
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
        OSError: it doesn't exist or can't be read.
    """
    with open_object(path) as stream:
        return stream.read()


def write_json(path: str, content: Any) -> None:
    """Writes JSON values as an object."""
    write_bytes(path, json_bytes(content))


def read_json(path: str) -> Any:
    """Returns the JSON values of an object.

    Raises:
        DamagedFileError: it is not JSON.
        OSError: it doesn't exist or can't be read.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise DamagedFileError(f"{path}: is damaged ({error}); --overwrite its folder, or name another one") from error


def open_object(path: str) -> BinaryIO:
    """Returns an object as a seekable stream.

    Raises:
        OSError: it doesn't exist or can't be read.
        JobFailure: its filesystem does not answer, here or when the stream is read.
    """
    return filesystems.open_stream(path)


def list_names(folder: str) -> set[str]:
    """Returns the names of the objects directly in a folder, as `list_sizes` lists them."""
    return set(each_name(folder))


def each_name(folder: str) -> Iterator[str]:
    """Yields what `list_names` returns: nothing holds all names, as long as the folder is a local one.

    Raises:
        UserError, JobFailure: as `list_sizes`.
    """
    if not is_local(folder):
        yield from list_sizes(folder)
        return
    with _looking_into(folder):
        yield from (entry.name for entry in _scan(folder))


def list_sizes(folder: str) -> dict[str, int]:
    """Returns the sizes in bytes of the objects directly in a folder, by name; none if the folder doesn't exist.

    Unfinished objects, of running or dead writers, are not listed.

    Raises:
        UserError: the folder can't be listed.
        JobFailure: its filesystem does not answer.
    """
    with _looking_into(folder):
        if is_local(folder):
            sizes = {}
            for entry in _scan(folder):
                with suppress(FileNotFoundError):  # it is gone meanwhile
                    sizes[entry.name] = entry.stat().st_size
            return sizes
        return {name: size for name, size in _list_remote(folder).items() if not name.endswith(_TEMPORARY)}


def list_tree(folder: str) -> set[str]:
    """Returns the names of the objects in a folder and its subfolders, as `SUBFOLDER/NAME`; otherwise as `list_names`.

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
    """Copies the objects in a folder and its subfolders, and keeps their names."""

    def copy(name: str) -> None:
        write_bytes(f"{target}/{name}", read_bytes(f"{source}/{name}"))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, sorted(list_tree(source))))


def is_empty(folder: str) -> bool:
    """Returns True if a folder doesn't exist, or has only unfinished objects of dead writers."""
    if not is_local(folder):
        return not list_tree(folder)
    try:
        with os.scandir(folder) as entries:
            return all(entry.name.endswith(_TEMPORARY) for entry in entries)
    except FileNotFoundError:
        return True


def remove(paths: Sequence[str]) -> None:
    """Removes objects; a missing object is not an error."""
    if not paths:
        return
    if is_local(paths[0]):
        for path in paths:
            Path(path).unlink(missing_ok=True)
        return
    # Beam's filesystems differ in how they treat a missing name.
    with suppress(OSError):
        filesystems.delete(paths)
        return
    if there := [path for path in paths if filesystems.exists(path)]:
        filesystems.delete(there)


def empty_folder(folder: str, *, keep: str) -> None:
    """Removes everything in a folder and its subfolders, except the object `keep` directly in it."""
    if not is_local(folder):
        remove([f"{folder}/{name}" for name in sorted(list_tree(folder) - {keep})])
        return
    for path in Path(folder).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != keep:
            path.unlink()


def remove_folder(folder: str) -> None:
    """Removes an empty local folder; other filesystems have no empty folders."""
    if is_local(folder):
        remove_temporaries(folder)
        with suppress(FileNotFoundError):
            Path(folder).rmdir()


def remove_temporaries(folder: str) -> None:
    """Removes the unfinished objects of dead writers from a local folder, which must be locked (`lock_folder`)."""
    if is_local(folder):
        for place, _, names in os.walk(folder):
            for name in names:
                if name.startswith(".") and name.endswith(_TEMPORARY):
                    Path(place, name).unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Creates a local folder if it is missing, and locks it against other processes of this machine.

    The lock ends with the process. Other filesystems have none: two jobs that run there at once do the same work twice,
    since equal names have equal bytes.

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
        except OSError:  # a network share without locks is treated like the other filesystems
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
        raise UserError(f"{folder}: cannot be listed: {' '.join(str(error).split())}") from error


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yields the finished files directly in a local folder; none if it doesn't exist."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.endswith(_TEMPORARY) and entry.is_file())


def _list_remote(folder: str, pattern: str = "*") -> dict[str, int]:
    """Returns the sizes of the objects in a folder, by name."""
    try:
        # Its name may look like a glob.
        found = filesystems.match(re.sub(r"[*?\[]", "?", folder) + f"/{pattern}")
    except OSError:
        if filesystems.exists(folder):
            raise
        return {}  # only some filesystems treat a missing folder as an empty one
    start = f"{folder}/"
    return {path.removeprefix(start): size for path, size in found if path.startswith(start)}


def _list_remote_tree(folder: str) -> set[str]:
    if not filesystems.has_folders(folder):
        return set(_list_remote(folder, "**"))
    names = set()
    for name, size in _list_remote(folder).items():
        # A filesystem with folders lists subfolders together with the files, without a size.
        names |= {name} if size else {f"{name}/{below}" for below in _list_remote_tree(f"{folder}/{name}")}
    return names


def _write_local(target: Path, content: bytes) -> None:
    folders.make_folder(target.parent)
    folders.write_bytes(target, content, shared=True)


def _write_and_rename(path: str, content: bytes) -> None:
    folder, _, name = path.rpartition("/")
    fresh = f"{folder}/.{name}.{uuid.uuid4().hex}{_TEMPORARY}"
    filesystems.put(fresh, content)
    if filesystems.exists(path):
        filesystems.delete([path])
    filesystems.rename(fresh, path)
