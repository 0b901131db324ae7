"""TF Hub encoders, wrapped and native: what they compute, that both learn, and what is refused."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY_SHAPE, TINY_VOCABULARY, real_data, tiny_weights
from support.hub_modules import write_hub_bag, write_hub_bert, write_hub_module
from support.numpy_bert import bert_forward, encode, padded_batch
from test_bert import refusal

from model.bundles.bundle import load_bundle, write_bundle
from model.classifier.classifier import SentenceClassifier
from model.config import EncoderSettings, WindowSettings, settings_from_dict
from model.encoders.bert import BertEncoder
from model.encoders.encoder import open_encoder
from model.encoders.wrapped import WrappedEncoder
from model.errors import UserError
from model.inference.predictor import Predictor, pad_batch
from model.inference.serving import ServingModule
from model.text.tokenization import Tokenizer
from model.text.windowing import encode_windows
from model.training.train import train_and_evaluate

TANH_SHAPE = {**TINY_SHAPE, "hidden_act": "gelu_new"}
WEIGHTS = tiny_weights(TANH_SHAPE, seed=2)


def settings_of(folder: Path, **settings: Any) -> EncoderSettings:
    return EncoderSettings(handle=str(folder), **settings)


@pytest.fixture(scope="module")
def hub_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with tanh GELU, as Google's modules are."""
    return write_hub_bert(tmp_path_factory.mktemp("hub") / "bert", WEIGHTS, shape=TANH_SHAPE)


