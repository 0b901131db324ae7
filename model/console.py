"""The console of rich, through which tables and progress reach the screen; `model.screen` says why it needs care."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from model.screen import VisibleStream, visible


class VisibleConsole(Console):
    """A console of rich whose own styles and bars reach the terminal, and those in the text that it prints don't.

    Strings are neither markup nor emoji codes. Text that is made by `Text(...)` must be made visible first.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream: Any = sys.stderr if stderr else sys.stdout
        while isinstance(stream, VisibleStream):
            stream = stream.inner
        super().__init__(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:  # every string that is printed, cells of tables too
        return super().render_str(visible(text), **options)
