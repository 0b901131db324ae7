"""What reaches a person's screen: text from corpora, file names and errors, with control characters made visible.

An abstract, an id or a file name can hold escape sequences that clear the screen, hide or reorder text, or write into
the terminal's title and clipboard. On the screen they are shown as `\\x1b` and the like. JSON escapes them by itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

# All controls but tab and newline, marks that turn the direction of text, line separators, halves of surrogate pairs
# (bytes of a file name that are not UTF-8), and tags, which are invisible.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Returns text with its control characters, except tabs and newlines, as escapes: `\\x1b`, `\\u202e`."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class VisibleStream:
    """A text stream that makes control characters visible in what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.inner = stream

    def write(self, text: str) -> int:
        self.inner.write(visible(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def controls_made_visible() -> Iterator[None]:
    """Puts a `VisibleStream` before standard output and standard error, whoever writes to them in this process."""
    with redirect_stdout(visible_stream(sys.stdout)), redirect_stderr(visible_stream(sys.stderr)):
        yield


def visible_stream(stream: TextIO) -> TextIO:
    """Returns a `VisibleStream` for a stream."""
    return cast(TextIO, VisibleStream(stream))
