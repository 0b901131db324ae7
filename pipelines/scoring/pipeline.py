"""The Beam pipeline of scoring, one chain:

    units | Reshuffle | ReadAndTokenize | RunInference(ClassifierHandler) | WriteParts

The elements are whole chunks, so that Beam's cost per element hardly matters. Each chunk becomes one part of
predictions and, if records are rejected, one part of rejects, as soon as it is scored. While that happens, the next one
is read, split and tokenized. A local worker takes its units from the process that started it, one after the other.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from model.inference.document_windows import encode_documents
from model.inference.predictor import Predictor, PredictorCounts
from model.records import Document, Reason, Reject
from pipelines.corpora.checks import reject_document, wrong_features
from pipelines.corpora.chunks import Chunk, Unit, hash_share, ids_are_shared, position_id
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.runners.ahead import Ahead
from pipelines.runners.failures import quiet_expected_errors
from pipelines.runners.fork_server import ask
from pipelines.scoring.predictions import ChunkInference, TokenizedChunk, write_part
from pipelines.scoring.quarantine import Supplied, last_place, place_in, read_one_by_one, tell_place
from pipelines.scoring.settings import ScoringContext
from pipelines.scoring.worker_notes import note_chunk, read_or_note
from pipelines.storage.packed import Packed, unpack

_PLAIN_SENTENCE = "This is a sentence."


def score_supplied(context: ScoringContext, beam_options: PipelineOptions) -> None:
    """Runs the pipeline in a local worker over the units that it is supplied with; it tells where it is."""
    quiet_expected_errors()
    pipeline = beam.Pipeline(options=beam_options)
    _score_chunks(pipeline | beam.Create([None]) | "ReadAndTokenize" >> beam.ParDo(ReadAndTokenize(context)), context)
    pipeline.run().wait_until_finish()


def score_units(units: Sequence[Unit], context: ScoringContext, beam_options: PipelineOptions) -> Any:
    """Runs the pipeline over units and returns Beam's result, which has the metrics."""
    result = submit_units(units, context, beam_options)
    result.wait_until_finish()
    return result


def submit_units(units: Sequence[Unit], context: ScoringContext, beam_options: PipelineOptions) -> Any:
    """Starts the pipeline over units and returns Beam's result. A runner in a process of its own may still be busy."""
    quiet_expected_errors()
    pipeline = beam.Pipeline(options=beam_options)
    chunks = (
        pipeline
        | "Units" >> create_units(units)
        | "SpreadUnits" >> beam.Reshuffle()
        | "ReadAndTokenize" >> beam.ParDo(ReadAndTokenize(context))
    )
    _score_chunks(chunks, context)
    return pipeline.run()


def _score_chunks(chunks: beam.PCollection, context: ScoringContext) -> None:
    (chunks | "Classify" >> RunInference(ClassifierHandler(context)) | "WriteParts" >> beam.ParDo(WriteParts(context)))


def create_units(units: Sequence[Unit]) -> beam.PTransform:
    """Returns the transform that makes a collection of units.

    They travel in packets, compressed: a unit takes 400 bytes in the job's description, whose size runners limit, and
    30 in a packet.
    """
    packed = units if isinstance(units, Packed) else Packed(units)
    return beam.Create(packed.packets()) | "Unpack" >> beam.FlatMap(unpack)


class SplitAndTokenize(beam.DoFn):
    """Turns chunks of documents into chunks of windows; tokenizes a whole chunk in one call."""

    def __init__(self, context: ScoringContext) -> None:
        self._bundle, self._settings, self._predictor = context.bundle, context.settings, context.predictor
        self._max_sentences = context.options.max_sentences

    def setup(self) -> None:
        self._splitter = SentenceSplitter()
        self._tokenize = self._predictor.kind().open_tokenizer(self._bundle)

    def process(self, chunk: Chunk) -> Iterator[TokenizedChunk]:
        documents: list[Document] = []
        rejects: list[Reject] = []
        sampled_out = 0
        ids = Counter(item.doc_id for item in chunk.items if isinstance(item, Document))
        shared_ids = sum(count for count in ids.values() if count > 1)
        by_position = ids_are_shared(shared_ids, ids.total())
        for item in chunk.items:
            tell_place(place_in(chunk.unit, item.record_index), "splitting")
            if isinstance(item, Document):
                key = position_id(item) if by_position else item.doc_id
                if hash_share(f"sample/{key}") >= self._settings.sample:
                    sampled_out += 1
                    continue
            result = item if isinstance(item, Reject) else self._split(item)
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                documents.append(result)
        sentences = [(document.sentences, document.features or ()) for document in documents]
        yield TokenizedChunk(
            name=chunk.name,
            records=len(chunk.items),
            sampled_out=sampled_out,
            shared_ids=shared_ids,
            documents=tuple(documents),
            windows=tuple(map(tuple, encode_documents(sentences, self._bundle, self._tokenize))),
            rejects=tuple(rejects),
            place=last_place(chunk),
        )

    def _split(self, document: Document) -> Document | Reject:
        """Returns the document with its sentences, or why it isn't scored."""
        beginning = document.sections[0].text if document.sections else document.sentences[0]
        if self._settings.unlabelled_only and is_labelled(document):
            message = "the document is labelled already, and only unlabelled ones are wanted"
            return reject_document(document, Reason.LABELLED, message, excerpt=beginning)
        if wrong := wrong_features(document, len(self._bundle.features)):
            return reject_document(document, Reason.WRONG_FEATURES, wrong, excerpt=beginning)
        return split_document(document, self._splitter, max_sentences=self._max_sentences)


