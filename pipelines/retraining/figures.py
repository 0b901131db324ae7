"""The figures of a new model and the champion: from the evaluation to the gates, the record and the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from model.evaluation.bootstrap import Comparison, SliceComparison
from model.evaluation.metrics import Metrics


@dataclass(frozen=True)
class ModelFigures:
    """What one model does on the held-out documents.

    Attributes:
        fingerprint: of its bundle.
        metrics: over the sentences.
        size_mb: of the bundle's files, in 10^6 bytes.
        speed: sentences per second, on the machine of the run.
    """

    fingerprint: str
    metrics: Metrics
    size_mb: float
    speed: float


@dataclass(frozen=True)
class ChampionFigures(ModelFigures):
    """The same of the champion.

    Attributes:
        version: its number in the registry.
        accuracy_when_published: its accuracy in the run that published it; None if nothing is recorded.
    """

    version: int
    accuracy_when_published: float | None


@dataclass(frozen=True)
class Evaluation:
    """A new model and the champion on the same documents.

    Attributes:
        split: the split that the documents are from.
        documents, sentences: how many there are.
        candidate: the new model.
        champion, comparison: the champion, and by how much the new model is better; None before the first champion.
        slices: both models' accuracy by slice; empty without a champion or a slice pattern.
    """

    split: str
    documents: int
    sentences: int
    candidate: ModelFigures
    champion: ChampionFigures | None
    comparison: Comparison | None
    slices: tuple[SliceComparison, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
