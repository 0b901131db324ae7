"""Hugging Face BERT checkpoints: `config.json`, `vocab.txt`, and safetensors in one file or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model.encoders.bert import BertConfig, BertEncoder
from model.errors import UserError
from model.text.vocabulary import Vocabulary

_CONFIG, _VOCABULARY, _TOKENIZER = "config.json", "vocab.txt", "tokenizer_config.json"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_CONVERT = (
    'convert it where PyTorch is installed: python -c "from transformers import AutoModel; '
    "AutoModel.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)\""
)
_ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_SHAPE_KEYS = {
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
_SUBLAYERS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_EMBEDDINGS = {
    "word_embeddings": "embeddings.word_embeddings",
    "position_embeddings": "embeddings.position_embeddings",
    "segment_embeddings": "embeddings.token_type_embeddings",
    "embeddings_norm": "embeddings.LayerNorm",
}
_TENSORS = {"embeddings": ("weight",), "kernel": ("weight",), "gamma": ("weight", "gamma"), "beta": ("bias", "beta")}


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A folder that was written by Hugging Face's transformers.

    Attributes:
        folder: its path.
        config: the shape in its `config.json`.
        weight_files: the files with its tensors.
    """

    format: ClassVar[Literal["Hugging Face"]] = "Hugging Face"
    not_bert: ClassVar[str] = ""
    wrap: ClassVar[None] = None
    shape: ClassVar[Mapping[str, Any]] = {}  # `config` has it

    folder: Path
    config: BertConfig
    weight_files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> HuggingFaceCheckpoint:
        """Returns the checkpoint in a folder.

        Raises:
            UserError: a file is missing, or the configuration is not BERT's.
        """
        names = [name for name in (_CONFIG, _VOCABULARY) if not (folder / name).is_file()]
        if not any((folder / name).is_file() for name in (_WEIGHTS, _WEIGHTS_INDEX)):
            if not names and (folder / "pytorch_model.bin").is_file():
                raise UserError(f"{folder}: sepline reads no pytorch_model.bin; {_CONVERT.format(folder=folder)}")
            names.insert(1, _WEIGHTS)
        if names:
            raise UserError(
                f"{folder}: {', '.join(names)} missing; give a whole Hugging Face BERT folder ({_CONFIG}, {_WEIGHTS}, "
                f"{_VOCABULARY}) or a TF Hub SavedModel"
            )
        return cls(folder=folder, config=_read_config(folder / _CONFIG), weight_files=_find_weights(folder))

    def vocabulary(self) -> Vocabulary:
        """Returns its vocabulary and casing.

        If no `tokenizer_config.json` states the casing, as in SciBERT's folders, it is inferred from the wordpieces.

        Raises:
            UserError: it can't be read, is not BERT's, or belongs to a tokenization that sepline does not support.
        """
        path = self.folder / _TOKENIZER
        settings = _read_json(path) if path.is_file() else {}
        for key, known in (("do_lower_case", (None, True, False)), ("tokenize_chinese_chars", (None, True))):
            if settings.get(key) not in known:
                raise UserError(f"{path}: {key} is {settings[key]!r}; sepline knows {', '.join(map(repr, known[1:]))}")
        vocabulary = read_vocabulary(self.folder / _VOCABULARY, lower_case=settings.get("do_lower_case"))
        if settings.get("strip_accents") not in (None, vocabulary.lower_case):
            raise UserError(
                f"{path}: strip_accents is {settings['strip_accents']!r}, but do_lower_case is "
                f"{vocabulary.lower_case}; sepline reads encoders that have both or neither"
            )
        return vocabulary

    def copy_weights(self, encoder: BertEncoder) -> None:
        """Copies the checkpoint's weights into an encoder.

        Raises:
            UserError: as in `weights`.
        """
        with self.weights() as read:
            for name, variable in encoder.pretrained_weights.items():
                variable.assign(read(name, tuple(variable.shape)))

    @contextmanager
    def weights(self) -> Iterator[Callable[[str, tuple[int, ...]], np.ndarray]]:
        """Yields a function that returns a tensor by its name in `BertEncoder.pretrained_weights` and its shape.

        Raises:
            UserError: a tensor is missing or has another shape, or a file is not safetensors; also from within the
                `with` block.
        """
        from safetensors import SafetensorError, safe_open

        with ExitStack() as stack:
            current = self.weight_files[0]
            try:
                files = {}
                for current in self.weight_files:
                    tensors = stack.enter_context(safe_open(current, framework="numpy"))
                    files.update(dict.fromkeys(tensors.keys(), tensors))
                prefix = "bert." if "bert.embeddings.word_embeddings.weight" in files else ""

                def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
                    candidates = [f"{prefix}{candidate}" for candidate in tensor_names(name)]
                    stored = next((candidate for candidate in candidates if candidate in files), candidates[0])
                    if stored not in files:
                        raise ValueError(f"there is no tensor {stored}")
                    tensor = np.asarray(files[stored].get_tensor(stored), np.float32)
                    tensor = tensor.T if name.endswith("/kernel") else tensor  # stored as (out, in)
                    if tensor.shape != shape:
                        raise ValueError(f"{stored} is for {name} of shape {tensor.shape}, not {shape}")
                    return tensor

                yield read
            except (SafetensorError, ValueError) as error:
                raise UserError(f"{current}: not the weights that {_CONFIG} describes ({error})") from error

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        return [path for name in (_CONFIG, _TOKENIZER, _VOCABULARY) if (path := self.folder / name).is_file()] + [
            *self.weight_files
        ]


