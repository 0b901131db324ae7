"""Predictions as CSV for a spreadsheet, by the recipe in docs/scoring.md."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT

FORMULAS = ('=HYPERLINK("https://example.org/?"&A1)', "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1")


def test_the_documented_csv_holds_no_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (PROJECT / "docs" / "scoring.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (recipe,) = (block for block in blocks if "predictions.csv" in block)
    texts = [*FORMULAS, "We = found it.", "", "\x1b[2J"]
    columns = dict.fromkeys(("doc_id", "sentence", "label", "source"), texts)
    (tmp_path / "scored").mkdir()
    pq.write_table(pa.table({**columns, "probability": [-0.5] * len(texts)}), tmp_path / "scored" / "part-a.parquet")
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    with open("predictions.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == [*columns, "probability"]
    expected = [f"'{formula}" for formula in FORMULAS] + texts[len(FORMULAS) :]
    assert rows == [[text] * 4 + ["-0.5"] for text in expected]
