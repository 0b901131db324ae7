"""TF Hub text encoders: SavedModels from `input_word_ids`, `input_mask`, `input_type_ids` to `sequence_output`.

What a module is, is read out of `saved_model.pb` without running it: its signature, the names and shapes of its
variables, and the operations of its graph.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.encoders.bert import BertConfig
from model.encoders.downloads import cache_root
from model.encoders.huggingface import read_vocabulary
from model.errors import UserError
from model.extras import import_extra
from model.text.vocabulary import Vocabulary

SAVED_MODEL = "saved_model.pb"
_INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
_OUTPUT = "sequence_output"
_WORDS, _POSITIONS, _SEGMENTS = (
    "word_embeddings/embeddings",
    "position_embedding/embeddings",
    "type_embeddings/embeddings",
)
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
    "word_embeddings/embeddings": _WORDS,
    "position_embeddings/embeddings": _POSITIONS,
    "segment_embeddings/embeddings": _SEGMENTS,
    "embeddings_norm/gamma": "embeddings/layer_norm/gamma",
    "embeddings_norm/beta": "embeddings/layer_norm/beta",
}
_BESIDE_THE_ENCODER = ("pooler_transform/", "cls/", "predictions/")
_TANH_GELU = np.float32(0.044715)
_DROPOUT_NOTES = {
    "dropout": rb'"(?:output_dropout|dropout_rate)": ([0-9.eE-]+)',
    "attention_dropout": rb'"attention_dropout(?:_rate)?": ([0-9.eE-]+)',
}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class HubModule:
    """A TF Hub text encoder on disk.

    Attributes:
        folder: of the SavedModel.
        width: of the hidden states.
        config: its shape, where its variables are those of Google's BERT.
        not_bert: why `config` is None.
        vocabulary_size, positions: rows of its embeddings; None where it does not say.
        parameters: how many numbers the module learns, parts that sepline has no use for included.
        prefix: what precedes the usual names of its variables.
    """

    folder: Path
    width: int
    config: BertConfig | None
    not_bert: str
    vocabulary_size: int | None
    positions: int | None
    parameters: int
    prefix: str

    @classmethod
    def open(cls, folder: Path) -> HubModule:
        """Returns the module in a folder.

        Raises:
            UserError: it is no SavedModel, or no text encoder.
        """
        graph = _read_graph(folder / SAVED_MODEL)
        width = _sequence_width(graph, folder)
        shapes = {
            node.variable.name: tuple(dim.size for dim in node.variable.shape.dim)
            for node in graph.object_graph_def.nodes
            if node.WhichOneof("kind") == "variable" and node.variable.trainable
        }
        prefix = next((name.removesuffix(_WORDS) for name in shapes if name.endswith(_WORDS)), "")
        usual = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
        config, not_bert = _bert_config(usual, graph, folder)
        return cls(
            folder=folder,
            width=width,
            config=config,
            not_bert=not_bert,
            vocabulary_size=usual[_WORDS][0] if _WORDS in usual else None,
            positions=usual[_POSITIONS][0] if _POSITIONS in usual else None,
            parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
            prefix=prefix,
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

    def variable_name(self, name: str) -> str:
        """Returns what the module calls one of `BertEncoder.pretrained_weights`."""
        if name in _EMBEDDINGS:
            return self.prefix + _EMBEDDINGS[name]
        layer, part, tensor = name.split("/")
        return f"{self.prefix}transformer/{layer}/{_SUBLAYERS[part]}/{tensor}"

    @property
    def files(self) -> list[Path]:
        """What of the folder is read."""
        variables, assets = (sorted((self.folder / name).glob("*")) for name in ("variables", "assets"))
        return [self.folder / SAVED_MODEL, *variables, *assets]


def download(handle: str) -> Path:
    """Returns the cached folder of a TF Hub or Kaggle address, fetching it on first use.

    The cache is TF Hub's own where `$TFHUB_CACHE_DIR` names one, else a folder in sepline's.

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


