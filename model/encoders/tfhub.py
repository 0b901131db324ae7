"""TF Hub text encoders: SavedModels from `input_word_ids`, `input_mask`, `input_type_ids` to `sequence_output`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from model.encoders.bert import BertConfig, BertEncoder
from model.encoders.downloads import cache_root
from model.encoders.huggingface import read_vocabulary
from model.encoders.saved_model import POSITIONS, SEGMENTS, WORDS, bert_config, sequence_width
from model.encoders.wrapped import WrappedEncoder
from model.errors import UserError
from model.extras import import_extra
from model.graphs import SAVED_MODEL, read_graph
from model.text.vocabulary import Vocabulary

_SUBLAYERS = {
    "query": "self_attention/query",
    "key": "self_attention/key",
    "value": "self_attention/value",
    "attention_output": "self_attention/attention_output",
    "attention_norm": "self_attention_layer_norm",
    "intermediate": "intermediate",
    "output": "output",
    "output_norm": "output_layer_norm",
}
_EMBEDDINGS = {
    "word_embeddings/embeddings": WORDS,
    "position_embeddings/embeddings": POSITIONS,
    "segment_embeddings/embeddings": SEGMENTS,
    "embeddings_norm/gamma": "embeddings/layer_norm/gamma",
    "embeddings_norm/beta": "embeddings/layer_norm/beta",
}
_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class HubModule:
    """A TF Hub text encoder on disk.

    Attributes:
        folder: of the SavedModel.
        width: of the hidden states.
        config: its shape, if its variables are those of Google's BERT; else None.
        not_bert: why `config` is None.
        vocabulary_size, positions: rows of its embeddings; None if it does not record them.
        parameters: number of trainable parameters, including parts that sepline does not use.
        prefix: what precedes the usual names of its variables.
        trusted: True to run it whatever its graph does.
    """

    format: ClassVar[Literal["TF Hub"]] = "TF Hub"

    folder: Path
    width: int
    config: BertConfig | None
    not_bert: str
    vocabulary_size: int | None
    positions: int | None
    parameters: int
    prefix: str
    trusted: bool

    @classmethod
    def open(cls, folder: Path, *, trusted: bool) -> HubModule:
        """Returns the module in a folder.

        Raises:
            UserError: it is not a SavedModel, or not a text encoder.
        """
        graph = read_graph(folder / SAVED_MODEL)
        width = sequence_width(graph, folder)
        shapes = {
            node.variable.name: tuple(dim.size for dim in node.variable.shape.dim)
            for node in graph.object_graph_def.nodes
            if node.WhichOneof("kind") == "variable" and node.variable.trainable
        }
        prefix = next((name.removesuffix(WORDS) for name in shapes if name.endswith(WORDS)), "")
        usual = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
        config, not_bert = bert_config(usual, graph, folder)
        return cls(
            folder=folder,
            width=width,
            config=config,
            not_bert=not_bert,
            vocabulary_size=usual[WORDS][0] if WORDS in usual else None,
            positions=usual[POSITIONS][0] if POSITIONS in usual else None,
            parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
            prefix=prefix,
            trusted=trusted,
        )

    def vocabulary(self) -> Vocabulary:
        """Returns its vocabulary and casing.

        Raises:
            UserError: it has none, or one that is not BERT's.
        """
        found = sorted((self.folder / "assets").glob("*vocab*.txt"))
        if len(found) != 1:
            raise UserError(
                f"{self.folder}: {len(found)} vocab.txt in assets; sepline reads encoders with one WordPiece vocabulary"
            )
        return read_vocabulary(found[0], lower_case=_read_lower_case(self.folder))

    def wrap(self) -> WrappedEncoder:
        """Returns the module inside a built Keras layer, named `encoder`.

        Raises:
            UserError: its graph can do more than compute, TensorFlow can't load it, or several devices are to train it.
        """
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # Functions from a SavedModel give the replicas gradients of different variables.
            raise UserError(
                f"{self.folder}: a wrapped encoder trains on one device; choose one, with CUDA_VISIBLE_DEVICES=0"
            )
        encoder = WrappedEncoder(self.folder, self.width, trusted=self.trusted, name="encoder")
        encoder.build()
        return encoder

    def copy_weights(self, encoder: BertEncoder) -> None:
        """Copies the module's weights into an encoder, after checking that both compute the same.

        Names and shapes of variables don't show how a module uses them, so both read a few tokens.

        Raises:
            UserError: they compute different states, or the module's graph can do more than compute.
        """
        assert self.config is not None
        wrapped = WrappedEncoder(self.folder, self.width, trusted=self.trusted, name="module")
        whole = BertEncoder(self.config, dtype="float32", name="whole")
        wrapped.build()
        whole.build()
        for name, variable in whole.pretrained_weights.items():
            variable.assign(np.reshape(wrapped.named_weights[self.variable_name(name)], variable.shape))
        inputs = _probe(self.config)
        states = [_call_once(layer, inputs)[inputs[2] == 1] for layer in (wrapped, whole)]
        if not np.abs(states[0] - states[1]).max() < _PROBE_TOLERANCE:
            raise UserError(
                f"{self.folder}: its variables are BERT's, but it computes something else; set encoder.wrapped=true"
            )
        for name, variable in encoder.pretrained_weights.items():
            variable.assign(whole.pretrained_weights[name])

    def variable_name(self, name: str) -> str:
        """Returns the module's name for one of `BertEncoder.pretrained_weights`."""
        if name in _EMBEDDINGS:
            return self.prefix + _EMBEDDINGS[name]
        layer, part, tensor = name.split("/")
        return f"{self.prefix}transformer/{layer}/{_SUBLAYERS[part]}/{tensor}"

    @property
    def shape(self) -> Mapping[str, Any]:
        """What the module records about itself, by the names of `BertConfig`."""
        names = ("width", "vocabulary_size", "positions", "parameters")
        return {name: getattr(self, name) for name in names}

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        variables, assets = (sorted((self.folder / name).glob("*")) for name in ("variables", "assets"))
        return [self.folder / SAVED_MODEL, *variables, *assets]


