"""Typed settings of every step, loaded from YAML and checked before anything runs.

One settings file serves all verbs; each verb reads the sections that concern it. An unknown key, a value of the wrong
type or out of range is a `UserError` that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from model.errors import UserError


class Section(BaseModel):
    """A mapping of settings: unknown keys are refused, values are checked, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EncoderSettings(Section):
    """Which encoder reads the windows.

    Attributes:
        handle: `minilm-l6` (downloaded once into the user's cache) or a folder with a Hugging Face BERT checkpoint
            (`config.json`, `model.safetensors`, `vocab.txt`).
        layers: how many of its layers to keep, counted from the input; all of them when absent.
        attention_dropout: dropout on the attention weights; the checkpoint's own rate when absent.
    """

    handle: str = "minilm-l6"
    layers: int | None = Field(default=None, ge=1)
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)


class WindowSettings(Section):
    """How documents are cut into windows.

    Attributes:
        max_tokens: wordpieces a window may hold, `[CLS]` and `[SEP]`s included; at most the encoder's positions.
        context: neighbouring sentences shown on either side of a window's own, where a document needs several. It takes
            room from the budget: many long sentences of context leave little for the window's own.
        segment_ids: `zeros`, as in the paper's code, or `alternating` by sentence.
    """

    max_tokens: int = Field(default=512, ge=8)
    context: int = Field(default=2, ge=0)
    segment_ids: Literal["zeros", "alternating"] = "zeros"


class DataSettings(Section):
    """How labelled documents become training records.

    Attributes:
        splits: the share of the documents that each split gets, by a hash of the document id; the shares sum to 1.
        labels: the labels in the order that the model will know them; from the train split, the most frequent first,
            when absent.
        revisions: `latest` to take a record's latest version where its id appears again, in a file later by name or
            later in the same file, and to honour the deletions that MEDLINE's update files list; `keep` to take all.
        sample: the share of the documents to keep, by a hash of the document id, for a first look.
        part_records: how many input records go into one part; it bounds the memory of a worker.
        buckets: how many length buckets the quantiles of the train documents' lengths make.
    """

    splits: dict[Literal["train", "dev", "test"], float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
    labels: tuple[str, ...] | None = None
    revisions: Literal["keep", "latest"] = "keep"
    sample: float = Field(default=1.0, gt=0, le=1)
    part_records: int = Field(default=2000, ge=1)
    buckets: int = Field(default=8, ge=2)

    @field_validator("splits")
    @classmethod
    def _shares_sum_to_one(cls, splits: dict[str, float]) -> dict[str, float]:
        if "train" not in splits or min(splits.values()) <= 0 or abs(sum(splits.values()) - 1) > 1e-9:
            raise ValueError("give `train` and optionally `dev` and `test` a positive share each, 1.0 in all")
        return splits


class ModelSettings(Section):
    """The classifier on top of the encoder.

    Attributes:
        dropout: dropout on the `[SEP]` states before the linear layer.
    """

    dropout: float = Field(default=0.1, ge=0, lt=1)


class TrainingSettings(Section):
    """How the classifier is fine-tuned.

    Attributes:
        epochs: passes over the train split.
        batch_tokens: padded wordpieces a batch may hold; it is what bounds the memory of a step.
        learning_rate: the top of the slanted triangle.
        warmup: the share of all steps in which the rate climbs.
        weight_decay: AdamW's; biases and normalizations are spared.
        clip_norm: the global norm to which gradients are clipped.
        warm_start: a bundle (or registry folder) whose weights to begin with. Its encoder must have the same shape; of
            its last layer, the labels that both know are taken over.
        seed: of weights, shuffling and dropout.
        checkpoint_seconds: how often a running training saves itself; a killed one goes on from the last save.
    """

    epochs: int = Field(default=3, ge=1)
    batch_tokens: int = Field(default=8192, ge=8)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.1, gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warm_start: str | None = None
    seed: int = Field(default=1, ge=0)
    checkpoint_seconds: float = Field(default=120, ge=0)


class Settings(Section):
    """All sections; see each for its keys."""

    encoder: EncoderSettings = EncoderSettings()
    window: WindowSettings = WindowSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


S = TypeVar("S", bound=Settings)


def load_settings(path: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Returns the settings of a YAML file, with `SECTION.KEY=VALUE` overrides applied on top.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key or value is not allowed.
    """
    return load_settings_as(Settings, path, overrides)


def load_settings_as(kind: type[S], path: str | None, overrides: Sequence[str]) -> S:
    """Returns settings with more sections than every verb has, as `load_settings` does.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key or value is not allowed.
    """
    tree: dict[str, Any] = _read_yaml(path) if path else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and section and dot and name):
            raise UserError(f"--set {override}: write SECTION.KEY=VALUE, for example training.epochs=2")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {override}: {value!r} is not a YAML value") from error
        branch = tree.setdefault(section, {})
        if not isinstance(branch, dict):
            raise UserError(f"{path}: {section} is {branch!r}; give a mapping of settings")
        branch[name] = parsed
    return _checked(kind, tree, origin=path or "--set")


def settings_from_dict(tree: Mapping[str, Any], *, origin: str) -> Settings:
    """Returns checked settings; `origin` names where they come from in the error.

    Raises:
        UserError: a key or value is not allowed.
    """
    return _checked(Settings, tree, origin=origin)


def _checked(kind: type[S], tree: Mapping[str, Any], *, origin: str) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(kind, first["loc"]))
            raise UserError(f"{origin}: there is no setting {key}; known here: {known}") from None
        if first["type"] == "missing":
            raise UserError(f"{origin}: {key} is missing; give it a value") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{origin}: {key} is {first['input']!r}: {message}") from None


def _known_keys(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    section: Any = kind
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the settings file can't be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds a {type(tree).__name__}; give a mapping with sections such as `training:`")
    return {section: {} if keys is None else keys for section, keys in tree.items()}  # a section may stand empty