def _read_graph(path: Path) -> Any:
    """Returns the MetaGraphDef of a TensorFlow 2 SavedModel."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: can't be read as a SavedModel ({error})") from error
    if len(saved_model.meta_graphs) != 1 or not saved_model.meta_graphs[0].object_graph_def.nodes:
        raise UserError(f"{path}: not a TensorFlow 2 SavedModel; sepline reads text encoders in the format of TF2")
    return saved_model.meta_graphs[0]


def _sequence_width(graph: Any, folder: Path) -> int:
    """Returns the width of `sequence_output`; refuses modules that are no text encoders or read one length only."""
    inputs, outputs = _call_signature(graph.object_graph_def)
    if set(inputs) != set(_INPUTS) or _OUTPUT not in outputs:
        has = f"{', '.join(sorted(inputs)) or 'nothing'} -> {', '.join(sorted(outputs)) or 'nothing'}"
        raise UserError(
            f"{folder}: not a TF Hub text encoder: called by name, it maps {has}; sepline needs "
            f"{', '.join(_INPUTS)} -> {_OUTPUT}"
        )
    lengths = {length for name in _INPUTS for length in inputs[name][1:]} - {-1}
    if lengths:
        raise UserError(f"{folder}: reads windows of exactly {max(lengths)} tokens; sepline needs one for any length")
    if len(outputs[_OUTPUT]) != 3 or outputs[_OUTPUT][2] < 1:
        raise UserError(f"{folder}: its {_OUTPUT} is not [batch, tokens, width]; sepline needs a text encoder")
    return outputs[_OUTPUT][2]


def _call_signature(objects: Any) -> tuple[Shapes, Shapes]:
    """Returns the names and shapes of what the module takes and gives where it is called with a mapping.

    The module's signatures don't do: exporters give their outputs names of their own making.
    """
    calls = [child.node_id for child in objects.nodes[0].children if child.local_name == "__call__"]
    names = [name for node in calls for name in objects.nodes[node].function.concrete_functions]
    for name in names:
        function = objects.concrete_functions[name]
        arguments = function.canonicalized_input_signature.tuple_value.values[:1]
        first = [value for argument in arguments for value in argument.tuple_value.values[:1]]
        inputs = [_tensor_shapes(value) for value in first]
        return (inputs or [{}])[0], _tensor_shapes(function.output_signature)
    return {}, {}


def _tensor_shapes(structure: Any) -> Shapes:
    """Returns the shapes of the tensors in a mapping, -1 for a length that is open."""
    fields = structure.dict_value.fields
    return {name: tuple(dim.size for dim in fields[name].tensor_spec_value.shape.dim) for name in fields}


def _bert_config(shapes: Shapes, graph: Any, folder: Path) -> tuple[BertConfig | None, str]:
    """Returns the BERT that a module's variables make, or the reason why they make none."""
    wanted = {name: shape for name, shape in shapes.items() if not name.startswith(_BESIDE_THE_ENCODER)}
    numbers = [int(match[1]) for name in wanted if (match := re.match(r"transformer/layer_(\d+)/", name))]
    try:
        vocabulary_size, width = wanted[_WORDS]
        _, heads, _ = wanted["transformer/layer_0/self_attention/query/kernel"]
        config = BertConfig(
            vocabulary_size=vocabulary_size,
            width=width,
            layers=max(numbers) + 1,
            heads=heads,
            intermediate_width=wanted["transformer/layer_0/intermediate/kernel"][1],
            positions=wanted[_POSITIONS][0],
            segments=wanted[_SEGMENTS][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        return None, f"its variables are not BERT's ({error})"
    expected = _expected_shapes(config)
    different = sorted(name for name in wanted.keys() | expected.keys() if wanted.get(name) != expected.get(name))
    if different:
        return None, f"its variables are not BERT's ({different[0]})"
    activation = _find_activation(graph)
    if activation is None:
        return None, "its activation is not GELU"
    return replace(config, activation=activation, **_find_dropout(folder)), ""


def _expected_shapes(config: BertConfig) -> Shapes:
    """Returns the names and shapes of the variables of Google's BERT."""
    width, wide, heads = config.width, config.intermediate_width, config.heads
    by_head = (heads, width // heads)
    shapes: Shapes = {
        _WORDS: (config.vocabulary_size, width),
        _POSITIONS: (config.positions, width),
        _SEGMENTS: (config.segments, width),
        "embeddings/layer_norm/gamma": (width,),
        "embeddings/layer_norm/beta": (width,),
    }
    for index in range(config.layers):
        layer = f"transformer/layer_{index}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}/self_attention/{name}/kernel"] = (width, *by_head)
            shapes[f"{layer}/self_attention/{name}/bias"] = by_head
        shapes[f"{layer}/self_attention/attention_output/kernel"] = (*by_head, width)
        shapes[f"{layer}/self_attention/attention_output/bias"] = (width,)
        shapes[f"{layer}/intermediate/kernel"], shapes[f"{layer}/intermediate/bias"] = (width, wide), (wide,)
        shapes[f"{layer}/output/kernel"], shapes[f"{layer}/output/bias"] = (wide, width), (width,)
        for norm in ("self_attention_layer_norm", "output_layer_norm"):
            shapes[f"{layer}/{norm}/gamma"] = shapes[f"{layer}/{norm}/beta"] = (width,)
    return shapes


def _find_activation(graph: Any) -> Literal["gelu_erf", "gelu_tanh"] | None:
    """Returns which GELU the graph computes: by the error function, or by the constant of its approximation."""
    import tensorflow as tf

    nodes = [node for function in graph.graph_def.library.function for node in function.node_def]
    if any(node.op in ("Erf", "Erfc") for node in nodes):
        return "gelu_erf"
    scalars = (tf.make_ndarray(node.attr["value"].tensor) for node in nodes if node.op == "Const")
    tanh = any(value.dtype == np.float32 and value.ndim == 0 and value == _TANH_GELU for value in scalars)
    return "gelu_tanh" if tanh else None


def _find_dropout(folder: Path) -> dict[str, Any]:
    """Returns the dropout rates that Keras noted beside the graph, where it did."""
    rates = {}
    for name in ("keras_metadata.pb", SAVED_MODEL):  # the latter up to TensorFlow 2.4
        notes = (folder / name).read_bytes() if (folder / name).is_file() else b""
        for rate, pattern in _DROPOUT_NOTES.items():
            if rate not in rates and (match := re.search(pattern, notes)):
                rates[rate] = float(match[1])
    return rates


def _read_lower_case(folder: Path) -> bool | None:
    """Returns the value of the module's variable `do_lower_case`, None where it has none."""
    import tensorflow as tf

    try:
        variables = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        key = "do_lower_case/.ATTRIBUTES/VARIABLE_VALUE"
        return bool(variables.get_tensor(key)) if variables.has_tensor(key) else None
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{folder / 'variables'}: can't be read ({' '.join(str(error).split())})") from error
