"""The settings of a scoring job."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.inference.predictor import DEFAULT_BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class PartFormat:
    """What parts of predictions look like.

    Attributes:
        layout: one of `schema.LAYOUTS`.
        columns: only these columns; all when None.
        text: whether the sentences' text is one of them.
    """

    layout: str = "sentences"
    columns: tuple[str, ...] | None = None
    text: bool = True


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How a collection is scored. The bytes of the predictions depend on all of it.

    The names of the parts hash the names of these fields and of those of `PartFormat`, so renaming one makes every
    folder scored so far another job's.

    Attributes:
        chunk_records: input records a part; it bounds the memory of a worker.
        batch_tokens: padded wordpieces a micro-batch may hold.
        limit: score only the first so many records of each source; all when None.
        sample: the share of the documents to score, by a hash of the document id.
        unlabelled_only: reject documents that carry labels already.
        format: what the parts look like.
    """

    chunk_records: int = 500
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    limit: int | None = None
    sample: float = 1.0
    unlabelled_only: bool = False
    format: PartFormat = field(default_factory=PartFormat)
