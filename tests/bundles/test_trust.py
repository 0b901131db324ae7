"""A model that can do more than compute is not run, unless the user trusts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers its operations
from conftest import TINY_SHAPE, tiny_weights
from support.hub_modules import INPUTS, write_hub_module
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from model.bundles.bundle import Bundle, write_bundle
from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
from model.errors import UserError
from model.graphs import COMPUTING, SAVED_MODEL, check_graph
from model.schema import classify_signature
from pipelines.cli import main

Act = Callable[[], Any]


class Hostile(tf.Module):
    """A classifier that acts each time it is called."""

    def __init__(self, act: Act, labels: int) -> None:
        super().__init__()
        self._act, self._labels = act, labels
        self.variable = tf.Variable(0.0)

    def export(self, folder: Path) -> None:
        classify = tf.function(self.classify).get_concrete_function(**classify_signature(0))
        tf.saved_model.save(self, str(folder), signatures={"classify": classify})

    def classify(self, **windows: tf.Tensor) -> Mapping[str, tf.Tensor]:
        self._act()
        shape = tf.shape(windows["sep_positions"])
        probabilities = tf.fill(tf.concat([shape, [self._labels]], axis=0), 1 / self._labels) + self.variable
        return {"probabilities": probabilities, "label_ids": tf.zeros(shape, tf.int32)}


def in_a_branch(act: Act) -> None:
    """Acts two functions deep, if a condition is met."""

    @tf.function
    def inner() -> tf.Tensor:
        act()
        return tf.constant(0)

    tf.cond(tf.random.uniform([]) >= 0, inner, lambda: tf.constant(1))


def acts(target: Path) -> Iterator[tuple[str, Act]]:
    """Yields operations and what runs them."""
    name = str(target)
    yield "WriteFile", lambda: tf.io.write_file(name, "x")
    yield "WriteFile", lambda: in_a_branch(lambda: tf.io.write_file(name, "x"))
    yield "ReadFile", lambda: tf.io.read_file(name)
    yield "EagerPyFunc", lambda: tf.py_function(target.touch, [], [])
    yield "PyFunc", lambda: tf.numpy_function(target.touch, [], [])
    yield "PrintV2", lambda: tf.print("x", output_stream=f"file://{name}")
    yield "SaveV2", lambda: tf.raw_ops.SaveV2(prefix=name, tensor_names=["x"], shape_and_slices=[""], tensors=[0.0])
    yield (
        "RestoreV2",
        lambda: tf.raw_ops.RestoreV2(prefix=name, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]),
    )


def hostile_bundle(folder: Path, act: Act, like: Bundle) -> Bundle:
    """Returns a bundle whose files match their checksums, but whose model acts."""
    module = Hostile(act, len(like.labels))
    options: dict[str, Any] = {"labels": like.labels, "window": like.window, "vocabulary": like.vocabulary}
    return write_bundle(folder, module.export, **options, facts=like.description)


def test_a_hostile_model_is_run_only_if_the_user_trusts_it(
    tiny_bundle: Bundle, tiny_corpus: Path, tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "written"
    bundle = hostile_bundle(tmp_path / "hostile", lambda: tf.io.write_file(str(target), "x"), tiny_bundle)
    score = ["score", "--model", str(bundle.path), "--input", str(tiny_corpus), "--output", str(tmp_path / "out")]
    evaluate = ["evaluate", "--model", str(bundle.path), "--data", str(tiny_records)]
    for command in (score, [*score, "--dry-run"], evaluate):
        assert main(command) == 2
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sepline: ")]
        assert "can do more than compute (WriteFile)" in said and "--trust-model" in said
        assert not target.exists() and not (tmp_path / "out").exists()
    assert main([*score, "--trust-model", "--workers", "1"]) == 0
    assert target.exists()


def test_each_way_out_of_the_graph_is_found(tmp_path: Path) -> None:
    for number, (operation, act) in enumerate(acts(tmp_path / "target")):
        folder = tmp_path / str(number)
        Hostile(act, 2).export(folder)
        with pytest.raises(UserError, match=rf"can do more than compute \({operation}"):
            check_graph(folder, hint="")
    Hostile(lambda: None, 2).export(tmp_path / "harmless")
    check_graph(tmp_path / "harmless", hint="")


def test_names_of_functions_hide_no_operation(tmp_path: Path) -> None:
    Hostile(lambda: tf.io.read_file("x"), 2).export(tmp_path / "model")
    file = tmp_path / "model" / SAVED_MODEL
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].graph_def.library.function.add().signature.name = "ReadFile"
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(UserError, match=r"\(ReadFile\)"):
        check_graph(tmp_path / "model", hint="")


def test_the_function_that_saves_is_not_for_others_to_call(tmp_path: Path) -> None:
    Hostile(lambda: None, 2).export(tmp_path / "model")
    file = tmp_path / "model" / SAVED_MODEL
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    (saver,) = (one for one in functions if any(node.op == "SaveV2" for node in one.node_def))
    caller = next(one for one in functions if "classify" in one.signature.name)
    call = caller.node_def.add(name="call", op="PartitionedCall")
    call.attr["f"].func.name = saver.signature.name
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(UserError, match="SaveV2"):
        check_graph(tmp_path / "model", hint="")


def test_files_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    Hostile(lambda: None, 2).export(tmp_path / "model")
    file = tmp_path / "model" / SAVED_MODEL
    harmless = file.read_bytes()
    for path in ("../../etc/passwd", "/etc/passwd"):
        saved = saved_model_pb2.SavedModel.FromString(harmless)
        saved.meta_graphs[0].asset_file_def.add().filename = path
        file.write_bytes(saved.SerializeToString())
        with pytest.raises(UserError, match="refers to files outside of its folder"):
            check_graph(tmp_path / "model", hint="")
    file.write_bytes(harmless)
    (tmp_path / "model" / "assets" / "inside").symlink_to(tmp_path / "model" / "variables")
    check_graph(tmp_path / "model", hint="")
    (tmp_path / "model" / "assets" / "outside").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"\(assets/outside\)"):
        check_graph(tmp_path / "model", hint="")


def test_a_hostile_encoder_is_run_only_if_the_user_trusts_it(tmp_path: Path) -> None:
    target = tmp_path / "written"

    def encode(variables: Mapping[str, tf.Variable], inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        tf.io.write_file(str(target), "x")
        return tf.gather(variables["table"], inputs[INPUTS[0]])

    table = tiny_weights(TINY_SHAPE)["embeddings.word_embeddings.weight"]
    folder = write_hub_module(tmp_path / "module", {"table": table}, encode)
    with pytest.raises(UserError, match=r"can do more than compute \(WriteFile\); .*encoder\.trusted=true"):
        open_encoder(EncoderSettings(handle=str(folder))).build()
    encoder = open_encoder(EncoderSettings(handle=str(folder), trusted=True)).build()
    assert not target.exists()
    encoder(*(tf.zeros([1, 3], tf.int32) for _ in INPUTS))
    assert target.exists()


def test_the_list_has_no_operation_with_other_effects() -> None:
    known = {name: op_def_registry.get(name) for name in COMPUTING}
    assert [name for name, definition in known.items() if definition is None] == []
    stateful = {name for name, definition in known.items() if definition.is_stateful}
    harmless = (
        "Random",
        "Stateful",
        "Rng",
        "Truncated",
        "Lookup",
        "Variable",
        "Resource",
        "Sentencepiece",
        "HashTable",
    )
    others = {name for name in stateful if not any(part in name for part in harmless)}
    assert others == {
        *("Assert", "CheckNumerics"),  # fail
        *("Case", "If", "While"),  # call functions, which are checked
        *("DeepCopy", "DisableCopyOnRead", "Empty", "VarHandleOp", "VarIsInitializedOp"),  # memory
        *("Multinomial", "WordpieceTokenizeWithOffsets"),  # random numbers; a table of words
    }
    assert not any(part in name for name in COMPUTING for part in ("File", "Py", "Save", "Restore", "Print", "Dataset"))
