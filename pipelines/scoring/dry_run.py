"""Estimates what a scoring job would do and how long it would take, from the inputs and a short timed sample."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from model.bundles.registry import open_model
from model.inference.predictor import Predictor
from model.schema import prediction_schema
from pipelines.corpora.chunks import Chunk, Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.runners.machine import visible_gpus
from pipelines.scoring.pipeline import SplitAndTokenize
from pipelines.scoring.predictions import ChunkInference, assemble_documents, prediction_table
from pipelines.scoring.progress import estimate_records, sample_sources, sources_to_sample
from pipelines.scoring.score import choose_predictor, describe_job, plan_units
from pipelines.scoring.scored_folder import finished_parts, finished_sources
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.scoring.worker_notes import report_failures
from pipelines.storage.parquet import parquet_bytes

_SAMPLE_SECONDS = 5.0
_SAMPLE_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would do.

    Attributes:
        sources: number of input files.
        input_bytes: their size as stored.
        finished_sources: how many of them are finished in the output folder.
        units: units of work left.
        records: records in the files that are left.
        exact: True if `records` is exact, False if it is an estimate.
        sampled_records: records of the timed sample.
        records_per_second: of one process with all cores.
        seconds: how long the job would take in one process with all cores.
        output_bytes: what it would write.
    """

    sources: int
    input_bytes: int
    finished_sources: int
    units: int
    records: int
    exact: bool
    sampled_records: int
    records_per_second: float
    seconds: float
    output_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


def estimate(
    bundle_dir: str,
    inputs: Sequence[str],
    output: str,
    *,
    settings: ScoreSettings,
    options: ReadOptions,
    trust_model: bool = False,
    predictor: str | None = None,
    precision: str | None = None,
) -> Estimate:
    """Returns what `score` with the same arguments would do. Writes nothing.

    Raises:
        UserError: bundle or inputs can't be used.
        JobFailure: an input can't be read.
    """
    bundle = open_model(bundle_dir, trusted=trust_model)
    prediction_schema(bundle.labels, {}, **asdict(settings.format))  # raises for a column that there isn't
    choice = choose_predictor(bundle, predictor, precision, gpu=bool(visible_gpus()))
    context = ScoringContext(bundle, output, settings, options, choice)
    job = describe_job(bundle, inputs, settings=settings, options=options, predictor=choice)
    finished = finished_sources(job, finished_parts(output))
    units, failures = plan_units(job, finished, context)
    report_failures(failures, len(job.sources))
    beginnings = sample_sources(sources_to_sample(units), options)
    records = int(estimate_records(job.sources, units, beginnings, limit=settings.limit).sum())

    sample = _run_sample(units, context)
    speed = sample.records / sample.seconds if sample.seconds else 0.0
    return Estimate(
        sources=len(job.sources),
        input_bytes=sum(source["size"] for source in job.inputs()),
        finished_sources=sum(each.whole for each in finished),
        units=len(units),
        records=records,
        exact=all(unit.records is not None for unit in units),
        sampled_records=sample.records,
        records_per_second=speed,
        seconds=records / speed if speed else 0.0,
        output_bytes=round(records * sample.output_bytes / sample.records) if sample.records else 0,
    )


@dataclass(slots=True)
class _Sample:
    """What has been scored for an estimate: records, the seconds that they took, and the size of their parts."""

    records: int = 0
    seconds: float = 0.0
    output_bytes: int = 0


def _run_sample(units: Sequence[Unit], context: ScoringContext) -> _Sample:
    """Scores small chunks for a few seconds, without the first one if it is whole: the model's first batch is slow."""
    bundle, settings = context.bundle, context.settings
    schema = prediction_schema(bundle.labels, {}, **asdict(settings.format))
    split_and_tokenize = SplitAndTokenize(context)
    split_and_tokenize.setup()
    predictor = Predictor.load(bundle, context.predictor, batch_tokens=settings.batch_tokens)
    sample = _Sample()
    for number, chunk in enumerate(_small_chunks(units, context.options, limit=settings.limit)):
        started = time.perf_counter()
        (tokenized,) = split_and_tokenize.process(chunk)
        results = predictor.results([window for windows in tokenized.windows for window in windows])
        scored, _ = assemble_documents(tokenized, ChunkInference(tuple(results), tokens=0, padded_tokens=0))
        table = prediction_table(scored, schema, labels=bundle.labels, layout=settings.format.layout)
        output_bytes = len(parquet_bytes(table))
        if number == 0 and len(chunk.items) == _SAMPLE_CHUNK:
            continue
        sample.records += len(chunk.items)
        sample.seconds += time.perf_counter() - started
        sample.output_bytes += output_bytes
        if sample.seconds >= _SAMPLE_SECONDS:
            break
    return sample


def _small_chunks(units: Sequence[Unit], options: ReadOptions, *, limit: int | None) -> Iterator[Chunk]:
    """Yields small chunks from the beginnings of units, from one unit after another."""
    for unit in islice(units, 0, None, max(1, len(units) // 10)):
        yield from islice(read_chunks(unit, options, size=_SAMPLE_CHUNK, limit=limit), 5)
