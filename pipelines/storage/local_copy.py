"""Copies remote training records to this machine, for the verbs that read them with TensorFlow."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from model.bundles.training_data import COMPLETED, STATS
from model.encoders.downloads import cache_root
from model.errors import JobFailure, UserError
from pipelines.storage import objects


def fetch_records(folder: str) -> str:
    """Returns a local folder with the records of a finished folder, which may be on any filesystem that Beam knows.

    A local folder is returned unchanged. A remote one is copied into the user's cache, unless there is a copy already.

    Raises:
        UserError: there are no finished records.
        JobFailure: they can't be copied, or changed during the copy.
    """
    if objects.is_local(folder):
        return folder
    folder = folder.rstrip("/")
    if not {COMPLETED, STATS} <= objects.list_names(folder):
        raise UserError(f"{folder}: no finished training records ({COMPLETED} is missing); run `sepline preprocess`")
    stats = objects.read_bytes(f"{folder}/{STATS}")
    copy = cache_root() / f"records-{hashlib.sha256(stats).hexdigest()[:12]}"
    if not copy.is_dir():
        print(f"copying {folder} to {copy}", file=sys.stderr, flush=True)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            fresh = Path(scratch) / "records"
            try:
                objects.copy_tree(folder, str(fresh))
            except OSError as error:
                raise JobFailure(f"{folder}: cannot be copied: {' '.join(str(error).split())}") from error
            if COMPLETED not in objects.list_names(folder) or (fresh / STATS).read_bytes() != stats:
                raise JobFailure(f"{folder}: has changed while it was copied; repeat the command")
            if not copy.is_dir():  # if another process was faster, its copy has the same bytes
                fresh.rename(copy)
    return str(copy)
