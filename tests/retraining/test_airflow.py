"""The DAG, in a real Airflow, which lives apart from sepline as it does in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from support.engine_servers import cached

pytestmark = pytest.mark.engines

AIRFLOW = "3.3.2"

RUN = """
import json, runpy, sys, warnings
import airflow
names = runpy.run_path(sys.argv[1])
dag = names["sepline_retrain"]()
(task,) = dag.tasks
settings = task.python_callable.__globals__
settings["FOLDER"] = sys.argv[2]
outcomes = {}
for code in map(int, sys.argv[3:]):
    settings["COMMAND"] = ["sh", "-c", f"pwd > folder; exit {code}"]
    try:
        outcomes[code] = task.python_callable()
    except Exception as error:
        outcomes[code] = type(error).__name__
print(json.dumps({
    "version": airflow.__version__, "dag": dag.dag_id, "schedule": dag.schedule, "runs": dag.max_active_runs,
    "catchup": dag.catchup, "retries": task.retries, "outcomes": outcomes,
}))
"""
"""Runs the task with a command of every exit code in place of `sepline retrain`."""


@pytest.fixture(scope="module")
def airflow() -> Path:
    """A folder with Airflow and what it depends on, installed on first use."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    def install(folder: Path) -> list[str]:
        return [*pip, "--target", str(folder), f"apache-airflow=={AIRFLOW}"]

    return cached(f"apache-airflow-{AIRFLOW}-python{python}", install, capability="airflow")


def test_the_task_ends_as_each_exit_code_asks(airflow: Path, tmp_path: Path) -> None:
    codes = {
        0: "published",
        10: "kept",
        11: "AirflowSkipException",  # nothing new
        12: "AirflowFailException",  # invalid data: not tried again
        13: "AirflowSkipException",  # locked
        2: "AirflowFailException",  # wrong settings
        1: "RuntimeError",  # tried again
        137: "RuntimeError",
    }
    dag = PROJECT / "runner_configs" / "retrain_airflow.py"
    # Without `site`, Python sees nothing of this environment.
    command = [sys.executable, "-S", "-c", RUN, str(dag), str(tmp_path), *map(str, codes)]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(airflow), "AIRFLOW_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "version": AIRFLOW,
        "dag": "sepline_retrain",
        "schedule": "30 2 * * *",
        "runs": 1,
        "catchup": False,
        "retries": 2,
        "outcomes": {str(code): outcome for code, outcome in codes.items()},
    }
    assert "deprecated" not in result.stderr + result.stdout
    assert (tmp_path / "folder").read_text(encoding="utf-8").strip() == str(tmp_path)
