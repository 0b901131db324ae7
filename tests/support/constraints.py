"""The exact versions in constraints.txt and files like it, which differ between Pythons."""

from __future__ import annotations

import platform

from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
"""What setup.py allows."""


def read_pins(name: str) -> dict[str, list[str]]:
    """Returns the lines of a file of pins, each with the hashes below it."""
    pins: dict[str, list[str]] = {}
    for line in (PROJECT / name).read_text(encoding="utf-8").replace(" \\\n", "\n").splitlines():
        if line.startswith("    --hash="):
            pins[next(reversed(pins))].append(line.strip().removeprefix("--hash="))
        elif line and not line.startswith("#"):
            pins[line] = []
    return pins


def pinned_versions(python: str | None = None, *, name: str = "constraints.txt") -> dict[str, str]:
    """Returns the pinned version of every package on Linux, by its normalized name.

    Args:
        python: such as 3.12; this one where none is given.
        name: of the file.
    """
    python = python or ".".join(platform.python_version_tuple()[:2])
    here = {
        "implementation_name": "cpython",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    versions: dict[str, str] = {}
    for line in read_pins(name):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(here):
            (exact,) = requirement.specifier
            package = canonicalize_name(requirement.name)
            assert exact.operator == "==" and package not in versions, line
            versions[package] = exact.version
    return versions
