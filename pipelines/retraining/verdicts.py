"""Decision tables: for each check of the data or gate of the model, what was measured, the limit, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

PASS: Final = "pass"
FAIL: Final = "fail"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class Verdict:
    """One row of a table.

    Attributes:
        name: of the check or gate.
        measured, limit: numbers, or None if there are none.
        verdict: `PASS`, `FAIL`, or `SKIPPED` if there is no limit, or no champion to compare with.
        words: an explanation for people.
    """

    name: str
    measured: int | float | None
    limit: int | float | None
    verdict: Literal["pass", "fail", "skipped"]
    words: str


@dataclass(frozen=True)
class Checks:
    """The checks of a run's data.

    Attributes:
        new_documents: labelled documents from files that the champion's run has not read.
        counts: of preprocessing, as in `stats.json`.
        verdicts: one for each check.
    """

    new_documents: int
    counts: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]

    @property
    def failures(self) -> str:
        """The words of the checks that failed; empty if none did."""
        return _failures(self.verdicts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failures": self.failures}


@dataclass(frozen=True)
class Decision:
    """Whether a new model may replace the champion: one verdict for each gate."""

    verdicts: tuple[Verdict, ...]

    @property
    def failures(self) -> str:
        """The words of the gates that failed; empty if none did."""
        return _failures(self.verdicts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failures": self.failures}


def at_least(name: str, measured: float | None, limit: float | None, words: str) -> Verdict:
    """Returns a verdict that passes from `limit` upwards; without limit or measurement it is skipped."""
    return _judge(name, measured, limit, words, sign=1)


def at_most(name: str, measured: float | None, limit: float | None, words: str) -> Verdict:
    """Returns a verdict that passes up to `limit`; without limit or measurement it is skipped."""
    return _judge(name, measured, limit, words, sign=-1)


def _judge(name: str, measured: float | None, limit: float | None, words: str, *, sign: int) -> Verdict:
    if measured is None or limit is None:
        return Verdict(name, measured, limit, SKIPPED, words)
    passed = sign * (measured - limit) >= -1e-12  # a sum of floats must not fail exactly at its limit
    return Verdict(name, measured, limit, PASS if passed else FAIL, words)


def _failures(verdicts: Iterable[Verdict]) -> str:
    return "; ".join(f"{one.name}: {one.words}" for one in verdicts if one.verdict == FAIL)
