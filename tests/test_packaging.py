"""What is installed: names, versions, and files that must travel with the code."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import PROJECT
from packaging.requirements import Requirement


def test_the_import_names_belong_to_sepline() -> None:
    owners = importlib.metadata.packages_distributions()
    assert set(owners["model"]) == set(owners["pipelines"]) == {"sepline"}


def test_every_pinned_version_is_within_its_range() -> None:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    required = [Requirement(text) for text in importlib.metadata.requires("sepline") or []]
    assert len(required) > 15
    for requirement in required:
        if requirement.name != "pip":  # comes with the virtual environment
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_the_wheel_holds_the_packages_and_their_data(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files beside the code
    for name in ("model", "pipelines"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("sepline-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"model/schema.py", "pipelines/corpora/medline_labels.yaml", "pipelines/cli.py"} <= names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"model", "pipelines"}