def download(handle: str) -> Path:
    """Returns the cached folder of a TF Hub or Kaggle address, fetching it on first use.

    The cache is the folder `$TFHUB_CACHE_DIR` if that is set, otherwise a folder in sepline's cache.

    Raises:
        UserError: it can't be fetched, or the extra `hub` is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub imports pkg_resources, which is deprecated
        hub = import_extra("tensorflow_hub", extra="hub", purpose=f"encoder.handle {handle!r}, an address,")
    import tensorflow as tf

    os.environ.setdefault("TFHUB_CACHE_DIR", str(cache_root() / "tfhub"))
    try:
        return Path(hub.resolve(handle))
    except (OSError, EOFError, ValueError, HTTPException, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"encoder.handle is {handle!r}: can't be downloaded ({reason}); check the address and the connection, or "
            "download it elsewhere and give its folder"
        ) from error


def _read_lower_case(folder: Path) -> bool | None:
    """Returns the value of the module's variable `do_lower_case`, or None if it has none."""
    import tensorflow as tf

    try:
        variables = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        key = "do_lower_case/.ATTRIBUTES/VARIABLE_VALUE"
        return bool(variables.get_tensor(key)) if variables.has_tensor(key) else None
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{folder / 'variables'}: can't be read ({' '.join(str(error).split())})") from error


def _probe(config: BertConfig) -> list[np.ndarray]:
    """Returns token ids, segment ids and padding mask, int32 `[2, tokens]`, of two windows of random tokens."""
    draw = np.random.default_rng(0)
    shape = (2, min(16, config.positions))
    mask = np.ones(shape, np.int32)
    mask[1, shape[1] // 2 :] = 0
    drawn = (draw.integers(0, config.vocabulary_size, shape), draw.integers(0, config.segments, shape))
    return [*(array.astype(np.int32) for array in drawn), mask]


def _call_once(layer: keras.layers.Layer, inputs: list[np.ndarray]) -> np.ndarray:
    """Returns the output of a layer in full precision, even if it was made for several devices."""
    import tensorflow as tf

    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    strategy, short = tf.distribute.get_strategy(), tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # GPUs would round each product to ten bits
    try:
        outputs = strategy.run(lambda: layer(*tensors, training=False))
        return np.asarray(strategy.experimental_local_results(outputs)[0])
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(short)
