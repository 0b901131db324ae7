"""JSON objects whose last value is a very long list: written with an item a line, and read without holding the list.

They are plain JSON. The same object with other line ends is read as well, but as a whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from model.errors import DamagedFileError
from pipelines.storage import objects


def long_json_bytes(head: Mapping[str, Any], key: str, items: Iterable[Any]) -> bytes:
    """Returns an object with the items of `head`, and the list of `items` as the last one, named `key`."""
    stream = io.BytesIO()
    stream.write(json.dumps(dict(head), indent=1).removesuffix("}").rstrip().encode())
    stream.write(b",\n" + _start(key) if head else b"\n" + _start(key))
    separator = b"  "
    for item in items:
        stream.write(separator + json.dumps(item).encode())
        separator = b",\n  "
    stream.write(b"\n ]\n}\n")
    return stream.getvalue()


def read_long_json(path: str, key: str) -> tuple[dict[str, Any], Iterator[Any]]:
    """Returns the items of an object other than the list `key`, and that list's items, which are read as they come.

    Raises:
        DamagedFileError: it is not JSON, here or when the list is iterated over.
        OSError: it doesn't exist or can't be read.
    """
    lines: list[bytes] = []
    with objects.open_object(path) as stream:
        for line in stream:
            if line == _start(key):
                break
            lines.append(line)
        first = next(stream, b"")
    if not (first.startswith(b"  {") and first.endswith((b"}\n", b"},\n"))):
        whole = objects.read_json(path)
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
            raise _damage(path, f"it has no list {key!r}")
        return {name: value for name, value in whole.items() if name != key}, iter(whole[key])

    def items() -> Iterator[Any]:
        with objects.open_object(path) as stream:
            for line in islice(stream, len(lines) + 1, None):
                yield _loads(path, line.removesuffix(b",\n"))
                if not line.endswith(b",\n"):
                    break
            if stream.read() != b" ]\n}\n":
                raise _damage(path, "it has no end")

    return dict(_loads(path, b"".join(lines).rstrip().removesuffix(b",") + b"}")), items()


def _start(key: str) -> bytes:
    return f" {json.dumps(key)}: [\n".encode()


def _loads(path: str, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damage(path, error) from error


def _damage(path: str, what: object) -> DamagedFileError:
    return DamagedFileError(f"{path}: is damaged ({what}); remove its folder, or name another one")
