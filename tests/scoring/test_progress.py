"""What is said while a step runs: lines where there is no terminal, durations in words, totals that become exact."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from model import progress
from model.progress import ProgressReporter, show_seconds
from pipelines.corpora.chunks import Finished, cut_source, part_prefix
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.scoring.progress import estimate_records


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (59.6, "60 s"), (130, "2.2 min"), (3000, "50 min"), (9000, "2.5 h"), (1e6, "11.6 days")],
)
def test_durations_in_words(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_lines_say_what_is_done_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with ProgressReporter("scoring", total=None, unit="records", done=1000) as reporter:
        reporter.update(done=1000)
        reporter.update(done=1000, total=2000)
        reporter.update(done=1500, total=2000, note="9.0 records/s")
        reporter.update(done=2000, total=2000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["scoring: 1,000 records", "scoring: 1,000 of 2,000 records"]
    assert lines[2] == "scoring: 1,500 of 2,000 records, 9.0 records/s, 0 s left"
    assert lines[3] == "scoring: 2,000 of 2,000 records"


def test_totals_are_exact_where_units_are_and_estimated_from_sizes_elsewhere(tmp_path: Path) -> None:
    lines = [
        json.dumps({"doc_id": str(i), "text": f"{i * 7919 % 10007} words {'x' * (i % 90)}."}) for i in range(40_000)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:1234]), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl.gz")]
    options = ReadOptions()
    units = [
        unit
        for path in paths
        for unit in cut_source(path, part_prefix(path), options, size=100, finished=Finished(set()))
    ]
    inputs = fingerprint_sources(paths)
    found = estimate_records(inputs, units, options)
    assert found[paths[0]] == 1234
    assert found[paths[1]] == pytest.approx(40_000, rel=0.2)
    assert estimate_records(inputs, units, options, limit=50)[paths[1]] == 50
