"""`sepline score`: document collections to predictions in Parquet.

The job claims the output folder, plans units of work for what is missing there, runs the pipeline (`pipeline.py`) that
turns them into parts, and publishes the manifest last. If it is killed at any moment, the repeated command continues
from the finished parts, and the folder (`scored_folder.py`) becomes the same as without the kill.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from model.bundles.bundle import Bundle
from model.bundles.registry import open_model
from model.errors import UserError
from model.inference.choice import choose_name, choose_precision
from model.inference.kinds import TENSORFLOW, PredictorChoice
from model.schema import prediction_schema
from pipelines.corpora.chunks import Finished, Unit, cut_source, finished_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import FingerprintedSource, SourceFailure, fingerprint_sources
from pipelines.runners.failures import one_line_failures
from pipelines.runners.machine import visible_gpus
from pipelines.runners.options import asks_for_gpus, check_paths
from pipelines.scoring.local import examine, score_locally
from pipelines.scoring.progress import ScoreProgress
from pipelines.scoring.scored_folder import Claim, Job, claim_scored_folder, finished_parts, publish, read_manifest
from pipelines.scoring.server import start_server
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.scoring.versions import software_versions
from pipelines.scoring.worker_notes import describe_work, read_notes, report_failures
from pipelines.storage import objects
from pipelines.storage.packed import Packed
from pipelines.storage.parallel import map_files

_MANY_SOURCES, _SMALL_BYTES = 1000, 1 << 20
"""Above so many sources, a smaller one than this is one unit, which nobody opens before it is scored."""
_LOCAL_RUNNERS = ("FnApiRunner", "apache_beam.runners.portability.fn_api_runner.FnApiRunner")


def score(
    bundle_dir: str,
    inputs: Sequence[str],
    output: str,
    *,
    settings: ScoreSettings,
    options: ReadOptions,
    beam_options: PipelineOptions,
    workers: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    trust_model: bool = False,
    predictor: str | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """Scores every record of the inputs and returns the manifest of the folder, without the list of inputs.

    Chunks whose parts exist, from the same bundle, inputs and settings, are not scored again.

    Args:
        bundle_dir: the trained model.
        inputs: paths and globs.
        output: the folder, on this machine or on any filesystem that Beam knows.
        settings: chunks, batches and limits.
        options: how the inputs are read.
        beam_options: of the pipeline.
        workers: processes on this machine, for Beam's local runner only; None for as many as suit cores and memory.
        overwrite: True to replace the content of the folder.
        resume: True to continue although something has changed, see `scored_folder.claim_scored_folder`.
        trust_model: True to run the model although its graph can do more than compute.
        predictor, precision: what runs the model, and in which precision; None to choose. The choice is printed.

    Raises:
        UserError: bundle, inputs or folder can't be used, or the predictor.
        JobFailure: the job failed; a repeated job continues.
        Interrupted: the user stopped it; a repeated job continues.
    """
    local = beam_options.view_as(StandardOptions).runner in _LOCAL_RUNNERS
    if workers is not None and not local:
        raise UserError("--workers are processes of this machine; leave it out and set the runner's own option")
    if local:
        start_server(bundle_dir, predictor, precision)  # it loads the predictor while the job is planned
    bundle, output = open_model(bundle_dir, trusted=trust_model), output.rstrip("/")
    check_paths(beam_options, [str(bundle.path), output, *inputs])
    prediction_schema(bundle.labels, {}, **asdict(settings.format))  # raises for a column that there isn't
    gpu = bool(visible_gpus()) if local else asks_for_gpus(beam_options)
    choice = choose_predictor(bundle, predictor, precision, gpu=gpu, examine=examine if local else None)
    job = describe_job(bundle, inputs, settings=settings, options=options, predictor=choice)
    context = ScoringContext(bundle, output, settings, options, choice)
    with objects.lock_folder(output):
        claim = claim_scored_folder(output, job, overwrite=overwrite, resume=resume)
        if claim.damaged:
            chunk, reason = next(iter(claim.damaged.items()))
            print(f"{len(claim.damaged)} parts are damaged and scored again: {chunk}: {reason}", file=sys.stderr)
        if claim.complete:
            report_failures(job.failures, len(job.sources))
            return read_manifest(output)
        print(f"predictor: {choice.describe_in_words()}", flush=True)
        units, failures = plan_units(job, claim.finished, context)
        progress = ScoreProgress(job, units, options, limit=settings.limit, folder=output, samples=not local)
        ending = one_line_failures(
            interrupted=lambda: f"{progress.describe()}. Repeat the command to continue",
            failed="what is finished is kept; repeat the command to continue",
            lost=lambda: describe_work(
                output,
                {prefix: source.path for prefix, source in zip(job.prefixes, job.sources, strict=True)},
                finished_chunks(finished_parts(output)),
                size=settings.chunk_records,
            ),
        )
        with progress, ending:
            if units and local:
                score_locally(units, context, beam_options, expect=progress.expect, workers=workers)
            elif units:
                from pipelines.scoring.pipeline import score_units  # which loads TensorFlow

                score_units(units, context, beam_options)
        report_failures({**failures, **read_notes(output)}, len(job.sources))
        return publish(output, job, _manifest(bundle_dir, context, job, claim))


def choose_predictor(
    bundle: Bundle,
    predictor: str | None,
    precision: str | None,
    *,
    gpu: bool,
    examine: Callable[[Bundle, str], tuple[str, ...]] | None = None,
) -> PredictorChoice:
    """Returns what runs a job's bundle on all of its workers.

    Args:
        bundle: the model.
        predictor, precision: what the user asked for; None to choose.
        gpu: whether the workers have GPUs.
        examine: returns the precisions of a predictor; None to look in this process, which loads the predictor.

    Raises:
        UserError: the predictor can't run the bundle.
    """
    name = choose_name(str(bundle.path), bundle.openvino, predictor, precision, gpu=gpu)
    found = examine(bundle, name) if examine else PredictorChoice(name).kind().examine(bundle)
    return choose_precision(bundle.openvino, name, precision, found)


def describe_job(
    bundle: Bundle,
    inputs: Sequence[str],
    *,
    settings: ScoreSettings,
    options: ReadOptions,
    predictor: PredictorChoice = TENSORFLOW,
) -> Job:
    """Returns the description of the job that makes these predictions; reads the inputs for their fingerprints."""
    return Job(
        identity={
            "bundle": bundle.fingerprint,
            "predictor": predictor.identity(),
            "settings": asdict(settings),
            "options": asdict(options),
        },
        sources=fingerprint_sources(inputs),
        versions=software_versions(predictor),
    )


def plan_units(job: Job, finished: Sequence[Finished], context: ScoringContext) -> tuple[Packed[Unit], dict[str, str]]:
    """Returns the units of all unfinished sources, in the order of the sources, and why the others have none.

    Reads plain files to find records. Among many files, a small one is not worth that: it is one unit.

    Args:
        job: whose sources they are.
        finished: the finished chunks of each source.
        context: of the job.
    """
    size, limit = context.settings.chunk_records, context.settings.limit
    failures = dict(job.failures)
    many = len(job.sources) > _MANY_SOURCES
    local = all(objects.is_local(source.path) for source in job.sources)

    def cut(planned: tuple[FingerprintedSource, str, Finished]) -> list[Unit]:
        source, prefix, of_source = planned
        path, state = source.path, source.state
        if source.failure is not None:
            return []
        whole = many and state is not None and state.size < _SMALL_BYTES
        try:
            return cut_source(
                path, prefix, context.options, size=size, limit=limit, finished=of_source, state=state, whole=whole
            )
        except SourceFailure as failure:
            failures[path] = str(failure)
            return []

    units: Packed[Unit] = Packed()
    for found in map_files(cut, zip(job.sources, job.prefixes, finished, strict=True), local=local):
        for unit in found:
            units.add(unit)
    return units, failures


def _manifest(bundle_dir: str, context: ScoringContext, job: Job, claim: Claim) -> dict[str, Any]:
    bundle = context.bundle
    manifest = {
        "bundle": {"path": bundle_dir, "fingerprint": bundle.fingerprint, "labels": list(bundle.labels)},
        "predictor": context.predictor.describe(),
        **{key: job.identity[key] for key in ("settings", "options")},
        "versions": {**job.versions, "apache-beam": beam.__version__},
    }
    if claim.earlier_versions:
        manifest["earlier_versions"] = list(claim.earlier_versions)
    return manifest
