"""What may import what."""

from __future__ import annotations

import subprocess
import sys

from conftest import PROJECT

IMPORT_MODEL = """
import importlib, pkgutil, sys
import model
assert not {"tensorflow", "numpy"} & set(sys.modules), "the package itself must cost nothing to import"
names = [module.name for module in pkgutil.walk_packages(model.__path__, "model.")]
for name in names:
    importlib.import_module(name)
print(len(names), sorted(name for name in sys.modules if name.split(".")[0] in ("apache_beam", "pipelines")))
"""


def test_model_never_imports_beam_or_pipelines() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_MODEL], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    files = [file for file in (PROJECT / "model").rglob("*.py") if file != PROJECT / "model" / "__init__.py"]
    assert result.stdout == f"{len(files)} []\n"


IMPORT_LIGHT_MODULES = """
import sys
import model.bundles.training_data, model.config, model.encoders.downloads, model.errors, model.folders
import model.records, model.schema
import model.text.vocabulary, model.text.windowing
print("tensorflow" in sys.modules)
"""


def test_drivers_and_parsers_need_no_tensorflow() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_LIGHT_MODULES], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.returncode) == ("False\n", 0), result.stderr
