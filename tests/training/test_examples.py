"""The settings in examples/: each loads, builds the model that it is named after, and that model trains."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT
from test_train import INPUTS, LABELS, WEIGHTS, compiled

from model.classifier.heads import CrfHead
from model.config import load_settings
from pipelines.cli import build_parser

FILES = sorted((PROJECT / "examples").glob("*/*.yaml"))


def test_the_examples_are_the_variants_of_the_paper() -> None:
    assert [file.stem for file in FILES] == ["cls", "cls_crf", "sep", "sep_crf"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_trains(file: Path, tiny_encoder: Path) -> None:
    settings = load_settings(str(file))
    assert (settings.encoder.handle, settings.training.epochs) == ("minilm-l6", 4)
    classifier = compiled(tiny_encoder, settings, model=settings.model)
    assert (classifier.sentence_attention is not None) == file.stem.startswith("cls")
    assert isinstance(classifier.head, CrfHead) == file.stem.endswith("crf")
    before = classifier.head.linear.get_weights()[0]
    classifier.run_eagerly = True
    figures = classifier.fit(tf.data.Dataset.from_tensors(((INPUTS, LABELS, WEIGHTS),)), verbose=0, shuffle=False)
    assert np.isfinite(figures.history["loss"]).all()
    assert np.abs(classifier.head.linear.get_weights()[0] - before).max() > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_commands_of_an_example(file: Path) -> None:
    commands = re.findall(r"^#     sepline (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    preprocess, train, evaluate = (build_parser().parse_args(shlex.split(command)) for command in commands)
    assert (preprocess.verb, train.verb, evaluate.verb) == ("preprocess", "train", "evaluate")
    assert train.data == [preprocess.output] == [evaluate.data]
    assert (train.config, evaluate.model) == (str(file.relative_to(PROJECT)), f"{train.output}/bundle")