@pytest.fixture(scope="module")
def hub_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of another architecture, exported without a list of what it learns."""
    return write_hub_bag(tmp_path_factory.mktemp("hub") / "bag")


def test_wrapped_and_native_agree_with_numpy(hub_bert: Path) -> None:
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (40, 1, 17, 128))
    expected = bert_forward(WEIGHTS, TANH_SHAPE, *inputs)
    wrapped, native = (open_encoder(settings_of(hub_bert, wrapped=wrapped)).build() for wrapped in (True, False))
    assert isinstance(wrapped, WrappedEncoder) and isinstance(native, BertEncoder)
    np.testing.assert_allclose(encode(wrapped, *inputs), expected, atol=1e-5)
    np.testing.assert_allclose(encode(native, *inputs), expected, atol=1e-5)
    positions = np.tile(np.array([0, 3], np.int32), (len(expected), 1))
    for encoder in (wrapped, native):
        np.testing.assert_allclose(encode(encoder, *inputs, positions), expected[:, [0, 3]], atol=1e-5)
    assert native.count_params() == sum(tensor.size for tensor in WEIGHTS.values())


def test_erf_gelu_and_prefixed_names(tmp_path: Path) -> None:
    folder = write_hub_bert(tmp_path / "bert", WEIGHTS, prefix="bert_encoder/")
    description = open_encoder(settings_of(folder)).describe()
    assert (description.kind, description.activation) == ("native", "gelu_erf")
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    native = open_encoder(settings_of(folder)).build()
    np.testing.assert_allclose(encode(native, *inputs), bert_forward(WEIGHTS, TINY_SHAPE, *inputs), atol=1e-5)


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_genuine_export(wrapped: bool) -> None:
    """Model Garden's own exporter wrote it, and TF Hub's own layer the reference."""
    folder, reference = real_data("hub_bert_tiny"), np.load(real_data("hub_bert_tiny_reference.npz"))
    encoder = open_encoder(settings_of(folder, wrapped=wrapped)).build()
    inputs = [reference[name] for name in ("token_ids", "segment_ids", "padding_mask")]
    np.testing.assert_allclose(encode(encoder, *inputs), reference["sequence_output"], atol=1e-4)
    before = [variable.numpy() for variable in encoder.trainable_variables]
    learn(encoder, *inputs)
    after = [variable.numpy() for variable in encoder.trainable_variables]
    changed = [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(changed) == 37  # all of it, but for a wrapped module's pooler
    assert np.abs(encode(encoder, *inputs) - reference["sequence_output"]).max() > 1e-3


def test_what_the_genuine_export_is() -> None:
    description = open_encoder(settings_of(real_data("hub_bert_tiny"))).describe()
    assert (description.format, description.kind, description.activation) == ("TF Hub", "native", "gelu_tanh")
    assert (description.layers, description.width, description.heads, description.intermediate_width) == (2, 64, 2, 128)
    assert (description.positions, description.segments, description.vocabulary_size) == (512, 2, 30522)
    assert description.lower_case is True
    assert description.special_ids == {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    encoder = open_encoder(settings_of(real_data("hub_bert_tiny"))).build()
    assert description.parameters == encoder.count_params()
    assert (encoder.config.dropout, encoder.config.attention_dropout) == (0.1, 0.1)


def learn(encoder: keras.layers.Layer, *inputs: np.ndarray, steps: int = 3) -> None:
    """Fits a linear layer on top, and the encoder with it, to arbitrary targets, by `fit` itself."""
    names = ("token_ids", "segment_ids", "padding_mask")
    specs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    states = encoder(*specs.values())
    model = keras.Model(specs, keras.layers.Dense(1)(states))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    targets = np.random.default_rng(0).normal(size=(*inputs[0].shape, 1))
    model.fit(dict(zip(names, inputs, strict=True)), targets, epochs=steps, batch_size=len(targets), verbose=0)


def test_training_reaches_every_weight_of_a_wrapped_encoder(hub_bert: Path) -> None:
    encoder = open_encoder(settings_of(hub_bert, wrapped=True)).build()
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (20, 9))
    before = {variable.path: variable.numpy() for variable in encoder.trainable_variables}
    learn(encoder, *inputs)
    unchanged = [v.path for v in encoder.trainable_variables if np.array_equal(v.numpy(), before[v.path])]
    # A bias of the keys moves all scores of a query alike, and the softmax cancels it but for rounding.
    rest = [path for path in unchanged if not path.endswith("key/bias")]
    assert rest == ["encoder/pooler_transform/kernel", "encoder/pooler_transform/bias"]


def test_a_wrapped_encoder_that_is_not_trainable_stays(hub_bag: Path) -> None:
    encoder = open_encoder(settings_of(hub_bag)).build()
    inputs = padded_batch(len(TINY_VOCABULARY), (20, 9))
    first = encode(encoder, *inputs)
    encoder.trainable = False
    learn(encoder, *inputs)
    np.testing.assert_array_equal(encode(encoder, *inputs), first)
    encoder.trainable = True
    learn(encoder, *inputs)
    assert np.abs(encode(encoder, *inputs) - first).max() > 1e-3


@pytest.mark.parametrize("name", ["hub_bert", "hub_bag"])
def test_dropout_of_a_wrapped_encoder_acts_in_training_only(name: str, request: pytest.FixtureRequest) -> None:
    encoder = open_encoder(settings_of(request.getfixturevalue(name), wrapped=True)).build()
    inputs = padded_batch(len(TINY_VOCABULARY), (20,))
    np.testing.assert_array_equal(encode(encoder, *inputs), encode(encoder, *inputs))
    assert np.abs(np.asarray(encoder(*inputs, training=True)) - encode(encoder, *inputs)).max() > 1e-3


def test_paths_tell_biases_and_norms(hub_bert: Path) -> None:
    """Weight decay goes by them."""
    encoder = open_encoder(settings_of(hub_bert, wrapped=True)).build()
    spared = {v.path for v in encoder.trainable_variables if v.name == "bias" or "norm" in v.path}
    assert len(spared) == 2 + 2 * (6 + 4) + 1
    assert "encoder/transformer/layer_1/output_layer_norm/gamma" in spared
    assert "encoder/transformer/layer_0/self_attention/query/bias" in spared


def test_a_wrapped_encoder_in_a_bundle(hub_bag: Path, tmp_path: Path) -> None:
    """Trained a little, exported and loaded again, it classifies as before."""
    settings = settings_of(hub_bag)
    classifier = SentenceClassifier(open_encoder(settings).build(), 3)
    vocabulary, window = open_encoder(settings).vocabulary, WindowSettings(max_tokens=40, context=1)
    draw = np.random.default_rng(3)
    tokens = [draw.integers(5, 40, size).astype(np.int32) for size in (3, 12, 30, 7)]
    windows = encode_windows(tokens, window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id)
    arrays = pad_batch(windows, pad_id=vocabulary.pad_id)
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(arrays, np.zeros(arrays["sep_positions"].shape), verbose=0)
    expected = np.asarray(tf.nn.softmax(classifier(arrays, training=False)))

    module = ServingModule(classifier, Tokenizer(vocabulary), labels=("a", "b", "c"), window=window)
    write_bundle(tmp_path / "b", module.export, labels=("a", "b", "c"), window=window, vocabulary=vocabulary, facts={})
    predictor = Predictor.load(load_bundle(tmp_path / "b"))
    for row, outputs in enumerate(predictor.run(windows)):
        shown = outputs["probabilities"]
        np.testing.assert_allclose(shown, expected[row, : len(shown)], atol=1e-5)

    classifier.save_weights(tmp_path / "w.weights.h5")
    other = SentenceClassifier(open_encoder(settings).build(), 3)
    other(arrays)
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(np.asarray(tf.nn.softmax(other(arrays, training=False))), expected, atol=1e-6)


def test_a_wrapped_encoder_trains_and_resumes(hub_bag: Path, tiny_records: Path, tmp_path: Path) -> None:
    """The run that finds its checkpoint but no bundle restores every variable, and exports the same model."""
    tree = {
        "encoder": {"handle": str(hub_bag)},
        "training": {"epochs": 1, "learning_rate": 0.01, "batch_tokens": 192},
    }
    settings = settings_from_dict(tree, origin="tests")
    first = train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
    assert first.description["encoder"] == open_encoder(settings.encoder).describe().facts()
    assert (first.description["encoder"]["kind"], "folder" in first.description["encoder"]) == ("wrapped", False)
    windows = encode_windows([np.arange(10, 30, dtype=np.int32)], first.window, cls_id=2, sep_id=3)
    (before,) = Predictor.load(first).run(windows)
    shutil.rmtree(first.path)
    again = train_and_evaluate(settings, str(tiny_records), str(tmp_path / "run"))
    (after,) = Predictor.load(again).run(windows)
    np.testing.assert_allclose(after["probabilities"], before["probabilities"], atol=1e-6)


def test_layers_settings_on_a_module(hub_bert: Path) -> None:
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    encoder = open_encoder(settings_of(hub_bert, layers=1)).build()
    expected = bert_forward(WEIGHTS, {**TANH_SHAPE, "num_hidden_layers": 1}, *inputs)
    np.testing.assert_allclose(encode(encoder, *inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    "setting", [{"layers": 1}, {"frozen_layers": 0}, {"mix_layers": True}, {"attention_dropout": 0.0}]
)
def test_a_wrapped_encoder_refuses_what_it_can_not_do(hub_bert: Path, hub_bag: Path, setting: dict[str, Any]) -> None:
    ((key, value),) = setting.items()
    message = refusal(hub_bert, wrapped=True, **setting)
    assert f"encoder.{key} is {value!r}" in message and "encoder.wrapped is true" in message
    message = refusal(hub_bag, **setting)
    assert f"encoder.{key} is {value!r}" in message and "its variables are not BERT's" in message


def test_what_another_architecture_is(hub_bag: Path) -> None:
    description = open_encoder(settings_of(hub_bag)).describe()
    assert (description.kind, description.width, description.layers, description.positions) == (
        "wrapped",
        12,
        None,
        None,
    )
    assert description.parameters == len(TINY_VOCABULARY) * 12 + 24 * 12 + 12
    tree = {"encoder": {"handle": str(hub_bag)}, "window": {"max_tokens": 5000}}
    checked = settings_from_dict(tree, origin="tests")
    open_encoder(checked.encoder).check_budget(checked.window)  # the module records no limit
    assert open_encoder(settings_of(hub_bag)).build().count_params() == description.parameters


def test_variables_like_berts_that_are_used_otherwise(tmp_path: Path) -> None:
    folder = write_hub_bert(tmp_path / "bert", WEIGHTS, shape=TANH_SHAPE, norm_first=True)
    assert "its variables are BERT's, but it computes something else; set encoder.wrapped=true" in refusal(folder)
    assert isinstance(open_encoder(settings_of(folder, wrapped=True)).build(), WrappedEncoder)


def test_a_module_is_read_within_a_distribution_strategy(hub_bert: Path) -> None:
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        encoder = open_encoder(settings_of(hub_bert)).build()
    np.testing.assert_allclose(encode(encoder, *inputs), bert_forward(WEIGHTS, TANH_SHAPE, *inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("told", "vocabulary", "lower_case"),
    [
        (True, (*TINY_VOCABULARY, "A"), True),
        (False, TINY_VOCABULARY, False),
        (None, TINY_VOCABULARY, True),
        (None, (*TINY_VOCABULARY, "A"), False),
    ],
)
def test_casing(tmp_path: Path, told: bool | None, vocabulary: tuple[str, ...], lower_case: bool) -> None:
    options: dict[str, Any] = {"vocabulary": vocabulary, "lower_case": told, "asset": "cased_vocab.txt"}
    weights = {"word_embeddings/embeddings": np.ones((len(vocabulary), 4), np.float32)}
    folder = write_hub_module(tmp_path / "m", weights, embed_only, **options)
    assert open_encoder(settings_of(folder)).vocabulary.lower_case is lower_case


def embed_only(variables: Any, inputs: Any, training: bool) -> tf.Tensor:
    return tf.gather(variables["word_embeddings/embeddings"], inputs["input_word_ids"])


def test_a_vocabulary_longer_than_the_embeddings(tmp_path: Path) -> None:
    weights = {"word_embeddings/embeddings": np.ones((7, 4), np.float32)}
    folder = write_hub_module(tmp_path / "m", weights, embed_only)
    with pytest.raises(UserError, match=f"{len(TINY_VOCABULARY)} wordpieces, its embeddings only 7"):
        open_encoder(settings_of(folder))


def test_no_wordpiece_vocabulary(tmp_path: Path) -> None:
    weights = {"word_embeddings/embeddings": np.ones((len(TINY_VOCABULARY), 4), np.float32)}
    folder = write_hub_module(tmp_path / "m", weights, embed_only, asset="spiece.model")
    with pytest.raises(UserError, match=r"m: 0 vocab\.txt in assets; sepline reads encoders with one WordPiece"):
        open_encoder(settings_of(folder))


def test_other_saved_models(tmp_path: Path, tiny_bundle: Any) -> None:
    assert "not a TF Hub text encoder: called by name, it maps nothing -> nothing" in refusal(tiny_bundle.path)
    module: Any = tf.train.Checkpoint()
    spec = {"text": tf.TensorSpec([None], tf.string, name="text")}
    module.__call__ = tf.function(lambda inputs: {"length": tf.strings.length(inputs["text"])}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "other"))
    assert "it maps text -> length; sepline needs input_word_ids" in refusal(tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"text"])
def test_a_broken_saved_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    assert f"{tmp_path / 'saved_model.pb'}: " in refusal(tmp_path)


def test_a_module_without_its_variables(tmp_path: Path) -> None:
    folder = write_hub_bag(tmp_path / "bag")
    (folder / "variables" / "variables.index").unlink()
    assert "variables: can't be read" in refusal(folder)
    with pytest.raises(UserError, match="TensorFlow can't load this SavedModel"):
        WrappedEncoder(folder, 8).build()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real web server of a folder: its address, and the folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_an_address_is_downloaded_once(
    web: tuple[str, Path], hub_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = web
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    monkeypatch.setenv("SEPLINE_CACHE", str(tmp_path / "cache"))
    with tarfile.open(folder / "bert", "w:gz") as archive:
        archive.add(hub_bert, arcname=".")
    settings = EncoderSettings(handle=f"{address}/bert")
    description = open_encoder(settings).describe()
    assert description.folder.parent == tmp_path / "cache" / "tfhub"
    assert (description.width, description.layers) == (16, 2)
    (folder / "bert").unlink()
    inputs = padded_batch(TINY_SHAPE["vocab_size"], (9, 30))
    expected = bert_forward(WEIGHTS, TANH_SHAPE, *inputs)
    np.testing.assert_allclose(encode(open_encoder(settings).build(), *inputs), expected, atol=1e-5)


def test_downloads_that_fail(web: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = web
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    (folder / "text").write_text("no archive")
    for handle, reason in (
        (f"{address}/absent", "HTTP Error 404"),
        (f"{address}/text", "does not appear to be a valid module"),
        ("http://127.0.0.1:9/bert", "Connection refused"),
    ):
        with pytest.raises(UserError) as caught:
            open_encoder(EncoderSettings(handle=handle)).build()
        message = str(caught.value)
        assert message.startswith(f"encoder.handle is {handle!r}: can't be downloaded (") and "\n" not in message
        assert reason in message
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_the_verb(hub_bag: Path, hub_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.cli import main

    assert main(["encoder", str(hub_bert), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == open_encoder(settings_of(hub_bert)).describe().to_json()
    assert (printed["kind"], printed["heads"], printed["folder"]) == ("native", 2, str(hub_bert))
    assert main(["encoder", str(hub_bag)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["format"] == "TF Hub, wrapped: run unchanged"
    assert lines["layers"] == "not recorded"
    assert lines["width"] == "12"
    assert lines["vocabulary"] == f"{len(TINY_VOCABULARY)} wordpieces, uncased"
    assert main(["encoder", str(hub_bag / "assets")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
