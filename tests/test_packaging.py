"""What is installed: names, versions, and files that must travel with the code."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support.constraints import PYTHONS, pinned_versions, read_pins

from model.bundles.bundle import Bundle

SLIM = "runner_configs/slim.txt"
"""The pins of workers that only score, by openvino."""
BENCH = "benchmarks/requirements.txt"
"""The pins of what `make bench` compares with, which has an environment of its own."""


def installed() -> importlib.metadata.Distribution:
    """Returns the package as installed; a checkout may hold the metadata of an earlier one."""
    (found,) = importlib.metadata.distributions(name="sepline", path=[sysconfig.get_path("purelib")])
    return found


def test_the_import_names_belong_to_sepline() -> None:
    owners = importlib.metadata.packages_distributions()
    assert set(owners["model"]) == set(owners["pipelines"]) == {"sepline"}


def test_every_pinned_version_is_within_its_range() -> None:
    required = [Requirement(text) for text in installed().requires or []]
    extras = installed().metadata.get_all("Provides-Extra")
    assert set(extras or []) == {"all", "bench", "dev", "fast", "hub", "int8", "mutants", "rouge", "s3"}
    for python in PYTHONS:
        everything, peers = pinned_versions(python), pinned_versions(python, name=BENCH)
        for requirement in required:
            if requirement.name != "pip":  # comes with the virtual environment
                pinned = peers if requirement.marker and "bench" in str(requirement.marker) else everything
                name = canonicalize_name(requirement.name)
                assert requirement.specifier.contains(pinned[name]), (python, requirement)


def test_every_file_of_pins_has_the_same_versions_and_their_hashes() -> None:
    for name in ("constraints.txt", "requirements.txt", "runner_configs/cuda.txt", SLIM, BENCH):
        for line, hashes in read_pins(name).items():
            assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), (name, line)
        for python in PYTHONS:
            everything, pinned = pinned_versions(python), pinned_versions(python, name=name)
            other = [package for package in pinned.keys() & everything if pinned[package] != everything[package]]
            assert other == [], (name, python)
            more = pinned.keys() - everything
            assert name == BENCH or all(package.startswith("nvidia-") for package in more), more
    needed = {Requirement(text) for text in installed().requires or []}
    for requirement in needed:
        if requirement.name != "pip" and (requirement.marker is None or requirement.marker.evaluate({"extra": "all"})):
            assert canonicalize_name(requirement.name) in pinned_versions(name="requirements.txt"), requirement


def test_the_pythons_are_the_same_everywhere() -> None:
    metadata = installed().metadata
    allowed = SpecifierSet(metadata["Requires-Python"])
    assert tuple(f"3.{minor}" for minor in range(9, 20) if f"3.{minor}.1" in allowed) == PYTHONS
    label = "Programming Language :: Python :: "
    named = [line.removeprefix(label) for line in metadata.get_all("Classifier") or [] if line.startswith(label)]
    assert tuple(named) == PYTHONS


def test_what_only_some_uses_need_is_an_extra() -> None:
    always = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, installed().requires or [])
        if requirement.marker is None
    }
    assert {"apache-beam", "tensorflow", "pyarrow"} <= always
    assert not {"boto3", "rouge-score", "tensorflow-hub", "pytest"} & always


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
    modules = {
        str(file.relative_to(PROJECT)) for top in ("model", "pipelines") for file in (PROJECT / top).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Has `make` make the virtual environment in a folder that also holds the only programs that there are."""
    command = [str(shutil.which("make")), "--file", str(PROJECT / "Makefile"), ".venv/installed", *arguments]
    for name in ("setup.py", "constraints.txt"):
        (folder / name).touch()
    environment = {"PATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_hooks_before_a_commit_are_the_linters_of_make_lint() -> None:
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = {hook["entry"].replace(" --force-exclude", "") for repository in hooks for hook in repository["hooks"]}
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\nlint:")[2].partition("\n\n")[0].splitlines()[1:]
    assert {line.strip().removesuffix(" .").replace("$(BIN)", ".venv/bin") for line in recipe} == entries


def program(path: Path, *, code: int) -> None:
    path.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    path.chmod(0o755)


def test_make_takes_the_newest_python_that_will_do(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    assert "\npython3 -m venv .venv\n" in make(tmp_path, "--dry-run").stdout
    program(tmp_path / "python3.11", code=0)
    program(tmp_path / "python3.12", code=0)
    program(tmp_path / "python3.13", code=1)  # without venv
    assert "\npython3.12 -m venv .venv\n" in make(tmp_path, "--dry-run").stdout
    assert "\npython9 -m venv .venv\n" in make(tmp_path, "--dry-run", "PYTHON=python9").stdout


def test_make_says_which_pythons_will_do(tmp_path: Path) -> None:
    program(tmp_path / "python3", code=1)
    made = make(tmp_path)
    assert made.returncode == 2
    said = made.stderr.splitlines()[0]
    assert said == f"make: no Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]} with venv is here; install one"


SCORE = """
import sys
from pipelines.cli import main
code = main(sys.argv[1:])
print(code, *sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "pytest"}))
"""


@pytest.mark.engines
def test_a_slim_environment_scores_a_bundle_to_the_same_bytes(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path
) -> None:
    """An empty environment with the packages of `runner_configs/slim.txt` alone, and sepline."""
    environment, source = tmp_path / "slim", tmp_path / "source"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--require-hashes", "--requirement", str(PROJECT / SLIM)], check=True)
    for name in ("model", "pipelines"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    subprocess.run([*install, "--no-build-isolation", str(source)], check=True)
    assert not list(environment.glob("lib/python*/site-packages/tensorflow*"))
    made = []
    for number, runs in enumerate((python, Path(sys.executable))):
        output = tmp_path / f"out{number}"
        command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output", str(output)]
        command += ["--predictor", "openvino", "--precision", "f32"]
        result = subprocess.run(
            [str(runs), "-c", SCORE, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "0"
        made.append({part.name: part.read_bytes() for part in output.glob("part-*")})
    assert made[0] == made[1] != {}
