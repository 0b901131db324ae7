"""Packages that only some uses need; each is installed by an extra of sepline."""

import importlib
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
