"""Long lists in JSON: plain JSON, an item a line, read as it comes, also if something else has written it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from model.errors import DamagedFileError
from pipelines.storage.long_json import long_json_bytes, read_long_json

HEAD = {"format": 3, "identity": {"inputs": [1, 2], "text": 'a "quoted"\nline'}, "none": []}
ITEMS = [{"path": "a\\xff, é", "size": 1}, {"path": "b", "sha256": None}, {}]


@pytest.mark.parametrize("items", [ITEMS, ITEMS[:1], []])
@pytest.mark.parametrize("head", [HEAD, {}])
@pytest.mark.parametrize("indent", ["ours", 1, 2, None])
def test_what_is_written_is_json_and_any_json_is_read(
    tmp_path: Path, head: dict[str, Any], items: list[Any], indent: str | int | None
) -> None:
    whole = {**head, "inputs": items}
    content = long_json_bytes(head, "inputs", iter(items))
    assert json.loads(content) == whole
    assert indent != "ours" or not items or content.count(b"  {") >= len(items)
    path = tmp_path / "long.json"
    path.write_bytes(content if isinstance(indent, str) else json.dumps(whole, indent=indent).encode())
    found, read = read_long_json(str(path), "inputs")
    assert found == head
    assert list(read) == items


@pytest.mark.parametrize("keep", [0, 5, 60, -1, -8, -30])
def test_damage_is_said(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "long.json"
    path.write_bytes(long_json_bytes(HEAD, "inputs", ITEMS)[:keep])
    with pytest.raises(DamagedFileError, match=r"long\.json: is damaged \("):
        list(read_long_json(str(path), "inputs")[1])
    path.write_bytes(b'{"other": []}')
    with pytest.raises(DamagedFileError, match="it has no list 'inputs'"):
        read_long_json(str(path), "inputs")


def test_a_long_list_is_not_held(tmp_path: Path) -> None:
    items = ({"path": f"/data/{number}.jsonl", "size": number} for number in range(100_000))
    path = tmp_path / "long.json"
    path.write_bytes(long_json_bytes({"format": 3}, "inputs", items))
    tracemalloc.start()
    assert sum(item["size"] for item in read_long_json(str(path), "inputs")[1]) == sum(range(100_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20 < path.stat().st_size
