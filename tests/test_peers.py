"""The report of `make bench` computes what it says from the table of runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
from peer_jobs import HF
from peer_report import Run, report
from processes import CommandError, run

OURS = "sepline tensorflow f32"


def one(measure: str, who: str, size: int, round_number: int, seconds: float, **more: float) -> Run:
    usage = {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mib": 100.0, "load": 0.5}
    return {"measure": measure, "who": who, "size": size, "round": round_number, **usage, **more}


def cells(text: str, who: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {who} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def write_labels(path: Path, labels: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = pa.array(range(len(labels)), pa.int32())
    table = pa.table({"doc_id": ["a"] * len(labels), "sentence_index": indices, "label": labels})
    pq.write_table(table, path)


def test_scoring_is_compared_round_by_round_beyond_the_start(tmp_path: Path) -> None:
    write_labels(tmp_path / HF, ["A", "B", "B"])
    write_labels(tmp_path / OURS / "part-0.parquet", ["A", "B", "A"])
    runs = [
        one("score", HF, 1, 0, 5.0),
        one("score", HF, 101, 0, 15.0),  # 10 documents/s
        one("score", HF, 1, 1, 5.0),
        one("score", HF, 101, 1, 10.0),  # 20
        one("score", OURS, 1, 0, 4.0),
        one("score", OURS, 101, 0, 8.0),  # 25, 2.5 times
        one("score", OURS, 1, 1, 4.0),
        one("score", OURS, 101, 1, 8.0),  # 25, 1.25 times
        one("predictor alone", OURS, 101, 0, 9.0, predictor_cpu_seconds=6.0),  # of 8 CPU seconds beyond the start
    ]
    found = cells(report(runs, tmp_path), OURS)
    assert found[1:4] == ["4.0 s (4.0 to 4.0)", "25.0 (25.0 to 25.0)", "1.88 (1.25 to 2.50)"]
    assert found[5] == "25.0 %"
    assert found[-1] == "1 of 3"


def test_preprocessing_has_a_fixed_cost_and_a_slope(tmp_path: Path) -> None:
    runs = [
        one("preprocessing", "datasets.map", 100, 0, 7.0),
        one("preprocessing", "datasets.map", 600, 0, 12.0),  # 100 documents/s beyond 6 s
        one("preprocessing", "sepline", 100, 0, 10.5),
        one("preprocessing", "sepline", 600, 0, 13.0),  # 200 beyond 10 s
    ]
    assert cells(report(runs, tmp_path), "sepline")[1:4] == ["200", "2.00", "10.0 s"]


def test_a_command_is_measured_with_its_children_and_its_failure_is_told() -> None:
    child = "import time; hold = bytearray(64 << 20); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(1)"
    usage = run([sys.executable, "-c", parent])
    alone = run([sys.executable, "-c", "print(1)"])
    assert usage.output == alone.output == "1\n"
    assert usage.peak_mib > alone.peak_mib + 64
    with pytest.raises(CommandError, match="exit code 3: the reason"):
        run([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"])
