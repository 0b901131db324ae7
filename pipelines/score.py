"""Document collections to predictions in Parquet, one chain:

    units | Reshuffle | ReadChunks | SplitAndTokenize | RunInference(ClassifierHandler) | WriteParts

Whole chunks travel, so Beam's cost per element vanishes. Each chunk becomes one part of predictions and, where it has
any, one of rejects. A scored folder:

    part-*.parquet            one row a sentence (`schema.prediction_schema`)
    _rejects/part-*.parquet   input records that could not be scored, and why
    _manifest.json            bundle, inputs, settings, versions, counts
    _job.json                 whose folder it is, from the start
    _SUCCESS                  written last

Readers of Parquet folders (pandas, Arrow, Spark) pass over names that begin with an underscore, so the folder as a
whole is a table.
"""

from __future__ import annotations

import json
import platform
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

import model
from model.bundle import Bundle, load_bundle
from model.engine import DEFAULT_BATCH_TOKENS, Engine
from model.folders import claim_folder, write_json
from model.progress import ProgressReporter
from model.records import Document, EncodedWindow, Reason, Reject
from model.tokenization import Tokenizer
from model.windowing import encode_windows
from pipelines.corpora import ReadOptions
from pipelines.corpora.checks import wrong_features
from pipelines.predictions import REJECTS, ChunkInference, TokenizedChunk, read_part_counts, sum_parts, write_part
from pipelines.sentences import SentenceSplitter, split_document
from pipelines.sources import fingerprint_source, match_sources
from pipelines.units import Chunk, Unit, read_chunks

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
_JOB = "_job.json"


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How a collection is scored.

    Attributes:
        chunk_records: input records a part; it bounds the memory of a worker.
        batch_tokens: padded wordpieces a micro-batch may hold.
        limit: score only the first so many records of each source; all when None.
        unlabelled_only: reject documents that carry labels already.
    """

    chunk_records: int = 500
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    limit: int | None = None
    unlabelled_only: bool = False


def score(
    bundle_dir: str,
    inputs: Sequence[str],
    output: str,
    *,
    settings: ScoreSettings,
    options: ReadOptions,
    beam_options: PipelineOptions,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Scores every record of the inputs and returns the manifest of the folder.

    A finished folder of the same bundle, inputs and settings is left as it is.

    Args:
        bundle_dir: the trained model.
        inputs: paths and globs.
        output: the folder.
        settings: chunks, batches and limits.
        options: how the inputs are read.
        beam_options: of the pipeline.
        overwrite: True to replace what the folder holds.

    Raises:
        UserError: bundle, inputs or folder can't be used.
    """
    bundle = load_bundle(bundle_dir)
    sources = [fingerprint_source(source) for source in match_sources(inputs)]
    mark = {
        "bundle": bundle.fingerprint,
        "inputs": sources,
        "settings": asdict(settings),
        "options": asdict(options),
        "engine": "tensorflow",
    }
    folder = Path(output)
    claim_folder(folder, _JOB, mark, overwrite=overwrite)
    if (folder / SUCCESS).exists():
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    for leftover in (*folder.glob("part-*.parquet"), *folder.glob(".*.writing")):
        leftover.unlink()
    shutil.rmtree(folder / REJECTS, ignore_errors=True)

    split_and_tokenize = SplitAndTokenize(
        bundle, max_sentences=options.max_sentences, unlabelled_only=settings.unlabelled_only
    )
    handler = ClassifierHandler(bundle, batch_tokens=settings.batch_tokens)
    with _FolderProgress(folder), beam.Pipeline(options=beam_options) as pipeline:
        (
            pipeline
            | "Units" >> beam.Create([Unit(str(source["path"])) for source in sources])
            | "SpreadUnits" >> beam.Reshuffle()
            | "ReadChunks" >> beam.FlatMap(read_chunks, options, size=settings.chunk_records, limit=settings.limit)
            | "SplitAndTokenize" >> beam.ParDo(split_and_tokenize)
            | "Classify" >> RunInference(handler)
            | "WriteParts" >> beam.Map(_write_part, str(folder), bundle)
        )
    manifest = {
        "bundle": {"path": str(bundle_dir), "fingerprint": bundle.fingerprint, "labels": list(bundle.labels)},
        **{key: mark[key] for key in ("engine", "settings", "options", "inputs")},
        "versions": {
            "sepline": model.__version__,
            "python": platform.python_version(),
            "apache-beam": beam.__version__,
            "pyarrow": pa.__version__,
        },
        "counts": sum_parts(folder),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / SUCCESS).touch()
    return manifest


