"""From an encoder's handle to a Keras layer with pretrained weights, and to what the encoder is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from model.config import EncoderSettings, Settings
from model.encoders.bert import BertConfig, BertEncoder
from model.encoders.downloads import DOWNLOADS, fetch
from model.encoders.huggingface import HuggingFaceCheckpoint
from model.encoders.tfhub import SAVED_MODEL, HubModule, download
from model.encoders.wrapped import WrappedEncoder
from model.errors import UserError
from model.text.vocabulary import Vocabulary

_NATIVE_ONLY = ("layers", "frozen_layers", "mix_layers", "attention_dropout")
_SHAPE = ("layers", "width", "heads", "intermediate_width", "positions", "segments", "activation")
_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EncoderDescription:
    """What an encoder is, under the settings that it is used with. None stands for what a wrapped module doesn't say.

    Attributes:
        handle: as the settings name it.
        folder: where its files lie, in the cache for downloads.
        format: what the files are.
        kind: `native`, sepline's own BERT with the weights of these files, or `wrapped`, a TF Hub module run as it is.
        layers, width, heads, intermediate_width, positions, segments, activation: see `BertConfig`.
        vocabulary_size: wordpieces.
        lower_case: True for uncased encoders.
        special_ids: the ids of `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and, where there is one, `[MASK]`.
        parameters: how many numbers it learns.
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
        """Returns what a bundle keeps: all of it but where the files lay."""
        return {key: value for key, value in self.to_json().items() if key != "folder"}


def load_vocabulary(settings: EncoderSettings) -> Vocabulary:
    """Returns the encoder's vocabulary and casing.

    Raises:
        UserError: the handle names no encoder, or its vocabulary is not BERT's.
    """
    source = _open(settings.handle)
    vocabulary, embedded = source.vocabulary(), _shape(source, settings).vocabulary_size
    if embedded is not None and len(vocabulary.pieces) > embedded:
        raise UserError(
            f"{source.folder}: its vocabulary has {len(vocabulary.pieces)} wordpieces, its embeddings only {embedded}"
        )
    return vocabulary


def check_budget(settings: Settings) -> None:
    """Checks that the encoder can read the windows that the settings ask for.

    Raises:
        UserError: it can't, or the handle names no encoder.
    """
    positions = _shape(_open(settings.encoder.handle), settings.encoder).positions
    if positions is not None and settings.window.max_tokens > positions:
        raise UserError(f"window.max_tokens is {settings.window.max_tokens}, but the encoder reads at most {positions}")


def load_encoder(settings: EncoderSettings) -> BertEncoder | WrappedEncoder:
    """Returns a built encoder with pretrained weights, named `encoder`.

    Raises:
        UserError: the handle names no encoder, a tensor is missing or has another shape, or the settings ask for what
            the encoder can't do.
    """
    source = _open(settings.handle)
    shape = _shape(source, settings)
    if isinstance(shape, HubModule):
        return _wrap(shape)
    encoder = BertEncoder(shape, mix_layers=settings.mix_layers, frozen_layers=settings.frozen_layers, name="encoder")
    encoder.build()
    if isinstance(source, HubModule):
        _copy_from_hub(encoder, source)
    else:
        with source.weights() as read:
            for name, variable in encoder.pretrained_weights.items():
                variable.assign(read(name, tuple(variable.shape)))
    return encoder


def describe_encoder(settings: EncoderSettings) -> EncoderDescription:
    """Returns what an encoder is, without loading its weights.

    Raises:
        UserError: as `load_encoder` and `load_vocabulary`, where it can be told without the weights.
    """
    source = _open(settings.handle)
    shape, vocabulary = _shape(source, settings), load_vocabulary(settings)
    known: dict[str, Any] = {name: getattr(shape, name, None) for name in _SHAPE}
    return EncoderDescription(
        handle=settings.handle,
        folder=source.folder,
        format="TF Hub" if isinstance(source, HubModule) else "Hugging Face",
        kind="wrapped" if isinstance(shape, HubModule) else "native",
        **known,
        vocabulary_size=len(vocabulary.pieces),
        lower_case=vocabulary.lower_case,
        special_ids=vocabulary.special_ids,
        parameters=shape.parameters,
        fingerprint=_fingerprint(source),
    )


def _open(handle: str) -> HuggingFaceCheckpoint | HubModule:
    if handle in DOWNLOADS and handle != "medline-sample":
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
    return HubModule.open(folder) if (folder / SAVED_MODEL).is_file() else HuggingFaceCheckpoint.open(folder)


def _shape(source: HuggingFaceCheckpoint | HubModule, settings: EncoderSettings) -> BertConfig | HubModule:
    """Returns the BERT to build under the settings, or the module to wrap."""
    if isinstance(source, HubModule) and (settings.wrapped or source.config is None):
        reason = (
            "encoder.wrapped is true" if settings.wrapped else f"this module can only be wrapped: {source.not_bert}"
        )
        for key in _NATIVE_ONLY:
            value = getattr(settings, key)
            if value is not None and value is not False:
                raise UserError(f"encoder.{key} is {value!r}, which only sepline's own BERT can do, but {reason}")
        return source
    if settings.wrapped:
        raise UserError(f"encoder.wrapped is true, but {settings.handle} is no TF Hub module; leave it out")
    config = source.config
    assert config is not None
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


def _wrap(module: HubModule) -> WrappedEncoder:
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        # Functions out of a SavedModel give the replicas gradients of different variables.
        raise UserError(
            f"{module.folder}: a wrapped encoder trains on one device; show one, with CUDA_VISIBLE_DEVICES=0"
        )
    encoder = WrappedEncoder(module, name="encoder")
    encoder.build()
    return encoder


def _copy_from_hub(encoder: BertEncoder, module: HubModule) -> None:
    """Fills an encoder from a module, having checked that sepline's BERT computes what the module does.

    Names and shapes of variables don't say how a module uses them, so both read a few tokens.
    """
    assert module.config is not None
    teacher, whole = WrappedEncoder(module, name="module"), BertEncoder(module.config, dtype="float32", name="whole")
    teacher.build()
    whole.build()
    for name, variable in whole.pretrained_weights.items():
        variable.assign(np.reshape(teacher.named_weights[module.variable_name(name)], variable.shape))
    draw = np.random.default_rng(0)
    shape = (2, min(16, module.config.positions))
    mask = np.ones(shape, np.int32)
    mask[1, shape[1] // 2 :] = 0
    probe = (draw.integers(0, module.config.vocabulary_size, shape), draw.integers(0, module.config.segments, shape))
    inputs = [keras.ops.convert_to_tensor(array, "int32") for array in (*probe, mask)]
    states = [_call_once(layer, inputs)[mask == 1] for layer in (teacher, whole)]
    if not np.abs(states[0] - states[1]).max() < _PROBE_TOLERANCE:
        raise UserError(
            f"{module.folder}: its variables are BERT's, but not what it computes with them; set encoder.wrapped=true"
        )
    for name, variable in encoder.pretrained_weights.items():
        variable.assign(whole.pretrained_weights[name])


def _call_once(layer: keras.layers.Layer, inputs: list[Any]) -> np.ndarray:
    """Returns what a layer computes in full precision, also where it was made for several devices."""
    import tensorflow as tf

    strategy, short = tf.distribute.get_strategy(), tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # GPUs would round each product to ten bits
    try:
        outputs = strategy.run(lambda: layer(*inputs, training=False))
        return np.asarray(strategy.experimental_local_results(outputs)[0])
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(short)


def _fingerprint(source: HuggingFaceCheckpoint | HubModule) -> str:
    lines = []
    for file in source.files:
        with open(file, "rb") as stream:
            lines.append(f"{file.relative_to(source.folder)} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
