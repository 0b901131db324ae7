"""`make demo` as it stands in the Makefile, on downloads that are small."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import PROJECT
from support.small_downloads import UNLABELLED, write_downloads

from model.bundles.bundle import load_bundle
from model.bundles.training_data import open_training_data


def make_command(target: str) -> list[str]:
    """Returns the one command of a target of the Makefile, with the program that is installed beside this Python."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    program, *arguments = shlex.split(recipe.replace("$(BIN)", str(Path(sys.executable).parent)))
    return [program, *arguments]


@pytest.mark.engines
def test_make_demo(tmp_path: Path) -> None:
    """Each verb in a process of its own, from the downloads to a query over the predictions."""
    write_downloads(tmp_path / "cache", layers=4)
    result = subprocess.run(
        make_command("demo"),
        cwd=tmp_path,
        env={**os.environ, "SEPLINE_CACHE": str(tmp_path / "cache"), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # Nothing but how far a slow machine has come.
    assert [line for line in result.stderr.splitlines() if not re.match(r"(epoch \d|scoring:) ?", line)] == []
    said = result.stdout
    verbs = [line.split()[2] for line in said.splitlines() if line.startswith("$ sepline ")]
    assert verbs == ["preprocess", "train", "evaluate", "score"]
    made = tmp_path / "build" / "demo" / "quick"
    data, bundle = open_training_data(made / "records"), load_bundle(made / "run" / "bundle")
    counts = data.stats["counts"]
    assert (counts["records"], counts["rejects"]) == (340, {"unlabelled": 40})
    assert counts["sampled_out"] + sum(counts["documents"].values()) == 300
    assert counts["sentences"]["test"] == 5 * counts["documents"]["test"] > 0
    assert f"test split: {counts['documents']['test']} documents" in said
    assert set(bundle.labels) == {"background", "methods", "results", "conclusions"}
    assert bundle.description["settings"]["encoder"]["layers"] == 4
    rows = pq.read_table(made / "scored").to_pylist()
    assert [(row["doc_id"], row["sentence"]) for row in rows] == [
        (str(number), sentence) for number in UNLABELLED for sentence in (f"We found level {number}.", "We conclude.")
    ]
    # The first abstracts, and a query over all of them.
    assert re.findall(r"^document (\d+)$", said, flags=re.MULTILINE) == ["300", "301", "302"]
    table = said[said.index("A query over all of them") :]
    found = dict(re.findall(r"│ (\w+) +│ +(\d+) │", table))
    given = [row["label"] for row in rows]
    assert found == {label: str(given.count(label)) for label in set(given)}
    assert "All done in " in said