def read_vocabulary(path: Path, *, lower_case: bool | None) -> Vocabulary:
    """Returns the vocabulary of a file with one wordpiece per line.

    Raises:
        UserError: it can't be read, or a special token is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as text ({error})") from error
    return Vocabulary.from_text(text, lower_case=lower_case)


def _read_config(path: Path) -> BertConfig:
    raw = _read_json(path)
    if raw.get("model_type", "bert") != "bert":
        raise UserError(f"{path}: model_type is {raw['model_type']!r}; sepline reads BERT checkpoints")
    if raw.get("hidden_act") not in _ACTIVATIONS:
        raise UserError(f"{path}: hidden_act is {raw.get('hidden_act')!r}; known: {', '.join(_ACTIVATIONS)}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{path}: position_embedding_type is {raw['position_embedding_type']!r}; known: absolute")
    shape = {name: raw[key] for name, key in _SHAPE_KEYS.items() if key in raw}
    try:
        config = TypeAdapter(BertConfig).validate_python({**shape, "activation": _ACTIVATIONS[raw["hidden_act"]]})
    except ValidationError as error:
        first = error.errors()[0]
        key = _SHAPE_KEYS[str(first["loc"][0])]
        if first["type"] == "missing":
            raise UserError(f"{path}: {key} is missing; give a whole BERT checkpoint folder") from None
        raise UserError(f"{path}: {key} is {first['input']!r}: {first['msg']}") from None
    if config.width % config.heads:
        raise UserError(f"{path}: num_attention_heads is {config.heads}, which does not divide {config.width}")
    return config


def _find_weights(folder: Path) -> tuple[Path, ...]:
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    index = folder / _WEIGHTS_INDEX
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no weight_map; download the checkpoint again")
    files = [folder / str(name) for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing, which {_WEIGHTS_INDEX} lists")
    return tuple(files)


def tensor_names(name: str) -> list[str]:
    """Returns the names that a tensor may have, the usual one first; in old checkpoints, norms have gamma and beta."""
    *layer, part, tensor = name.split("/")
    owner = f"encoder.layer.{layer[0].removeprefix('layer_')}.{_SUBLAYERS[part]}" if layer else _EMBEDDINGS[part]
    return [f"{owner}.{stored}" for stored in _TENSORS.get(tensor, (tensor,))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content
