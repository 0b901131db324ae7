"""Typed settings of every step, loaded from YAML and checked before anything runs.

One settings file serves all verbs; each verb reads the sections it needs. An unknown key, or a value of the wrong type
or out of range, is a `UserError` that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.errors import UserError


class Section(BaseModel):
    """A section of the settings: refuses unknown keys, checks values, and can't be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EncoderSettings(Section):
    """Which encoder reads the windows.

    Attributes:
        handle: `minilm-l6` (downloaded once into the user's cache), a folder with a Hugging Face BERT checkpoint
            (`config.json`, `model.safetensors`, `vocab.txt`), or a TF Hub text encoder: its address, or the folder of
            its SavedModel.
        wrapped: True to run a TF Hub encoder unchanged, even if it is a BERT whose weights could be read into sepline's
            own encoder. The settings below need sepline's own encoder.
        layers: how many of its layers to keep, counted from the input; default: all of them.
        frozen_layers: how many layers, counted from the input, are not trained, and neither are the embeddings; 0
            freezes only the embeddings. By default everything is trained.
        mix_layers: True to classify a learned mixture of the states of all layers, embeddings included, instead of the
            last layer's states.
        attention_dropout: dropout on the attention weights; default: the checkpoint's own rate.
        trusted: True to run a TF Hub encoder although its graph can do more than compute, such as read and write files;
            in retraining also the models that were trained on it. No part of what identifies a run.
    """

    handle: str = "minilm-l6"
    wrapped: bool = False
    layers: int | None = Field(default=None, ge=1)
    frozen_layers: int | None = Field(default=None, ge=0)
    mix_layers: bool = False
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    trusted: bool = False


class WindowSettings(Section):
    """How documents are cut into windows.

    Attributes:
        max_tokens: the most wordpieces in a window, `[CLS]` and `[SEP]`s included; at most the encoder's positions.
        context: neighbouring sentences shown on either side of a window's own sentences, if a document has several
            windows. They are part of the budget: many long sentences of context leave little room for its own.
        segment_ids: `zeros`, as in the paper's code, or `alternating` by sentence.
    """

    max_tokens: int = Field(default=512, ge=8)
    context: int = Field(default=2, ge=0)
    segment_ids: Literal["zeros", "alternating"] = "zeros"


