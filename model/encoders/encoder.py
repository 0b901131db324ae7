"""An encoder, opened once: what it is, its vocabulary, and Keras layers with its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from model.config import EncoderSettings, WindowSettings
from model.encoders.bert import BertConfig, BertEncoder
from model.encoders.downloads import DOWNLOADS, fetch
from model.encoders.huggingface import HuggingFaceCheckpoint
from model.encoders.tfhub import HubModule, download
from model.encoders.wrapped import WrappedEncoder
from model.errors import UserError
from model.graphs import SAVED_MODEL
from model.text.vocabulary import Vocabulary

_NATIVE_ONLY = ("layers", "frozen_layers", "mix_layers", "attention_dropout")
_SHAPE = ("layers", "width", "heads", "intermediate_width", "positions", "segments", "activation")


@dataclass(frozen=True)
class EncoderDescription:
    """What an encoder is, under the settings that it is used with. None for what a wrapped module does not record.

    Attributes:
        handle: its name in the settings.
        folder: the folder with its files; for downloads, in the cache.
        format: the format of the files.
        kind: `native`, sepline's own BERT with the weights of these files, or `wrapped`, a TF Hub module run unchanged.
        layers, width, heads, intermediate_width, positions, segments, activation: see `BertConfig`.
        vocabulary_size: number of wordpieces.
        lower_case: True for uncased encoders.
        special_ids: the ids of `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and, if there is one, `[MASK]`.
        parameters: number of trainable parameters.
        fingerprint: SHA-256 over the contents of its files.
    """

    handle: str
    folder: Path
    format: Literal["Hugging Face", "TF Hub"]
    kind: Literal["native", "wrapped"]
    layers: int | None
    width: int
    heads: int | None
    intermediate_width: int | None
    positions: int | None
    segments: int | None
    activation: str | None
    vocabulary_size: int
    lower_case: bool
    special_ids: dict[str, int]
    parameters: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {**asdict(self), "folder": str(self.folder)}

    def facts(self) -> dict[str, Any]:
        """Returns what a bundle records: everything but the folder."""
        return {key: value for key, value in self.to_json().items() if key != "folder"}


class EncoderFiles(Protocol):
    """The files of an encoder in one format. A new format is a class like this and a line in `_open_files`.

    Attributes:
        format: its name.
        folder: the folder with the files.
        files: the files that are read.
        config: the shape of the BERT in the files; None for another architecture.
        not_bert: why `config` is None.
        wrap: returns the unchanged module in a built layer; None for a format without modules.
    """

    @property
    def format(self) -> Literal["Hugging Face", "TF Hub"]: ...
    @property
    def folder(self) -> Path: ...
    @property
    def files(self) -> Sequence[Path]: ...
    @property
    def config(self) -> BertConfig | None: ...
    @property
    def not_bert(self) -> str: ...
    @property
    def wrap(self) -> Callable[[], WrappedEncoder] | None: ...
    @property
    def shape(self) -> Mapping[str, Any]: ...
    def vocabulary(self) -> Vocabulary: ...
    def copy_weights(self, encoder: BertEncoder) -> None: ...


@dataclass(frozen=True)
class Encoder:
    """An encoder under the settings that it is used with.

    Attributes:
        settings: which encoder, and how it is used.
        source: its files.
        vocabulary: its wordpieces and casing.
        config: the BERT to build; None if the module is wrapped.
    """

    settings: EncoderSettings
    source: EncoderFiles
    vocabulary: Vocabulary
    config: BertConfig | None

    def describe(self) -> EncoderDescription:
        """Returns a description of the encoder; hashes its weights, but does not load them."""
        known: dict[str, Any] = {name: self._shape.get(name) for name in _SHAPE}
        return EncoderDescription(
            handle=self.settings.handle,
            folder=self.source.folder,
            format=self.source.format,
            kind="wrapped" if self.config is None else "native",
            **known,
            vocabulary_size=len(self.vocabulary.pieces),
            lower_case=self.vocabulary.lower_case,
            special_ids=self.vocabulary.special_ids,
            parameters=self._shape["parameters"],
            fingerprint=_fingerprint(self.source),
        )

    def check_budget(self, window: WindowSettings) -> None:
        """Checks that the encoder can read windows of these settings.

        Raises:
            UserError: it can't.
        """
        positions = self._shape["positions"]
        if positions is not None and window.max_tokens > positions:
            raise UserError(f"window.max_tokens is {window.max_tokens}, but the encoder reads at most {positions}")

    def build(self, *, pretrained: bool = True) -> BertEncoder | WrappedEncoder:
        """Returns a built Keras layer named `encoder`.

        Args:
            pretrained: False to leave the weights random if others will replace them. A wrapped module always has its
                own weights.

        Raises:
            UserError: a tensor is missing or has another shape, or the module can't be loaded.
        """
        if self.config is None:
            assert self.source.wrap is not None
            return self.source.wrap()
        settings = self.settings
        encoder = BertEncoder(
            self.config, mix_layers=settings.mix_layers, frozen_layers=settings.frozen_layers, name="encoder"
        )
        encoder.build()
        if pretrained:
            self.source.copy_weights(encoder)
        return encoder

    @property
    def _shape(self) -> Mapping[str, Any]:
        return _shape(self.source, self.config)


def open_encoder(settings: EncoderSettings) -> Encoder:
    """Returns the encoder that a handle names; downloads it on first use.

    Raises:
        UserError: the handle names no encoder, its vocabulary is not BERT's or has more entries than its embeddings, or
            it does not support the settings.
    """
    source = _open_files(_locate(settings.handle), trusted=settings.trusted)
    config = _choose_config(source, settings)
    vocabulary, embedded = source.vocabulary(), _shape(source, config)["vocabulary_size"]
    if embedded is not None and len(vocabulary.pieces) > embedded:
        raise UserError(
            f"{source.folder}: its vocabulary has {len(vocabulary.pieces)} wordpieces, its embeddings only {embedded}"
        )
    return Encoder(settings, source, vocabulary, config)


def _locate(handle: str) -> Path:
    """Returns the folder of an encoder's files."""
    if handle in DOWNLOADS and DOWNLOADS[handle].is_encoder:
        folder = fetch(handle)
    elif handle.startswith(("https://", "http://")):
        folder = download(handle)
    else:
        folder = Path(handle)
    if not folder.is_dir():
        raise UserError(
            f"encoder.handle is {handle!r}: no such folder; give minilm-l6, a BERT checkpoint folder, or the https:// "
            "address or the folder of a TF Hub text encoder"
        )
    return folder


def _open_files(folder: Path, *, trusted: bool) -> EncoderFiles:
    """Returns the files in a folder, opened by their format."""
    if (folder / SAVED_MODEL).is_file():
        return HubModule.open(folder, trusted=trusted)
    return HuggingFaceCheckpoint.open(folder)


def _choose_config(source: EncoderFiles, settings: EncoderSettings) -> BertConfig | None:
    """Returns the BERT to build under the settings, or None if the module has to be wrapped."""
    config = source.config
    if settings.wrapped and source.wrap is None:
        raise UserError(f"encoder.wrapped is true, but {settings.handle} is not a TF Hub module; leave it out")
    if settings.wrapped or config is None:
        reason = (
            "encoder.wrapped is true" if settings.wrapped else f"this module can only be wrapped: {source.not_bert}"
        )
        for key in _NATIVE_ONLY:
            value = getattr(settings, key)
            if value is not None and value is not False:
                raise UserError(f"encoder.{key} is {value!r}, which only sepline's own BERT can do, but {reason}")
        return None
    if settings.layers is not None:
        if settings.layers > config.layers:
            raise UserError(f"encoder.layers is {settings.layers}, but {settings.handle} has {config.layers} layers")
        config = replace(config, layers=settings.layers)
    if settings.frozen_layers is not None and settings.frozen_layers > config.layers:
        raise UserError(
            f"encoder.frozen_layers is {settings.frozen_layers}, but the encoder has {config.layers} layers"
        )
    if settings.attention_dropout is not None:
        config = replace(config, attention_dropout=settings.attention_dropout)
    return config


def _shape(source: EncoderFiles, config: BertConfig | None) -> Mapping[str, Any]:
    """Returns the known parts of the shape, by the names of `BertConfig`, and the number of `parameters`."""
    return source.shape if config is None else {**asdict(config), "parameters": config.parameters}


def _fingerprint(source: EncoderFiles) -> str:
    lines = []
    for file in source.files:
        with open(file, "rb") as stream:
            lines.append(f"{file.relative_to(source.folder)} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
