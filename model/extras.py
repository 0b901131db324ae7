"""Packages that only some uses need; each is installed by an extra of sepline."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    with import_blocked("openvino_telemetry"):
        return import_extra("openvino", extra="fast", purpose=purpose)


@contextmanager
def import_blocked(name: str) -> Iterator[None]:
    """Makes imports of a module fail, unless it has been imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how Python lets one block an import
    try:
        yield
    finally:
        del sys.modules[name]