class DataSettings(Section):
    """How labelled documents become training records.

    Attributes:
        splits: the share of the documents in each split, decided by a hash of the document id, or of the text where
            many documents share their ids; the shares sum to 1.
        target: what a model learns for each sentence: `labels`, or `scores` (regression).
        labels: the labels in the model's order; default: those of the train split, the most frequent first.
        revisions: `latest` to use only the last record with the same id, by file name and then by position in the file,
            and to apply the deletions listed in MEDLINE's update files; `keep` to use all records.
        features: how many additional numbers come with each sentence; a document with another count is rejected.
        mask_outliers: True to read sentences of at most 10 or at least 600 characters as one placeholder word, and to
            give them the score 0, as the paper's code does for summarization.
        sample: the share of the documents to use, decided like the split, for a first look.
        part_records: how many input records go into one part; it bounds the memory of a worker.
        buckets: how many length buckets to make from the quantiles of the train documents' lengths, for training with
            XLA; without it, training fits buckets of its own.
    """

    splits: dict[Literal["train", "dev", "test"], float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
    target: Literal["labels", "scores"] = "labels"
    labels: tuple[str, ...] | None = None
    revisions: Literal["keep", "latest"] = "keep"
    features: int = Field(default=0, ge=0)
    mask_outliers: bool = False
    sample: float = Field(default=1.0, gt=0, le=1)
    part_records: int = Field(default=2000, ge=1)
    buckets: int = Field(default=8, ge=2)

    @field_validator("splits")
    @classmethod
    def _shares_sum_to_one(cls, splits: dict[str, float]) -> dict[str, float]:
        if "train" not in splits or min(splits.values()) <= 0 or abs(sum(splits.values()) - 1) > 1e-9:
            raise ValueError("give `train` and optionally `dev` and `test` a positive share each, 1.0 in all")
        return splits


class SentenceAttentionSettings(Section):
    """The self-attention stack over a document's sentences, for the `cls` head; defaults are the paper's sizes.

    Attributes:
        layers: number of layers.
        width: of the resulting sentence states.
        feedforward_width: of the layer inside each feed-forward part.
        heads: number of attention heads; must divide the width.
        dropout: on the output of each part.
    """

    layers: int = Field(default=2, ge=1)
    width: int = Field(default=100, ge=1)
    feedforward_width: int = Field(default=50, ge=1)
    heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SentenceAttentionSettings:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width {self.width}")
        return self


class ModelSettings(Section):
    """The classifier on top of the encoder.

    Attributes:
        head: what represents a sentence: `sep`, the state of its `[SEP]` with all sentences read together (the paper's
            model), or `cls`, the `[CLS]` state of the sentence read alone, followed by a self-attention stack over the
            document's sentences (the paper's baseline).
        crf: True for a linear-chain conditional random field over the labels of neighbouring sentences.
        dropout: dropout on the sentences' states before the last layer.
        sentence_attention: the stack of the `cls` head.
    """

    head: Literal["sep", "cls"] = "sep"
    crf: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    sentence_attention: SentenceAttentionSettings = SentenceAttentionSettings()


class TrainingSettings(Section):
    """How the classifier is fine-tuned.

    Attributes:
        epochs: passes over the train split.
        patience: stop after this many epochs without improvement on dev; default: never.
        batch_tokens: the most padded wordpieces in a batch, over all devices; it bounds the memory of a step.
        accumulate: number of batches in one step, which has the effect of one large batch.
        learning_rate: the peak of the slanted triangle.
        warmup: the share of all steps in which the rate rises.
        weight_decay: AdamW's; not applied to biases and normalizations.
        clip_norm: the global norm to which gradients are clipped.
        class_weights: how much each label counts in the loss: a weight by label (1 for labels that are not named), or
            `balanced` for weights inverse to the labels' frequencies; default: all the same.
        precision: `float32`, `bfloat16` (computation only; weights stay float32), or `auto`: bfloat16 on GPUs that
            have it.
        xla: True to compile steps with XLA, for a single device; batches are then padded to few shapes. Not with
            `model.crf` or `model.head: cls`.
        warm_start: a bundle (or registry folder) with whose weights to begin. Its encoder must have the same shape; the
            weights of labels that both models have are taken over.
        seed: of weights, shuffling and dropout.
        checkpoint_seconds: how often to save a checkpoint; a killed training resumes from the last one.
    """

    epochs: int = Field(default=3, ge=1)
    patience: int | None = Field(default=None, ge=1)
    batch_tokens: int = Field(default=8192, ge=8)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.1, gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    xla: bool = False
    warm_start: str | None = None
    seed: int = Field(default=1, ge=0)
    checkpoint_seconds: float = Field(default=120, ge=0)

    @field_validator("class_weights")
    @classmethod
    def _weights_are_positive(cls, weights: str | dict[str, float] | None) -> str | dict[str, float] | None:
        if isinstance(weights, dict) and (not weights or min(weights.values()) <= 0):
            raise ValueError("give each label that is named a positive weight")
        return weights


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
        UserError: the file is missing or not a YAML mapping, or a key or value is not allowed.
    """
    return load_settings_as(Settings, path, overrides)


def load_settings_as(kind: type[S], path: str | None, overrides: Sequence[str]) -> S:
    """Returns settings like `load_settings`, as a subclass of `Settings` that has more sections.

    Raises:
        UserError: the file is missing or not a YAML mapping, or a key or value is not allowed.
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
    """Returns checked settings; `origin` says in error messages where they come from.

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
    return {section: {} if keys is None else keys for section, keys in tree.items()}  # a section may be empty
