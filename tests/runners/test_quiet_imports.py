"""What a library prints while it is loaded, in processes of their own: the hook stays for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pipelines.runners.quiet_imports import keep_imports_quiet
keep_imports_quiet()
keep_imports_quiet()
import user_of_libraries
import os
os.write(2, b"said afterwards\\n")
print(user_of_libraries.ANSWER)
"""
NOISY = """
import logging, os, sys, warnings
os.write(2, b"said by C++\\n")
print("said by Python", file=sys.stderr)
warnings.warn("warned")
logging.getLogger("tensorflow").setLevel(logging.DEBUG)
logging.getLogger("tensorflow").info("logged")
"""


def run(folder: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_what_a_noisy_library_prints_is_held_back_whoever_imports_it(tmp_path: Path) -> None:
    user = "import tensorflow_text, logging\nANSWER = tensorflow_text.ANSWER, logging.getLogger('tensorflow').level"
    result = run(tmp_path, user_of_libraries=user, tensorflow_text=NOISY + "ANSWER = 42\n")
    assert (result.stdout, result.stderr, result.returncode) == ("(42, 40)\n", "said afterwards\n", 0)


def test_it_is_shown_when_the_library_can_not_be_loaded(tmp_path: Path) -> None:
    failing = NOISY + "raise ImportError('it has no such symbol')\n"
    result = run(tmp_path, user_of_libraries="import tensorflow_text", tensorflow_text=failing)
    assert result.returncode == 1
    assert result.stderr.startswith("said by C++\nsaid by Python\nTraceback")
    assert result.stderr.endswith("ImportError: it has no such symbol\n")


def test_one_that_falls_back_on_another_is_quiet_too(tmp_path: Path) -> None:
    outer = "try:\n    import tensorflow\nexcept ImportError:\n    ANSWER = 'without'\n"
    failing = NOISY + "raise ImportError('it has no such symbol')\n"
    result = run(tmp_path, user_of_libraries="from apache_beam import ANSWER", apache_beam=outer, tensorflow=failing)
    assert (result.stdout, result.stderr) == ("without\n", "said afterwards\n")


def test_other_modules_are_left_alone(tmp_path: Path) -> None:
    result = run(tmp_path, user_of_libraries="import os\nos.write(2, b'said by it\\n')\nANSWER = 1")
    assert (result.stdout, result.stderr) == ("1\n", "said by it\nsaid afterwards\n")


def test_tensorflow_is_loaded_without_scikit_learn_which_can_be_imported_later(tmp_path: Path) -> None:
    tensorflow = "try:\n    import sklearn\nexcept ImportError:\n    sklearn = None\n"
    user = "import tensorflow, sklearn\nANSWER = tensorflow.sklearn, sklearn.NAME"
    result = run(tmp_path, user_of_libraries=user, tensorflow=tensorflow, sklearn="NAME = 'itself'")
    assert (result.stdout, result.returncode) == ("(None, 'itself')\n", 0), result.stderr
    user = "import sklearn, tensorflow\nANSWER = tensorflow.sklearn is sklearn"
    assert run(tmp_path, user_of_libraries=user).stdout == "True\n"


def test_arrow_is_loaded_without_pandas_which_can_be_imported_later(tmp_path: Path) -> None:
    user = """
import pyarrow, sys
built = pyarrow.array([1, 2]), pyarrow.table({"a": [1.5]})
before = "pandas" in sys.modules
import pandas
ANSWER = before, int(pandas.Series([1]).sum()), built[0].to_pylist()
"""
    result = run(tmp_path, user_of_libraries=user)
    assert (result.stdout, result.returncode) == ("(False, 1, [1, 2])\n", 0), result.stderr


def test_garbage_is_collected_again_when_a_library_is_loaded(tmp_path: Path) -> None:
    library = "import gc\nANSWER = gc.isenabled()\n"
    result = run(
        tmp_path,
        user_of_libraries="import gc, tensorflow\nANSWER = tensorflow.ANSWER, gc.isenabled()",
        tensorflow=library,
    )
    assert (result.stdout, result.returncode) == ("(False, True)\n", 0), result.stderr


def test_tensorflow_is_loaded_without_jax_unless_keras_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorflow = "try:\n    import jax\nexcept ImportError:\n    jax = None\n"
    modules = {"tensorflow": tensorflow, "jax": "NAME = 'itself'"}
    user = "import tensorflow, jax\nANSWER = tensorflow.jax, jax.NAME"
    assert run(tmp_path, user_of_libraries=user, **modules).stdout == "(None, 'itself')\n"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert run(tmp_path, user_of_libraries="import tensorflow\nANSWER = tensorflow.jax.NAME").stdout == "itself\n"
