"""Every variant's model for OpenVINO computes what TensorFlow's computes, in operations that OpenVINO runs as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import tensorflow as tf
from conftest import TINY_SHAPE
from support.untrained import write_untrained
from support.variants import VARIANTS, operations, some_windows

from model.bundles.bundle import Bundle
from model.config import EncoderSettings, ModelSettings
from model.errors import UserError
from model.inference.openvino_predictor import compile_model
from model.inference.predictor import Predictor
from model.optimization.conversion import convert


@pytest.mark.parametrize("name", VARIANTS)
def test_a_converted_variant_computes_the_same(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    encoder = EncoderSettings(handle=str(tiny_encoder), **variant.get("encoder", {}))
    more = {key: variant[key] for key in ("labels", "features") if key in variant}
    bundle = write_untrained(tmp_path / "bundle", encoder, ModelSettings(**variant.get("model", {})), **more)
    model = convert(bundle.path)
    windows = some_windows(bundle)
    expected = Predictor.load(bundle, batch_tokens=256).run(windows)
    classify = compile_model(openvino.Core(), model, "f32")
    found = Predictor(classify, pad_id=bundle.vocabulary.pad_id, batch_tokens=256).run(windows)
    values = "probabilities" if bundle.labels else "scores"
    assert len({row.tobytes() for outputs in expected for row in outputs[values]}) > 20
    for one, other in zip(found, expected, strict=True):
        assert {key: (array.dtype, array.shape) for key, array in one.items()} == {
            key: (array.dtype, array.shape) for key, array in other.items()
        }
        np.testing.assert_allclose(one[values], other[values], atol=2e-5)
        if bundle.labels:
            assert one["label_ids"].tolist() == other["label_ids"].tolist()
    encoders = 4 if "cls" in name else 1  # the groups of sentences of like length
    layers = TINY_SHAPE["num_hidden_layers"]
    there = operations(model)
    assert there["MVN"] >= encoders * (2 * layers + 1)
    assert there["ScaledDotProductAttention"] == encoders * layers
    assert not there.keys() & {"ReduceMean", "SquaredDifference", "ConvertLike"} or "cls" in name


def test_converting_twice_gives_the_same_bytes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "other"):
        openvino.save_model(convert(tiny_bundle.path), tmp_path / f"{name}.xml", compress_to_fp16=False)
    for suffix in ("xml", "bin"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"other.{suffix}").read_bytes()


def test_layer_norms_and_gelus_of_earlier_exports_are_put_together(tmp_path: Path) -> None:
    """As Keras wrote them: the norm in pieces, GELU with erfc."""
    gamma, beta = tf.constant([1.0, 0.5, -2.0, 3.0]), tf.constant([0.0, 1.0, -1.0, 0.5])

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.float32, name="given")])
    def classify(given: tf.Tensor) -> dict[str, tf.Tensor]:
        mean = tf.reduce_mean(given, axis=[-1], keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(given, tf.stop_gradient(mean)), axis=[-1], keepdims=True)
        scale = tf.math.rsqrt(variance + 1e-6) * gamma
        normal = given * scale + (beta - mean * scale)
        return {"states": 0.5 * normal * tf.math.erfc(-normal * 0.7071067811865476)}

    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path), signatures={"classify": classify})
    model = convert(tmp_path)
    assert operations(model)["MVN"] == operations(model)["Gelu"] == 1
    given = np.random.default_rng(1).normal(2.0, 3.0, (2, 5, 4)).astype(np.float32)
    found = compile_model(openvino.Core(), model, "f32")({"given": given})["states"]
    np.testing.assert_allclose(found, classify(tf.constant(given))["states"].numpy(), atol=1e-5)


def test_what_can_not_be_converted_is_one_line(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="given")])
    def classify(given: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"bits": tf.bitcast(given, tf.int32)}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"classify": classify})
    with pytest.raises(UserError, match=r"^the model can't be converted for openvino: .*Bitcast$"):
        convert(tmp_path)
