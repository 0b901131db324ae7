"""The exact versions in constraints.txt, which differ between Pythons."""

from __future__ import annotations

import platform

from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
"""What setup.py allows."""


def pinned_versions(python: str | None = None) -> dict[str, str]:
    """Returns the pinned version of every package on Linux, by its normalized name.

    Args:
        python: such as 3.12; this one where none is given.
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
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(here):
                (exact,) = requirement.specifier
                name = canonicalize_name(requirement.name)
                assert exact.operator == "==" and name not in versions, line
                versions[name] = exact.version
    return versions
