"""Packages that only some uses need; each is installed by an extra of sepline."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from model.errors import UserError


def import_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Returns a module that `pip install 'sepline[EXTRA]'` provides.

    Args:
        module: its full name.
        extra: one of the extras in setup.py.
        purpose: what needs the module; it becomes the subject of the message.

    Raises:
        UserError: its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (package, module):
            raise  # a package of the package's own is missing
        advice = f"install it with: pip install 'sepline[{extra}]'"
        raise UserError(f"{purpose} needs the package {package}, which is missing; {advice}") from error


def import_openvino(purpose: str) -> Any:
    """Returns the package openvino, loaded such that it reports nothing to its makers.

    Otherwise importing it sends an event to Google Analytics, where `openvino-telemetry` is installed.

    Raises:
        UserError: as `import_extra`.
    """
    with imports_blocked("openvino_telemetry"):
        return import_extra("openvino", extra="fast", purpose=purpose)


def import_nncf(purpose: str) -> Any:
    """Returns the package nncf, loaded such that it reports nothing to its makers, as `import_openvino`.

    Raises:
        UserError: as `import_extra`.
    """
    with imports_blocked("openvino_telemetry"):
        return import_extra("nncf", extra="int8", purpose=purpose)


@contextmanager
def imports_blocked(*names: str) -> Iterator[None]:
    """Makes imports of packages fail, except of those that have been imported before."""
    finder = _Blocked(frozenset(names))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocked(MetaPathFinder):
    """Lets nobody find some packages. A None in `sys.modules` would do, but for Cython's code it is a module."""

    names: frozenset[str]

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
