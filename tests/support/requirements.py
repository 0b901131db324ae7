"""What a test needs and not every machine has: it is skipped there, or fails where it is required to run.

`SEPLINE_REQUIRE=airflow,jax` names capabilities, separated by commas. A test that would be skipped for want of one of
them fails, with the reason. `engines` stands for several of them, `all` for all.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

ENGINES = ("flink", "prism", "s3", "spark")
"""What the tests marked `engines` start: Beam's runners, and an object store."""

CAPABILITIES = {
    "airflow": "Airflow, in a virtual environment of its own in the cache",
    "corpora": "public corpora, in the folder that SEPLINE_DATA names",
    "flink": "Flink: Java and Maven",
    "hostname": "a name of this machine that resolves; Beam's job server inside a process dials it",
    "jax": "Keras on JAX, which the extra `dev` installs",
    "minilm": "the real encoder, downloaded by pip",
    "mount": "the right to mount a small disk, to fill it",
    "prism": "Beam's Prism: Go",
    "s3": "an object store: Go",
    "spark": "Spark: Java and Maven",
    "strace": "strace, which makes system calls fail",
}
GROUPS = {"all": tuple(CAPABILITIES), "engines": ENGINES}


def required() -> set[str]:
    """Returns the capabilities that `SEPLINE_REQUIRE` names.

    Raises:
        pytest.UsageError: it names something else.
    """
    names = [name.strip() for name in os.environ.get("SEPLINE_REQUIRE", "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in CAPABILITIES and name not in GROUPS]:
        known = ", ".join([*GROUPS, *CAPABILITIES])
        raise pytest.UsageError(f"SEPLINE_REQUIRE: there is no {unknown[0]!r}; known are {known}")
    return {capability for name in names for capability in GROUPS.get(name, (name,))}


def skip_unless_required(capability: str, reason: str) -> NoReturn:
    """Skips the test that runs, or fails it where the capability is required."""
    assert capability in CAPABILITIES
    if capability in required():
        pytest.fail(f"SEPLINE_REQUIRE names {capability}: {reason}")
    pytest.skip(reason)
