"""Shell commands that run when a call has ended, for mail or chat. Whatever they do, the outcome stays the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SECONDS = 300
_STANDARD_ERROR = 2  # standard output is for the record, with --json


def run_hook(command: str, *, outcome: str, reason: str, record: Path | None) -> str | None:
    """Runs a shell command and returns what went wrong with it, or None.

    Its environment has SEPLINE_OUTCOME, SEPLINE_REASON and SEPLINE_RECORD: the path of the run's record, or of its
    error, or empty if there was no run.
    """
    told = {
        "SEPLINE_OUTCOME": outcome,
        "SEPLINE_REASON": reason,
        "SEPLINE_RECORD": "" if record is None else str(record),
    }
    try:
        done = subprocess.run(
            command, shell=True, env={**os.environ, **told}, stdout=_STANDARD_ERROR, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the hook {command!r} was stopped after {_SECONDS} s"
    except OSError as error:
        return f"the hook {command!r} could not be started: {error}"
    return f"the hook {command!r} ended with exit code {done.returncode}" if done.returncode else None
