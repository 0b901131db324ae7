"""Hugging Face folders in the shapes that they come in: casing, special tokens, names, shards, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CUES, FILLERS, PIECES, PUNCTUATION, SPECIAL_TOKENS, TINY_SHAPE, tiny_weights, write_checkpoint
from safetensors.numpy import save_file
from support.numpy_bert import bert_forward, encode, padded_batch
from test_bert import refusal

from model.config import EncoderSettings, settings_from_dict
from model.encoders.encoder import open_encoder
from model.errors import UserError

WORDS = (*FILLERS, *(cue for cues in CUES.values() for cue in cues), *PIECES, *PUNCTUATION)
CAPITALS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def settings_of(folder: Path, **settings: Any) -> EncoderSettings:
    return EncoderSettings(handle=str(folder), **settings)


def write_as(folder: Path, vocabulary: tuple[str, ...], **changes: Any) -> tuple[Path, dict[str, Any], Any]:
    """Writes a checkpoint of another shape; returns its folder, shape and weights."""
    shape = {**TINY_SHAPE, "vocab_size": len(vocabulary), **changes}
    shape = {name: value for name, value in shape.items() if value is not None}
    weights = tiny_weights({**TINY_SHAPE, **shape}, seed=4)
    write_checkpoint(folder, shape=shape, vocabulary=vocabulary, weights=weights)
    return folder, {**TINY_SHAPE, **shape}, weights


@pytest.mark.parametrize("cased", [False, True])
def test_like_scibert(tmp_path: Path, cased: bool) -> None:
    """No `tokenizer_config.json`, no `model_type`; special tokens at 101 and on; its own vocabulary, cased or not."""
    unused = tuple(f"[unused{number}]" for number in range(100))
    vocabulary = ("[PAD]", *unused, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(CAPITALS if cased else ()))
    folder, shape, weights = write_as(tmp_path / "scibert", vocabulary, model_type=None, hidden_size=24)
    description = open_encoder(settings_of(folder)).describe()
    assert description.lower_case is not cased
    assert description.special_ids == {"[PAD]": 0, "[UNK]": 101, "[CLS]": 102, "[SEP]": 103, "[MASK]": 104}
    inputs = padded_batch(len(vocabulary), (30, 4))
    encoder = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(weights, shape, *inputs), atol=1e-5)


def test_like_pubmedbert(tmp_path: Path) -> None:
    """Special tokens first, in another order; casing told."""
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "A")
    folder, shape, weights = write_as(tmp_path / "pubmedbert", vocabulary, num_hidden_layers=3, intermediate_size=40)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_type": "bert"}')
    description = open_encoder(settings_of(folder)).describe()
    assert description.lower_case is True  # told, whatever the wordpieces look like
    assert description.special_ids == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    inputs = padded_batch(len(vocabulary), (30, 4))
    encoder = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(weights, shape, *inputs), atol=1e-5)


def test_like_minilm(tmp_path: Path) -> None:
    """Narrow heads, few positions, one kind of segment."""
    vocabulary = (*SPECIAL_TOKENS, *WORDS)
    changes = {"num_attention_heads": 8, "max_position_embeddings": 40, "type_vocab_size": 1, "num_hidden_layers": 1}
    folder, shape, weights = write_as(tmp_path / "minilm", vocabulary, **changes)
    token_ids, _, mask = padded_batch(len(vocabulary), (40, 4))
    inputs = (token_ids, np.zeros_like(token_ids), mask)
    encoder = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(weights, shape, *inputs), atol=1e-5)
    tree = {"encoder": {"handle": str(folder)}, "window": {"max_tokens": 41}}
    checked = settings_from_dict(tree, origin="tests")
    opened = open_encoder(checked.encoder)
    with pytest.raises(UserError, match=r"window\.max_tokens is 41, but the encoder reads at most 40"):
        opened.check_budget(checked.window)


def test_config_without_defaults(tmp_path: Path) -> None:
    """What Hugging Face leaves out has BERT's usual value."""
    absent = ("layer_norm_eps", "type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob")
    folder, *_ = write_as(tmp_path / "bert", (*SPECIAL_TOKENS, *WORDS), **dict.fromkeys(absent))
    config = open_encoder(settings_of(folder)).build().config
    assert (config.layer_norm_epsilon, config.segments, config.dropout, config.attention_dropout) == (
        1e-12,
        2,
        0.1,
        0.1,
    )


