"""What needs an extra says so in one line, and names the extra."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from model.evaluation.score_metrics import measure_scores
from model.extras import import_extra
from pipelines.cli import main


def test_an_address_of_tf_hub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)  # as if it were not installed
    assert main(["encoder", "https://example.org/bert"]) == 2
    assert capsys.readouterr().err == (
        "sepline: encoder.handle 'https://example.org/bert', an address, needs the package tensorflow_hub, "
        "which is missing; install it with: pip install 'sepline[hub]'\n"
    )


def test_a_path_on_s3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert main(["inspect", "s3://bucket/corpus.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "sepline: s3://bucket/corpus.jsonl needs the package boto3, which is missing; "
        "install it with: pip install 'sepline[s3]'\n"
    )


def test_highlights(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rouge_score", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, name, None)
    scores = np.array([1.0, 2.0])
    assert measure_scores(["a", "a"], scores, scores, highlights=[(["x", "y"], [])]).mse == 0.0
    with pytest.raises(UserError, match=r"^ROUGE .*rouge_score, .*: pip install 'sepline\[rouge\]'$"):
        measure_scores(["a", "a"], scores, scores, highlights=[(["x", "y"], ["x"])])


def test_a_package_that_is_there_but_broken_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_extra.py").write_text("import a_package_that_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        import_extra("broken_extra", extra="any", purpose="a test")
