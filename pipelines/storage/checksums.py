"""Checksums of the files in a folder, and what differs from a list of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from model.errors import JobFailure
from pipelines.storage import objects

_THREADS = 8


def checksum(path: str) -> str:
    """Returns the SHA-256 of an object.

    Raises:
        JobFailure: it can't be read.
    """
    try:
        with objects.open_object(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise JobFailure(f"{path}: cannot be read: {error.strerror or error}") from error


def checksums(
    folder: str, names: Collection[str], *, done: Callable[[int], None] = lambda count: None
) -> dict[str, str]:
    """Returns the SHA-256 of objects in a folder by name.

    Args:
        folder: where they are.
        names: `NAME` or `SUBFOLDER/NAME` of each.
        done: is called with the number of objects that are read.

    Raises:
        JobFailure: one can't be read.
    """
    found = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        ordered = sorted(names)
        for name, digest in zip(ordered, pool.map(lambda name: checksum(f"{folder}/{name}"), ordered), strict=True):
            found[name] = digest
            done(len(found))
    return found


def differences(
    folder: str,
    listed: Mapping[str, str],
    there: Collection[str],
    *,
    done: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Returns a line for each object that is missing, has changed, or is not listed.

    Args:
        folder: where they are.
        listed: the SHA-256 of each by name.
        there: the names of all objects in the folder.
        done: as for `checksums`.
    """
    found = checksums(folder, listed.keys() & set(there), done=done)
    lines = {name: f"{name} is missing" for name in listed.keys() - found.keys()}
    lines |= {name: f"{name} has changed" for name, digest in found.items() if digest != listed[name]}
    lines |= {name: f"{name} is not listed" for name in set(there) - listed.keys()}
    return [lines[name] for name in sorted(lines)]
