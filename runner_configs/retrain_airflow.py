"""Airflow 3: one task per night. Put this file into the DAGs folder and set the two paths.

The task is skipped if nothing is new or the lock is held; it succeeds if the champion is kept; it fails on invalid data
and on errors. Only errors are retried: the repeated call continues where the failed one stopped.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

FOLDER = "/srv/sepline"
COMMAND = [f"{FOLDER}/.venv/bin/sepline", "retrain", "--config", "runner_configs/retrain.yaml", "--explain"]

PUBLISHED, KEPT, NOTHING_NEW, INVALID_DATA, LOCKED, BAD_SETTINGS = 0, 10, 11, 12, 13, 2


@dag(
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
)
def sepline_retrain() -> None:
    """Retrains, and publishes the new model if it passes its gates."""

    @task
    def retrain() -> str:
        code = subprocess.run(COMMAND, cwd=FOLDER, check=False).returncode
        if code in (NOTHING_NEW, LOCKED):
            raise AirflowSkipException("nothing new" if code == NOTHING_NEW else "another run is on")
        if code in (INVALID_DATA, BAD_SETTINGS):
            raise AirflowFailException("invalid data" if code == INVALID_DATA else "wrong settings")  # not tried again
        if code not in (PUBLISHED, KEPT):
            raise RuntimeError(f"sepline retrain ended with exit code {code}")
        return "published" if code == PUBLISHED else "kept"

    retrain()


sepline_retrain()
