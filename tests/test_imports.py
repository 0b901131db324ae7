"""Each verb loads only the libraries that it uses: real runs, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, TINY_TRAINING_OVERRIDES

from model.bundles.bundle import Bundle
from model.bundles.registry import Registry

ANALYSIS = {"tensorflow_transform", "tfx_bsl"}
NOT_LOADED = {
    "models": {"apache_beam", "tensorflow", "keras", "pyarrow", "pandas", "sklearn", "scipy"},
    "train": {"apache_beam", *ANALYSIS},
    "evaluate": {"apache_beam", *ANALYSIS},
    "score": {"pandas", "pymongo", "sklearn", "tensorboard", "tensorflow_hub", *ANALYSIS},
    "score by openvino": {"tensorflow", "tensorflow_text", "keras", "h5py", "openvino_telemetry"},
}
"""The libraries that a verb must not load; `--help` is in `test_cli.py`."""

PROGRAM = """
import json, sys
from pipelines.cli import main
codes = [main(command) for command in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def loaded(*commands: list[str]) -> set[str]:
    """Returns the top-level modules that a process has loaded after running these commands."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    codes, modules = json.loads(result.stdout.splitlines()[-1])
    assert codes == [0] * len(commands), result.stderr
    return set(modules)


def test_models_loads_neither_tensorflow_nor_beam(tiny_bundle: Bundle, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry" / "tiny")
    registry.promote(registry.add(tiny_bundle, why="test"), why="test")
    modules = loaded(["models", "list", str(registry.folder)], ["models", "show", str(registry.folder)])
    assert "pydantic" in modules
    assert not modules & NOT_LOADED["models"]


def test_train_and_evaluate_load_neither_beam_nor_tf_transform(tiny_bundle: Bundle, tiny_records: Path) -> None:
    """The training is finished already, which `train` only finds with all that it needs to train."""
    flags = [flag for setting in TINY_TRAINING_OVERRIDES for flag in ("--set", setting)]
    train = ["train", "--data", str(tiny_records), "--output", str(tiny_bundle.path.parent), *flags]
    modules = loaded(train, ["evaluate", "--model", str(tiny_bundle.path), "--data", str(tiny_records)])
    assert {"tensorflow", "sklearn"} <= modules
    assert not modules & (NOT_LOADED["train"] | NOT_LOADED["evaluate"])


@pytest.mark.parametrize("predictor", ["tensorflow", "openvino"])
def test_score_loads_what_its_predictor_needs(
    predictor: str, tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path
) -> None:
    """The dry run predicts in this process, as workers do."""
    score = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--predictor", predictor]
    score += ["--output", str(tmp_path / "scored")]
    modules = loaded([*score, "--dry-run"], score)
    assert (tmp_path / "scored" / "_SUCCESS").exists()
    assert {predictor, "apache_beam"} <= modules
    assert not modules & NOT_LOADED["score"]
    assert predictor == "tensorflow" or not modules & NOT_LOADED["score by openvino"]


def test_the_command_that_scores_loads_no_predictor(tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path) -> None:
    """Its workers do."""
    score = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus)]
    modules = loaded([*score, "--output", str(tmp_path / "scored")])
    assert not modules & {*NOT_LOADED["score by openvino"], "openvino", "tokenizers"}


def test_workers_of_openvino_load_no_tensorflow() -> None:
    """The process that forks them, which has loaded what they need."""
    program = (
        "import importlib, sys; from pipelines.runners.quiet_imports import keep_imports_quiet; keep_imports_quiet()\n"
        "from model.inference.kinds import PredictorChoice; from pipelines.scoring.server import PIPELINE\n"
        "for name in (PIPELINE, *PredictorChoice('openvino').kind().modules): importlib.import_module(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    assert {"openvino", "tokenizers", "apache_beam"} <= modules
    assert not modules & NOT_LOADED["score by openvino"]


SCORE_FROM_A_PROGRAM = """
import sys, threading
from pipelines.cli import main
threading.Thread(target=threading.Event().wait, daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("program", "interpreters"), [("command", 1), ("library", 2)])
def test_a_command_forks_its_workers_and_a_program_of_others_is_not_forked(
    program: str, interpreters: int, tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Nobody knows the threads of a program that uses sepline, so that a fork of it might hang."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(started)!r}, 'a').write('.')\n", encoding="utf-8")
    starts = {
        "command": [sys.executable, str(Path(sys.executable).parent / "sepline")],
        "library": [sys.executable, "-c", SCORE_FROM_A_PROGRAM],
    }
    score = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output", str(tmp_path / "out")]
    result = subprocess.run(
        [*starts[program], *score],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert started.read_text() == "." * interpreters