class ReadAndTokenize(beam.DoFn):
    """Reads the chunks of units and turns them into chunks of windows, while the ones before are scored.

    A source that can't be read is noted in the folder, and not tried again here.
    """

    def __init__(self, context: ScoringContext) -> None:
        self._context = context
        self._split_and_tokenize = SplitAndTokenize(context)

    def setup(self) -> None:
        self._split_and_tokenize.setup()
        self._failed: set[str] = set()

    def process(self, unit: Unit | None) -> Iterator[TokenizedChunk]:
        """Yields the chunks of a unit; in a local worker, without one, those of all units that it is supplied with."""
        units = iter(ask, None) if unit is None else iter([Supplied(unit)])
        ahead: Ahead[TokenizedChunk] = Ahead()
        reader = f"{threading.get_ident()}-ahead"

        def make() -> Iterator[TokenizedChunk]:
            for supplied in units:
                wait = ahead.wait_until_used if supplied.careful else lambda: None
                wait()
                for chunk in self._read(supplied.unit, reader):
                    yield from self._split_and_tokenize.process(chunk)
                    wait()

        yield from ahead.run(make())

    def _read(self, unit: Unit, reader: str) -> Iterator[Chunk]:
        folder, options, settings = self._context.folder, self._context.options, self._context.settings
        size, limit = settings.chunk_records, settings.limit
        return read_or_note(unit, folder, options, size=size, limit=limit, failed=self._failed, reader=reader)


class ClassifierHandler(ModelHandler[TokenizedChunk, PredictionResult, Predictor]):
    """Runs a bundle over the windows of whole chunks, with one model per process."""

    def __init__(self, context: ScoringContext) -> None:
        super().__init__(max_batch_size=1)  # the predictor makes the batches, by length within a chunk
        self._context = context

    def load_model(self) -> Predictor:
        context = self._context
        return Predictor.load(context.bundle, context.predictor, batch_tokens=context.settings.batch_tokens)

    def run_inference(
        self, batch: Sequence[TokenizedChunk], model: Predictor, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        for chunk in batch:
            tell_place(chunk.place, "predicting")
            note_chunk(self._context.folder, chunk.place, "predicting")
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
        tell_place(result.example.place, "writing")
        counts = write_part(
            result.example,
            result.inference,
            context.folder,
            bundle=context.bundle,
            format=context.settings.format,
            predictor=context.predictor,
        )
        for name, count in counts.by_name().items():
            Metrics.counter("sepline", name).inc(count)


def try_records(unit: Unit, index: int, first: int, context: ScoringContext, beam_options: PipelineOptions) -> None:
    """Scores the records of one chunk, from a number on, one at a time, and writes nothing.

    In a local worker, what the last of them did is known when it has died.
    """
    quiet_expected_errors()
    FileSystems.set_options(beam_options)
    settings = context.settings
    split_and_tokenize = SplitAndTokenize(context)
    split_and_tokenize.setup()
    handler = ClassifierHandler(context)
    predictor: Predictor | None = None
    for chunk in read_one_by_one(
        unit, context.options, index, size=settings.chunk_records, limit=settings.limit, first=first
    ):
        for tokenized in split_and_tokenize.process(chunk):
            predictor = predictor or handler.load_model()
            for _ in handler.run_inference([tokenized], predictor):
                pass


def try_model(context: ScoringContext) -> None:
    """Loads all that works on a record, and puts a plain sentence to the model; it writes nothing.

    A worker that dies of that dies of no record.
    """
    quiet_expected_errors()
    SplitAndTokenize(context).setup()
    bundle, handler = context.bundle, ClassifierHandler(context)
    sentences = [((_PLAIN_SENTENCE,), ((0.0,) * len(bundle.features),))]
    for windows in encode_documents(sentences, bundle, context.predictor.kind().open_tokenizer(bundle)):
        handler.load_model().results(windows, PredictorCounts())


def is_labelled(document: Document) -> bool:
    """Returns True if the corpus labels the document: it has labels, or a section with a label or a heading."""
    labelled = (section.label is not None or section.heading is not None for section in document.sections)
    return document.labels is not None or any(labelled)