class SplitAndTokenize(beam.DoFn):
    """Chunks of documents to chunks of windows; tokenizes a whole chunk in one call."""

    def __init__(self, bundle: Bundle, *, max_sentences: int, unlabelled_only: bool) -> None:
        self._bundle, self._max_sentences, self._unlabelled_only = bundle, max_sentences, unlabelled_only

    def setup(self) -> None:
        self._splitter = SentenceSplitter()
        self._tokenizer = Tokenizer(self._bundle.vocabulary, mask_outliers=self._bundle.mask_outliers)

    def process(self, chunk: Chunk) -> Iterator[TokenizedChunk]:
        documents: list[Document] = []
        rejects: list[Reject] = []
        for item in chunk.items:
            result = item if isinstance(item, Reject) else self._split(item)
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                documents.append(result)
        yield TokenizedChunk(
            name=chunk.name,
            records=len(chunk.items),
            documents=tuple(documents),
            windows=tuple(self._windows(documents)),
            rejects=tuple(rejects),
        )

    def _split(self, document: Document) -> Document | Reject:
        if self._unlabelled_only and is_labelled(document):
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

    def _windows(self, documents: Sequence[Document]) -> Iterator[tuple[EncodedWindow, ...]]:
        sentences = [sentence for document in documents for sentence in document.sentences]
        if not sentences:
            return
        tokens = self._tokenizer.tokenize(sentences)
        by_sentence = np.split(tokens.values.numpy(), tokens.row_limits().numpy()[:-1])
        vocabulary, first = self._bundle.vocabulary, 0
        for document in documents:
            token_ids = by_sentence[first : first + len(document.sentences)]
            first += len(document.sentences)
            features = self._bundle.standardize(document.features or ()) if self._bundle.features else None
            yield tuple(
                encode_windows(
                    token_ids,
                    self._bundle.window,
                    cls_id=vocabulary.cls_id,
                    sep_id=vocabulary.sep_id,
                    features=features,
                )
            )


class ClassifierHandler(ModelHandler[TokenizedChunk, PredictionResult, Engine]):
    """Runs a bundle's `classify` signature on whole chunks; batches by length within a chunk, one model a process."""

    def __init__(self, bundle: Bundle, *, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> None:
        super().__init__(max_batch_size=1)
        self._bundle, self._batch_tokens = bundle, batch_tokens

    def load_model(self) -> Engine:
        return Engine.load(self._bundle, batch_tokens=self._batch_tokens)

    def run_inference(
        self, batch: Sequence[TokenizedChunk], model: Engine, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        for chunk in batch:
            before = replace(model.counts)
            outputs = model.run([window for windows in chunk.windows for window in windows])
            yield PredictionResult(
                chunk,
                ChunkInference(
                    tuple(outputs),
                    tokens=model.counts.tokens - before.tokens,
                    padded_tokens=model.counts.padded_tokens - before.padded_tokens,
                ),
            )

    def get_num_bytes(self, batch: Sequence[TokenizedChunk]) -> int:
        # The default pickles the batch to measure it.
        return sum(window.token_ids.nbytes for chunk in batch for windows in chunk.windows for window in windows)


def is_labelled(document: Document) -> bool:
    """Returns whether the corpus labels the document: a label a sentence, or a heading or label over a section."""
    labelled = (section.label is not None or section.heading is not None for section in document.sections)
    return document.labels is not None or any(labelled)


def _write_part(result: PredictionResult, folder: str, bundle: Bundle) -> str:
    return write_part(result.example, result.inference, folder, bundle)


class _FolderProgress:
    """Reads progress off the parts as they land, so that it works the same on every runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with ProgressReporter("scoring", total=None, unit="records") as progress:
            records, seen = 0, set()
            while not self._stopped.wait(0.5):
                for part in self._folder.glob("part-*.parquet"):
                    if part.name not in seen:
                        seen.add(part.name)
                        records += read_part_counts(part)["records"]
                progress.update(done=records, note=f"{len(seen)} parts")