def test_old_names_of_norms(tmp_path: Path) -> None:
    weights = tiny_weights(TINY_SHAPE)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    assert "embeddings.LayerNorm.gamma" in old
    folder = write_checkpoint(tmp_path / "bert", weights=old)
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(weights, TINY_SHAPE, *inputs), atol=1e-5)


def test_bfloat16_weights(tmp_path: Path) -> None:
    import ml_dtypes

    weights = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tiny_weights(TINY_SHAPE).items()}
    folder = write_checkpoint(tmp_path / "bert", weights=weights)
    rounded = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(rounded, TINY_SHAPE, *inputs), atol=1e-5)


def write_shards(folder: Path, *, prefix: str = "") -> dict[str, str]:
    """Writes the tiny checkpoint in two files with an index; returns which tensor is where."""
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    weights = {f"{prefix}{name}": tensor for name, tensor in tiny_weights(TINY_SHAPE).items()}
    names = sorted(weights)
    where = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return where


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_shards(tmp_path: Path, tiny_encoder: Path, prefix: str) -> None:
    write_shards(tmp_path / "bert", prefix=prefix)
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    whole, sharded = (
        open_encoder(settings_of(tiny_encoder)).build(),
        open_encoder(settings_of(tmp_path / "bert")).build(),
    )
    np.testing.assert_array_equal(encode(sharded, *inputs), encode(whole, *inputs))


def test_a_missing_shard_and_an_index_of_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    write_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert f"{folder}: model-00002-of-00002.safetensors missing, which" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json: has no weight_map" in refusal(folder)


def test_a_pytorch_checkpoint_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin" in message
    assert f"AutoModel.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)" in message


@pytest.mark.parametrize(
    ("tokenizer", "lower_case"),
    [({}, True), ({"do_lower_case": None}, True), ({"do_lower_case": False}, False), ({"do_lower_case": True}, True)],
)
def test_casing_of_a_vocabulary_without_capitals(tmp_path: Path, tokenizer: dict[str, Any], lower_case: bool) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert open_encoder(settings_of(folder)).vocabulary.lower_case is lower_case


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ({"do_lower_case": "no"}, "do_lower_case is 'no'"),
        ({"do_lower_case": True, "strip_accents": False}, "strip_accents is False, but do_lower_case is True"),
        ({"do_lower_case": False, "strip_accents": True}, "strip_accents is True, but do_lower_case is False"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is False; sepline knows True"),
    ],
)
def test_tokenizers_that_sepline_does_not_have(tmp_path: Path, tokenizer: dict[str, Any], words: str) -> None:
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=words):
        open_encoder(settings_of(folder))


def test_the_count_of_parameters(tmp_path: Path) -> None:
    folder, _, weights = write_as(tmp_path / "bert", (*SPECIAL_TOKENS, *WORDS), num_hidden_layers=3)
    assert open_encoder(settings_of(folder)).describe().parameters == sum(tensor.size for tensor in weights.values())
    fewer = open_encoder(settings_of(folder, layers=1)).describe()
    assert fewer.parameters == open_encoder(settings_of(folder, layers=1)).build().count_params()
    assert fewer.layers == 1


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    first = open_encoder(settings_of(write_checkpoint(tmp_path / "one"))).describe().fingerprint
    assert open_encoder(settings_of(write_checkpoint(tmp_path / "two"))).describe().fingerprint == first
    other = write_checkpoint(tmp_path / "three", weights=tiny_weights(TINY_SHAPE, seed=1))
    assert open_encoder(settings_of(other)).describe().fingerprint != first


def test_only_hub_modules_can_be_wrapped(tiny_encoder: Path) -> None:
    assert f"encoder.wrapped is true, but {tiny_encoder} is not a TF Hub module" in refusal(tiny_encoder, wrapped=True)
