"""Typed settings of every step, loaded from YAML and checked before anything runs.

One settings file serves all verbs; each verb reads the sections that concern it. An unknown key, a value of the wrong
type or out of range is a `UserError` that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.errors import UserError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EncoderSettings(_Section):
    """Which encoder reads the windows.

    Attributes:
        handle: `minilm-l6` (downloaded once into the user's cache), a folder with a Hugging Face BERT checkpoint
            (`config.json`, `model.safetensors`, `vocab.txt`), or a TF Hub text encoder: its address, or the folder of
            its SavedModel.
        wrapped: True to run a TF Hub encoder as the module it is, even where its weights are BERT's and could be read
            into sepline's own encoder. The settings below need the latter.
        layers: how many of its layers to keep, counted from the input; all of them when absent.
        frozen_layers: how many layers, counted from the input, stay as they are in training, and the embeddings with
            them; 0 keeps the embeddings alone, and everything is trained when absent.
        mix_layers: True to classify a learned mixture of the states of all layers, embeddings included, rather than the
            last layer's.
        attention_dropout: dropout on the attention weights; the checkpoint's own rate when absent.
    """

    handle: str = "minilm-l6"
    wrapped: bool = False
    layers: int | None = Field(default=None, ge=1)
    frozen_layers: int | None = Field(default=None, ge=0)
    mix_layers: bool = False
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)


class WindowSettings(_Section):
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


class DataSettings(_Section):
    """How labelled documents become training records.

    Attributes:
        splits: the share of the documents that each split gets, by a hash of the document id; the shares sum to 1.
        target: what a model learns of each sentence: `labels`, or `scores` (regression).
        labels: the labels in the order that the model will know them; from the train split, the most frequent first,
            when absent.
        features: how many additional numbers come with each sentence; a document with another count is rejected.
        mask_outliers: True to read sentences of at most 10 or at least 600 characters as one placeholder word, and to
            give them the score 0, as the paper's code does for summarization.
        sample: the share of the documents to keep, by a hash of the document id, for a first look.
        part_records: how many input records go into one part; it bounds the memory of a worker.
        buckets: how many length buckets the quantiles of the train documents' lengths make.
    """

    splits: dict[Literal["train", "dev", "test"], float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
    target: Literal["labels", "scores"] = "labels"
    labels: tuple[str, ...] | None = None
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


class SentenceAttentionSettings(_Section):
    """The self-attention stack over the sentences of a document, for the `cls` head; the paper's sizes.

    Attributes:
        layers: how many.
        width: of the sentence states that come out.
        feedforward_width: of the layer inside each feed-forward part.
        heads: attention heads; they divide the width.
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


class ModelSettings(_Section):
    """The classifier on top of the encoder.

    Attributes:
        head: what stands for a sentence: `sep`, the state of its `[SEP]` with all sentences read together (the paper's
            model), or `cls`, the `[CLS]` state of the sentence read alone and then a self-attention stack over the
            document's sentences (the paper's baseline).
        crf: True for a linear-chain conditional random field over the labels of neighbouring sentences.
        dropout: dropout on the sentences' states before the last layer.
        sentence_attention: the stack of the `cls` head.
    """

    head: Literal["sep", "cls"] = "sep"
    crf: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    sentence_attention: SentenceAttentionSettings = SentenceAttentionSettings()


class TrainingSettings(_Section):
    """How the classifier is fine-tuned.

    Attributes:
        epochs: passes over the train split.
        patience: stop after so many epochs without a better one on dev; never when absent.
        batch_tokens: padded wordpieces a batch may hold, over all devices; it is what bounds the memory of a step.
        accumulate: batches that make one step, as if they were one.
        learning_rate: the top of the slanted triangle.
        warmup: the share of all steps in which the rate climbs.
        weight_decay: AdamW's; biases and normalizations are spared.
        clip_norm: the global norm to which gradients are clipped.
        class_weights: how much each label counts in the loss: a weight by label (1 where a label is not named), or
            `balanced` for weights inverse to the labels' frequencies; all alike when absent.
        precision: `float32`, `bfloat16` (computation only; weights stay float32), or `auto`: bfloat16 on GPUs that
            have it.
        xla: True to compile steps with XLA, for a single device; batches are then padded to few shapes.
        warm_start: a bundle (or registry folder) whose weights to begin with. Its encoder must have the same shape; of
            its last layer, the labels that both know are taken over.
        seed: of weights, shuffling and dropout.
        checkpoint_seconds: how often a running training saves itself; a killed one goes on from the last save.
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


class Settings(_Section):
    """All sections; see each for its keys."""

    encoder: EncoderSettings = EncoderSettings()
    window: WindowSettings = WindowSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


def load_settings(path: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Returns the settings of a YAML file, with `SECTION.KEY=VALUE` overrides applied on top.

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
    return settings_from_dict(tree, origin=path or "--set")


def settings_from_dict(tree: Mapping[str, Any], *, origin: str) -> Settings:
    """Returns checked settings; `origin` names where they come from in the error.

    Raises:
        UserError: a key or value is not allowed.
    """
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(first["loc"]))
            raise UserError(f"{origin}: there is no setting {key}; known here: {known}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{origin}: {key} is {first['input']!r}: {message}") from None


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Settings
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
