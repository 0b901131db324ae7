"""Checks that settings and training records fit together, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from model.bundles.training_data import TrainingData
from model.config import Settings
from model.errors import UserError
from model.text.vocabulary import Vocabulary


def settle(settings: Settings, data: TrainingData) -> Settings:
    """Returns the settings completed by those of preprocessing.

    Raises:
        UserError: a setting contradicts what preprocessing has decided.
    """
    made_with = data.settings
    for section in ("window", "data"):
        given = getattr(settings, section)
        for key in given.model_fields_set:
            there = getattr(getattr(made_with, section), key)
            if getattr(given, key) != there:
                raise UserError(
                    f"{section}.{key} is {getattr(given, key)!r}, but {data.path} was made with {there!r}; "
                    "preprocess again with this setting or leave it out"
                )
    encoder = settings.encoder
    if "handle" not in encoder.model_fields_set:
        encoder = encoder.model_copy(update={"handle": made_with.encoder.handle})
    return settings.model_copy(update={"window": made_with.window, "data": made_with.data, "encoder": encoder})


def check_records(
    settings: Settings, folders: Sequence[TrainingData], shares: Sequence[float] | None, vocabulary: Vocabulary
) -> None:
    """Checks that the records can be trained on together with these settings.

    Raises:
        UserError: they can't.
    """
    first = folders[0]
    if shares is not None and (len(shares) != len(folders) or min(shares) <= 0):
        raise UserError(f"give each of the {len(folders)} folders of records a positive share; got {list(shares)}")
    if settings.model.crf and not first.labels:
        raise UserError("model.crf is true, but data.target is scores; a CRF needs labels")
    if settings.training.xla and (settings.model.crf or settings.model.head == "cls"):
        variant = "model.crf is true" if settings.model.crf else "model.head is cls"
        raise UserError(f"training.xla is true and {variant}, which XLA can't compile once for all; leave xla out")
    for data in folders:
        if vocabulary.fingerprint != data.vocabulary_fingerprint:
            raise UserError(
                f"encoder.handle is {settings.encoder.handle!r}, but {data.path} was made with the vocabulary of "
                f"{data.settings.encoder.handle!r}; preprocess again with this encoder"
            )
        if not data.window_lengths.get("train"):
            raise UserError(f"{data.path}: the train split is empty; preprocess more labelled documents")
        if bool(data.labels) != bool(first.labels) or data.settings.window != first.settings.window:
            raise UserError(f"{data.path}: its target or windows are not those of {first.path}; preprocess both alike")
        if data is not first and (data.features or first.features):
            raise UserError(f"{data.path}: features are standardized by folder; preprocess the corpora together")
