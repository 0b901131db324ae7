"""The settings of `make mutants` name files that are there."""

from __future__ import annotations

import yaml
from conftest import PROJECT


def test_modules_and_their_tests_are_there() -> None:
    settings = yaml.safe_load((PROJECT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8"))
    assert settings["tests"]
    for module, tests in settings["tests"].items():
        assert (PROJECT / module).is_file(), module
        assert tests
        for file in tests:
            assert (PROJECT / "tests" / file).is_file(), file
    everything = "".join(file.read_text(encoding="utf-8") for file in (PROJECT / "tests").rglob("test_*.py"))
    for test in settings["skipped"]:
        assert f"def {test}(" in everything, test
