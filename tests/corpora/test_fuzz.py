"""A slice of the fuzzing campaign: odd and damaged files of all formats and compressions, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import PROJECT

from pipelines.corpora.formats import FORMATS


def test_no_file_crashes_hangs_or_loses_records(tmp_path: Path) -> None:
    """The repeated run goes on where the first one stopped."""
    table = tmp_path / "fuzz.json"
    command = [sys.executable, "-W", "ignore", "benchmarks/fuzz.py", "--table", str(table), "--cases", "240"]
    for cases in (240, 480):
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        content = json.loads(table.read_text(encoding="utf-8"))
        assert (content["next"], content["failures"]) == (cases, [])
    assert [counts["cases"] for counts in content["counts"].values()] == [20] * 24
    for format in FORMATS:
        read = [counts for kind, counts in content["counts"].items() if kind.split()[0] == format]
        assert 100 < sum(counts["documents"] for counts in read) < sum(counts["records"] for counts in read)
