"""Jobs over very many files: planned from what listing says, with the parts that any other job would write."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from model.bundles.bundle import Bundle
from model.errors import UserError
from pipelines.corpora.chunks import NOTHING, Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import FingerprintedSource, fingerprint_sources
from pipelines.scoring.counts import PartCounts, count_metadata, read_part_counts
from pipelines.scoring.pipeline import create_units
from pipelines.scoring.score import plan_units
from pipelines.scoring.scored_folder import Job, claim_scored_folder, publish
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.storage.parquet import read_footer

FILES = 1100
SMALL, LARGE = 3, 1500


def write_lines(path: Path, records: int, *, text: str) -> None:
    lines = (json.dumps({"doc_id": f"{path.stem}-{number}", "text": text}) + "\n" for number in range(records))
    path.write_text("".join(lines), encoding="utf-8")


def test_small_files_among_many_are_one_unit_each_with_the_same_chunks(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for number in range(FILES):
        write_lines(tmp_path / f"{number}.jsonl", SMALL, text="A sentence.")
    write_lines(tmp_path / "large.jsonl", LARGE, text="A sentence. " * 60)
    assert (tmp_path / "large.jsonl").stat().st_size > 1 << 20
    options, settings = ReadOptions(), ScoreSettings(chunk_records=2)
    context = ScoringContext(tiny_bundle, str(tmp_path / "out"), settings, options)
    job = Job(identity={}, sources=fingerprint_sources([f"{tmp_path}/*.jsonl"]), versions={})
    nothing = [NOTHING] * len(job.sources)
    units, failures = plan_units(job, nothing, context)
    assert not failures
    small = [unit for unit in units if not unit.source.endswith("large.jsonl")]
    assert len(small) == FILES
    assert {unit.records for unit in small} == {None}
    assert len(units) - len(small) == LARGE // 2

    few = replace(job, sources=[source for source in job.sources if source.path.endswith("/7.jsonl")])
    cut, _ = plan_units(few, [NOTHING], context)
    assert [unit.records for unit in cut] == [2, 1]

    def chunks(units: Sequence[Unit]) -> dict[str, object]:
        return {chunk.name: chunk.items for unit in units for chunk in read_chunks(unit, options, size=2)}

    assert chunks(cut) == chunks([unit for unit in small if unit.source.endswith("/7.jsonl")])


def test_units_take_few_bytes_of_a_job_and_arrive_as_they_were() -> None:
    units = [Unit(f"s3://bucket/folder/name-{number}.xml.gz", f"part-name-{number:012x}") for number in range(2500)]
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    arrived = pipeline | create_units(units)
    assert len(pipeline.to_runner_api().SerializeToString()) < 100 * len(units)
    assert_that(arrived, equal_to(units))
    pipeline.run().wait_until_finish()


def job_over(paths: Sequence[str], *, sha256: str = "0") -> Job:
    sources = [FingerprintedSource(path, {"path": path, "size": 1, "sha256": sha256}) for path in paths]
    return Job({"bundle": "none"}, sources, {})


def write_parts(folder: Path, job: Job) -> None:
    """Writes a part for each source; those of every third say that a record is rejected."""
    for number, prefix in enumerate(job.prefixes):
        rejected = int(number % 3 == 0)
        metadata = count_metadata(PartCounts(records=2, scored=2 - rejected, rejected=rejected))
        schema = pa.schema([pa.field("doc_id", pa.string())], metadata=metadata)
        pq.write_table(pa.table({"doc_id": ["a"]}, schema=schema), folder / f"{prefix}-000000-last.parquet")
        if rejected:
            (folder / "_rejects").mkdir(exist_ok=True)
            pq.write_table(pa.table({"reason": ["none"]}), folder / "_rejects" / f"{prefix}-000000-last.parquet")


def test_inputs_are_compared_line_by_line_whatever_their_order(tmp_path: Path) -> None:
    folder = str(tmp_path)
    claim_scored_folder(folder, job_over(["a", "b", "d"]))
    written = (tmp_path / "_job.json").read_text(encoding="utf-8").splitlines()
    assert '  {"path": "b", "size": 1, "sha256": "0"},' in written
    for paths in ("ab1cde", "dab", "0abdz"):  # with more before, between and after them
        claim_scored_folder(folder, job_over(["a", "b", "d"]), resume=True)
        claim_scored_folder(folder, job_over(list(paths)))
    claim_scored_folder(folder, job_over(["a", "b", "d"]), resume=True)
    with pytest.raises(UserError, match=r"1 is not named now \(b\)"):
        claim_scored_folder(folder, job_over(["a", "c", "d"]))
    with pytest.raises(UserError, match=r"3 are changed \(a, \.\.\.\)"):
        claim_scored_folder(folder, job_over(["d", "b", "a"], sha256="1"))


def test_a_job_with_an_indented_list_of_inputs_is_read(tmp_path: Path) -> None:
    """As format 3 was written at first."""
    claim_scored_folder(str(tmp_path), job_over(["a", "b"]))
    content = json.loads((tmp_path / "_job.json").read_text(encoding="utf-8"))
    (tmp_path / "_job.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    claim_scored_folder(str(tmp_path), job_over(["a", "b", "c"]))
    with pytest.raises(UserError, match=r"1 is not named now \(c\)"):
        claim_scored_folder(str(tmp_path), job_over(["a", "b"]))


def test_publishing_lists_the_parts_in_order_and_claiming_finds_what_is_damaged(tmp_path: Path) -> None:
    folder, job = str(tmp_path), job_over([f"{number:03}" for number in range(30)])
    claim_scored_folder(folder, job)
    write_parts(tmp_path, job)
    manifest = publish(folder, job, {"engine": "none"})
    assert manifest["counts"] | {"records": 60, "scored": 50, "rejected": 10} == manifest["counts"]
    whole = json.loads((tmp_path / "_manifest.json").read_text(encoding="utf-8"))
    assert whole == {**manifest, "inputs": list(job.inputs())}
    listed = pq.read_table(tmp_path / "_parts.parquet").to_pylist()
    assert [part["name"] for part in listed] == sorted(
        str(file.relative_to(tmp_path)) for file in tmp_path.rglob("part-*")
    )
    for part in listed:
        content = (tmp_path / part["name"]).read_bytes()
        assert (part["rows"], part["bytes"]) == (1, len(content))
        assert part["sha256"] == hashlib.sha256(content).hexdigest()
    assert claim_scored_folder(folder, job).complete

    (tmp_path / "_SUCCESS").unlink()
    broken = [f"{job.prefixes[number]}-000000-last" for number in (1, 3, 6)]
    (tmp_path / f"{broken[0]}.parquet").write_bytes(b"PAR1")
    (tmp_path / "_rejects" / f"{broken[1]}.parquet").unlink()
    pq.write_table(pa.table({"reason": ["none", "more"]}), tmp_path / "_rejects" / f"{broken[2]}.parquet")
    (tmp_path / f"part-late-{'0' * 16}-000000-last.parquet").touch()
    (tmp_path / "part-of-my-notes.txt").touch()
    (tmp_path / "_rejects" / "part-of-my-notes.txt").touch()
    claim = claim_scored_folder(folder, job)
    assert not claim.complete and claim.damaged.keys() == set(broken)
    assert "is missing" in claim.damaged[broken[1]]
    assert "has 2 rows, and 1 records were rejected" in claim.damaged[broken[2]]
    assert [number for number, finished in enumerate(claim.finished) if not finished.whole] == [1, 3, 6]
    assert len(list(tmp_path.glob("part-*.parquet"))) == 27
    assert len(list(tmp_path.glob("_rejects/part-*.parquet"))) == 8
    assert len(list(tmp_path.rglob("part-of-my-notes.txt"))) == 2


def test_the_end_of_a_part_is_enough_to_read_its_counts(tmp_path: Path) -> None:
    """Also if the footer is longer than what is read at first."""
    path = tmp_path / "part.parquet"
    for columns in (1, 2000):
        schema = pa.schema([pa.field(f"column{number}", pa.float64()) for number in range(columns)])
        schema = schema.with_metadata(count_metadata(PartCounts(records=7)))
        rows = {name: [random.Random(row).random() for row in range(100_000 // columns)] for name in schema.names}
        pq.write_table(pa.table(rows, schema=schema), path)
        content = path.read_bytes()
        assert len(content) > 1 << 18
        path.write_bytes(bytes(1000) + content[1000:])  # the pages are not looked at
        assert read_footer(str(path)).num_rows == 100_000 // columns
        assert read_part_counts(str(path)).records == 7
    assert int.from_bytes(content[-8:-4], "little") > 1 << 16
    path.write_bytes(content[:-50_000])
    with pytest.raises(ValueError, match="Parquet"):
        read_footer(str(path))
