"""Each verb loads only the libraries that it uses: real runs, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import PROJECT

from model.bundles.bundle import Bundle
from model.bundles.registry import Registry

ANALYSIS = {"tensorflow_transform", "tfx_bsl"}
NOT_LOADED = {
    "models": {"apache_beam", "tensorflow", "keras", "pyarrow", "pandas", "sklearn", "scipy"},
    "train": {"apache_beam", *ANALYSIS},
    "evaluate": {"apache_beam", *ANALYSIS},
    "score": {"sklearn", "tensorboard", "tensorflow_hub", "tokenizers", *ANALYSIS},
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
    settings = ["training.epochs=8", "training.batch_tokens=192", "training.learning_rate=0.01"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    train = ["train", "--data", str(tiny_records), "--output", str(tiny_bundle.path.parent), *flags]
    modules = loaded(train, ["evaluate", "--model", str(tiny_bundle.path), "--data", str(tiny_records)])
    assert {"tensorflow", "sklearn"} <= modules
    assert not modules & (NOT_LOADED["train"] | NOT_LOADED["evaluate"])


def test_score_loads_neither_tf_transform_nor_scikit_learn_nor_tensorboard(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path
) -> None:
    score = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output"]
    modules = loaded([*score, str(tmp_path / "scored"), "--dry-run"], [*score, str(tmp_path / "scored")])
    assert (tmp_path / "scored" / "_SUCCESS").exists()
    assert {"tensorflow", "apache_beam"} <= modules
    assert not modules & NOT_LOADED["score"]
