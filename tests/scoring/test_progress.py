"""What is said while a step runs: lines where there is no terminal, durations in words, totals that become exact."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import progress
from model.progress import ProgressReporter, show_seconds
from pipelines.corpora.chunks import NOTHING, Unit, cut_source, part_prefix
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.scoring.counts import PartCounts, count_metadata
from pipelines.scoring.progress import ScoreProgress, estimate_records, sample_sources, sources_to_sample
from pipelines.scoring.scored_folder import Job


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
        unit for path in paths for unit in cut_source(path, part_prefix(path), options, size=100, finished=NOTHING)
    ]
    inputs = fingerprint_sources(paths)
    assert sources_to_sample(units) == paths[1:]
    sample = sample_sources(paths[1:], options)
    exact, about = estimate_records(inputs, units, sample)
    assert exact == 1234
    assert about == pytest.approx(40_000, rel=0.2)
    assert list(estimate_records(inputs, units, sample, limit=50)) == [1234, 50]
    assert list(estimate_records(inputs, units[-1:], (0, 0))) == [0, 1]  # what has no units is finished


def test_parts_are_read_once_and_totals_become_exact(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b'{"doc_id": "a", "text": "One."}\n'))
    job = Job({}, fingerprint_sources([f"{tmp_path}/*.gz"]), {})
    units = [Unit(source.path, prefix) for source, prefix in zip(job.sources, job.prefixes, strict=True)]
    out = tmp_path / "out"
    looking = ScoreProgress(job, units, ReadOptions(), limit=None, folder=str(out), samples=False)

    def write(name: str, records: int) -> Path:
        schema = pa.schema([pa.field("doc_id", pa.string())], metadata=count_metadata(PartCounts(records=records)))
        out.mkdir(exist_ok=True)
        pq.write_table(schema.empty_table(), out / f"{name}.parquet")
        return out / f"{name}.parquet"

    assert looking.describe() == "0 records are done"
    first = write(f"{job.prefixes[0]}-000000", 500)
    write(f"part-other-{'0' * 16}-000000-last", 7)  # of no source
    assert looking.describe() == "500 records are done"
    looking.expect((10, 1))
    sizes = [(tmp_path / name).stat().st_size for name in ("a.jsonl.gz", "b.jsonl.gz")]
    assert looking.describe() == f"500 of about {max(500, 10 * sizes[0]) + 10 * sizes[1]:,} records are done"
    first.write_bytes(b"is not read again")
    write(f"{job.prefixes[0]}-000001-last", 3)
    assert looking.describe() == f"503 of about {503 + 10 * sizes[1]:,} records are done"
    write(f"{job.prefixes[1]}-000000-last", 1)
    assert looking.describe() == "504 of 504 records are done"
    shutil.rmtree(out)
    assert looking.describe() == "504 of 504 records are done"
