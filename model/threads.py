"""How many threads the process's predictor may use, decided by the process that starts it."""

from __future__ import annotations

import os

_VARIABLE = "SEPLINE_THREADS"


def limit_threads(threads: int) -> None:
    """Sets the number for predictors that this process loads from now on."""
    os.environ[_VARIABLE] = str(threads)


def given_threads() -> int | None:
    """Returns the number; None if nobody has set one, and the predictor may use the whole machine."""
    given = os.environ.get(_VARIABLE, "")
    return int(given) if given.isdecimal() and int(given) else None
