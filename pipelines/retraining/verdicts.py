"""Rows of a decision table: what was measured, against which limit, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"


@dataclass(frozen=True)
class Verdict:
    """One check or gate.

    Attributes:
        name: of the check or gate.
        measured, limit: numbers where there are any.
        verdict: `PASS`, `FAIL`, or `SKIPPED` where there is no limit, or no champion to compare with.
        words: the same for people.
    """

    name: str
    measured: float | None
    limit: float | None
    verdict: str
    words: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def at_least(name: str, measured: float | None, limit: float | None, words: str) -> Verdict:
    """Returns a verdict that passes from `limit` upwards; without limit or measurement it is skipped."""
    return _judge(name, measured, limit, words, sign=1)


def at_most(name: str, measured: float | None, limit: float | None, words: str) -> Verdict:
    """Returns a verdict that passes up to `limit`; without limit or measurement it is skipped."""
    return _judge(name, measured, limit, words, sign=-1)


def failures(verdicts: Iterable[Verdict]) -> str:
    """Returns the words of the verdicts that failed; empty where none did."""
    return "; ".join(f"{one.name}: {one.words}" for one in verdicts if one.verdict == FAIL)


def _judge(name: str, measured: float | None, limit: float | None, words: str, *, sign: int) -> Verdict:
    if measured is None or limit is None:
        return Verdict(name, measured, limit, SKIPPED, words)
    passed = sign * (measured - limit) >= -1e-12  # a sum of floats must not fail at its very limit
    return Verdict(name, measured, limit, PASS if passed else FAIL, words)
