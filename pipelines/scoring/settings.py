"""The settings of a scoring job, and what its workers need besides the input."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.bundles.bundle import Bundle
from model.inference.kinds import TENSORFLOW, PredictorChoice
from model.inference.predictor import DEFAULT_BATCH_TOKENS
from pipelines.corpora.options import ReadOptions


@dataclass(frozen=True, slots=True)
class PartFormat:
    """The format of parts of predictions.

    Attributes:
        layout: one of `schema.LAYOUTS`.
        columns: only these columns; None for all.
        text: True to include the sentences' text.
    """

    layout: str = "sentences"
    columns: tuple[str, ...] | None = None
    text: bool = True


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How a collection is scored. The bytes of the predictions depend on all of these settings.

    The names of the parts contain a hash of the names of these fields and of those of `PartFormat`: renaming a field
    makes all existing scored folders look like another job's.

    Attributes:
        chunk_records: input records per part; it bounds the memory of a worker.
        batch_tokens: the most padded wordpieces in a micro-batch.
        limit: score only this many records of each source, from the first on; None for all.
        sample: the share of the documents to score, chosen by a hash of the document id.
        unlabelled_only: reject documents that have labels already.
        format: of the parts.
    """

    chunk_records: int = 500
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    limit: int | None = None
    sample: float = 1.0
    unlabelled_only: bool = False
    format: PartFormat = field(default_factory=PartFormat)


@dataclass(frozen=True)
class ScoringContext:
    """Everything that a worker needs to score chunks; it is sent to the workers.

    Attributes:
        bundle: the trained model.
        folder: where the parts go.
        settings: chunks, batches and the like.
        options: how the inputs are read.
        predictor: what runs the model.
    """

    bundle: Bundle
    folder: str
    settings: ScoreSettings
    options: ReadOptions
    predictor: PredictorChoice = TENSORFLOW
