"""From an encoder's handle to a Keras layer with pretrained weights; the only file that knows checkpoint formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model.bert import BertConfig, BertEncoder
from model.config import EncoderSettings, Settings
from model.downloads import DOWNLOADS, fetch
from model.errors import UserError
from model.vocabulary import Vocabulary

_ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_CHECKPOINT_FILES = ("config.json", "model.safetensors", "vocab.txt")


def load_vocabulary(settings: EncoderSettings) -> Vocabulary:
    """Returns the encoder's vocabulary and casing.

    Raises:
        UserError: the handle names no encoder, or its vocabulary is not BERT's.
    """
    folder = _resolve(settings.handle)
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer = _read_json(tokenizer_file) if tokenizer_file.exists() else {}
    try:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / 'vocab.txt'}: can't be read as text ({error})") from error
    vocabulary = Vocabulary.from_text(text, lower_case=bool(tokenizer.get("do_lower_case", True)))
    embedded = load_config(settings).vocabulary_size
    if len(vocabulary.pieces) > embedded:
        raise UserError(f"{folder}: vocab.txt has {len(vocabulary.pieces)} wordpieces, config.json only {embedded}")
    return vocabulary


def load_config(settings: EncoderSettings) -> BertConfig:
    """Returns the encoder's shape, with the settings' number of layers and dropout.

    Raises:
        UserError: the handle names no encoder, or one that is not BERT.
    """
    folder = _resolve(settings.handle)
    raw = _read_json(folder / "config.json")
    where = folder / "config.json"
    if raw.get("model_type", "bert") != "bert":
        raise UserError(f"{where}: model_type is {raw['model_type']!r}; sepline reads BERT checkpoints")
    if raw.get("hidden_act") not in _ACTIVATIONS:
        raise UserError(f"{where}: hidden_act is {raw.get('hidden_act')!r}; known: {', '.join(_ACTIVATIONS)}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{where}: position_embedding_type is {raw['position_embedding_type']!r}; known: absolute")
    given = {
        "vocabulary_size": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate_width": "intermediate_size",
        "positions": "max_position_embeddings",
        "segments": "type_vocab_size",
        "layer_norm_epsilon": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    shape = {name: raw[key] for name, key in given.items() if key in raw}
    try:
        config = TypeAdapter(BertConfig).validate_python({**shape, "activation": _ACTIVATIONS[raw["hidden_act"]]})
    except ValidationError as error:
        first = error.errors()[0]
        key = given[str(first["loc"][0])]
        if first["type"] == "missing":
            raise UserError(f"{where}: {key} is missing; give a whole BERT checkpoint folder") from None
        raise UserError(f"{where}: {key} is {first['input']!r}: {first['msg']}") from None
    if config.width % config.heads:
        raise UserError(f"{where}: num_attention_heads is {config.heads}, which does not divide {config.width}")
    if settings.layers is not None:
        if settings.layers > config.layers:
            raise UserError(f"encoder.layers is {settings.layers}, but {settings.handle} has {config.layers} layers")
        config = replace(config, layers=settings.layers)
    if settings.attention_dropout is not None:
        config = replace(config, attention_dropout=settings.attention_dropout)
    return config


def check_budget(settings: Settings) -> None:
    """Checks that the encoder can read the windows that the settings ask for.

    Raises:
        UserError: it can't, or the handle names no encoder.
    """
    positions = load_config(settings.encoder).positions
    if settings.window.max_tokens > positions:
        raise UserError(f"window.max_tokens is {settings.window.max_tokens}, but the encoder reads at most {positions}")


def load_encoder(settings: EncoderSettings) -> BertEncoder:
    """Returns a built encoder with the pretrained weights of its first `settings.layers` layers.

    Raises:
        UserError: the handle names no encoder, or a tensor is missing or has another shape.
    """
    config = load_config(settings)
    encoder = BertEncoder(config, name="encoder")
    encoder.build()
    weights = _resolve(settings.handle) / "model.safetensors"
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as tensors:
            prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors.keys() else ""  # noqa: SIM118  no dict

            def read(name: str) -> np.ndarray:
                return np.asarray(tensors.get_tensor(prefix + name), np.float32)

            _assign_embeddings(encoder, read)
            for index, layer in enumerate(encoder.transformer_layers):
                _assign_layer(layer, f"encoder.layer.{index}", read)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{weights}: not the weights that config.json describes ({error})") from error
    return encoder


def _assign_embeddings(encoder: BertEncoder, read: Callable[[str], np.ndarray]) -> None:
    encoder.word_embeddings.set_weights([read("embeddings.word_embeddings.weight")])
    encoder.position_embeddings.set_weights([read("embeddings.position_embeddings.weight")])
    encoder.segment_embeddings.set_weights([read("embeddings.token_type_embeddings.weight")])
    _assign_norm(encoder.embeddings_norm, "embeddings.LayerNorm", read)


def _assign_layer(layer: Any, prefix: str, read: Callable[[str], np.ndarray]) -> None:
    for dense, name in (
        (layer.query, "attention.self.query"),
        (layer.key, "attention.self.key"),
        (layer.value, "attention.self.value"),
        (layer.attention_output, "attention.output.dense"),
        (layer.intermediate, "intermediate.dense"),
        (layer.output_dense, "output.dense"),
    ):
        # Hugging Face stores kernels as (out, in).
        dense.set_weights([read(f"{prefix}.{name}.weight").T, read(f"{prefix}.{name}.bias")])
    _assign_norm(layer.attention_norm, f"{prefix}.attention.output.LayerNorm", read)
    _assign_norm(layer.output_norm, f"{prefix}.output.LayerNorm", read)


def _assign_norm(norm: Any, name: str, read: Callable[[str], np.ndarray]) -> None:
    norm.set_weights([read(f"{name}.weight"), read(f"{name}.bias")])


def _resolve(handle: str) -> Path:
    if handle in DOWNLOADS and handle != "medline-sample":
        return fetch(handle)
    folder = Path(handle)
    if not folder.is_dir():
        raise UserError(f"encoder.handle is {handle!r}: no such folder; give minilm-l6 or a BERT checkpoint folder")
    missing = [name for name in _CHECKPOINT_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{handle}: {', '.join(missing)} missing; a Hugging Face BERT folder has all three")
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object")
    return content
