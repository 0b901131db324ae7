"""Output folders: each belongs to one job with fixed inputs and settings, which a mark file in the folder records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError


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
        there = json.loads(file.read_text(encoding="utf-8"))
        if there == json.loads(json.dumps(mark)):
            if not overwrite:
                return
        elif not overwrite:
            raise UserError(
                f"{folder}: was made with {difference(there, mark)}; name another --output, or --overwrite this one"
            )
        _empty(folder, mark_file)
    elif folder.exists() and any(path != _unfinished(file) for path in folder.iterdir()):
        raise UserError(f"{folder}: is not empty and has no {mark_file}; name another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, mark)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file under a temporary name and renames it, so that readers see all of it or nothing."""
    fresh = _unfinished(path)
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


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
