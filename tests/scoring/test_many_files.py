"""Jobs over very many files: planned from what listing says, with the parts that any other job would write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from model.bundles.bundle import Bundle
from pipelines.corpora.chunks import Finished, Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.scoring.pipeline import create_units
from pipelines.scoring.score import plan_units
from pipelines.scoring.scored_folder import Job
from pipelines.scoring.settings import ScoreSettings, ScoringContext

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
    nothing = {source.path: Finished(set()) for source in job.sources}
    units, failures = plan_units(job, nothing, context)
    assert not failures
    small = [unit for unit in units if not unit.source.endswith("large.jsonl")]
    assert len(small) == FILES
    assert {unit.records for unit in small} == {None}
    assert len(units) - len(small) == LARGE // 2

    few = replace(job, sources=[source for source in job.sources if source.path.endswith("/7.jsonl")])
    cut, _ = plan_units(few, nothing, context)
    assert [unit.records for unit in cut] == [2, 1]

    def chunks(units: list[Unit]) -> dict[str, object]:
        return {chunk.name: chunk.items for unit in units for chunk in read_chunks(unit, options, size=2)}

    assert chunks(cut) == chunks([unit for unit in small if unit.source.endswith("/7.jsonl")])


def test_units_take_few_bytes_of_a_job_and_arrive_as_they_were() -> None:
    units = [Unit(f"s3://bucket/folder/name-{number}.xml.gz", f"part-name-{number:012x}") for number in range(2500)]
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    arrived = pipeline | create_units(units)
    assert len(pipeline.to_runner_api().SerializeToString()) < 100 * len(units)
    assert_that(arrived, equal_to(units))
    pipeline.run().wait_until_finish()
