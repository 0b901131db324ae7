"""Text from data, made safe for a person's screen."""

from __future__ import annotations

import re

# Control characters but tab and newline, with C1 and DEL; marks that reverse or isolate text; surrogates, which stand
# for bytes of file names that are not UTF-8, and which can't be printed.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Returns text in which each character that would act on a terminal is written as its code, such as `\x1b`."""
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
