"""Output folders: each belongs to one job with one set of inputs and settings, and says so in a mark file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError


def claim_folder(folder: Path, mark_file: str, mark: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Makes the folder this job's, or finds that it already is.

    Args:
        folder: made where it is missing.
        mark_file: the name of the file in it that identifies the job.
        mark: JSON values that identify the job: settings, fingerprints of inputs.
        overwrite: True to empty a folder that an earlier job of this kind has marked.

    Raises:
        UserError: the folder holds a job with another mark, or anything that is not this kind of job's.
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
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and has no {mark_file}; name another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, mark)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name and renames it, so that readers see all of it or none."""
    fresh = path.with_name(f".{path.name}.writing")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def difference(there: Any, here: Any, key: str = "") -> str:
    """Returns the first difference between two marks of JSON values, in words."""
    if isinstance(there, dict) and isinstance(here, Mapping):
        for name in sorted(there.keys() | here.keys()):
            if json.dumps(there.get(name), sort_keys=True) != json.dumps(here.get(name), sort_keys=True):
                return difference(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    return f"{key} {json.dumps(there)[:80]} where it is now {json.dumps(here)[:80]}"
