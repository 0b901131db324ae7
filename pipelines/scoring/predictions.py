"""Writes a scored chunk: a part of predictions with the chunk's counts in its metadata, and a part of rejects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

import model
from model.bundles.bundle import Bundle
from model.inference.kinds import TENSORFLOW, Outputs, PredictorChoice
from model.inference.owned import take_owned
from model.inference.predictor import WindowFailure
from model.records import Document, EncodedWindow, Reason, Reject
from model.schema import STATUSES, prediction_schema
from pipelines.corpora.checks import reject_document
from pipelines.scoring.counts import PartCounts, count_metadata
from pipelines.scoring.quarantine import Place
from pipelines.scoring.settings import PartFormat
from pipelines.scoring.versions import software_versions
from pipelines.storage.parquet import write_rejects, write_table

_ROWS = 1 << 20
REJECTS = "_rejects"
"""The folder of the parts of rejects, in the scored folder."""


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """A chunk between tokenization and inference.

    Attributes:
        name: of its part files.
        records: input records in it.
        sampled_out: how many of them are not in the sample.
        documents: the documents to score, split into sentences.
        windows: for each document, its windows.
        rejects: the other records.
        shared_ids: how many of its documents, sampled or not, have the id of another one.
        place: where it comes from; None if that is of no interest.
    """

    name: str
    records: int
    sampled_out: int
    documents: tuple[Document, ...]
    windows: tuple[tuple[EncodedWindow, ...], ...]
    rejects: tuple[Reject, ...]
    shared_ids: int = 0
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class ChunkInference:
    """The model's outputs for a chunk.

    Attributes:
        results: for each window of the chunk, in order, its outputs `[sentences, ...]`, or why it has none.
        tokens, padded_tokens: wordpieces that the encoder read, without and with padding.
    """

    results: tuple[Outputs | WindowFailure, ...]
    tokens: int
    padded_tokens: int


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A document whose windows were all read.

    Attributes:
        document: with its sentences.
        outputs: `[sentences, ...]`, each sentence's from the window that owns it.
        truncated: bool `[sentences]`.
    """

    document: Document
    outputs: Outputs
    truncated: np.ndarray


def write_part(
    chunk: TokenizedChunk,
    inference: ChunkInference,
    folder: str,
    *,
    bundle: Bundle,
    format: PartFormat,
    predictor: PredictorChoice = TENSORFLOW,
) -> PartCounts:
    """Writes a chunk's parts, the rejects first, and returns its counts.

    The part of predictions is written even if it has no rows: its name says that the chunk is done, and its metadata
    has the chunk's counts.
    """
    scored, failed = assemble_documents(chunk, inference)
    rejects = sorted((*chunk.rejects, *failed), key=lambda reject: reject.record_index)
    counts = PartCounts(
        records=chunk.records,
        scored=len(scored),
        rejected=len(rejects),
        sampled_out=chunk.sampled_out,
        shared_ids=chunk.shared_ids,
        sentences=sum(len(document.truncated) for document in scored),
        truncated=sum(int(document.truncated.sum()) for document in scored),
        windows=len(inference.results),
        tokens=inference.tokens,
        padded_tokens=inference.padded_tokens,
        rejects=Counter(reject.reason for reject in rejects),
    )
    metadata = {
        "sepline.version": model.__version__,
        "sepline.versions": json.dumps(software_versions(predictor)),
        "sepline.bundle": bundle.fingerprint,
        "sepline.predictor": json.dumps(predictor.describe()),
        "sepline.labels": json.dumps(list(bundle.labels)),
    }
    write_rejects(f"{folder}/{REJECTS}/{chunk.name}.parquet", rejects, metadata)
    schema = prediction_schema(bundle.labels, {**metadata, **count_metadata(counts)}, **asdict(format))
    table = prediction_table(scored, schema, labels=bundle.labels, layout=format.layout)
    write_table(f"{folder}/{chunk.name}.parquet", table)
    return counts


def assemble_documents(chunk: TokenizedChunk, inference: ChunkInference) -> tuple[list[ScoredDocument], list[Reject]]:
    """Returns the documents of a chunk that are scored, and a reject for each that has a failed window."""
    scored: list[ScoredDocument] = []
    failed: list[Reject] = []
    results = iter(inference.results)
    for document, windows in zip(chunk.documents, chunk.windows, strict=True):
        of_document = [(encoded, next(results)) for encoded in windows]
        failures = [(encoded.window, result) for encoded, result in of_document if isinstance(result, WindowFailure)]
        if failures:
            window, failure = failures[0]
            message = f"the model failed on sentences {window.start} to {window.end - 1}: {failure.message}"
            excerpt = " ".join(document.sentences)
            failed.append(reject_document(document, Reason.FAILED_WINDOW, message, excerpt=excerpt))
            continue
        shown = [
            {**result, "truncated": encoded.truncated}
            for encoded, result in of_document
            if not isinstance(result, WindowFailure)
        ]
        outputs = take_owned((encoded.window for encoded in windows), shown)
        scored.append(ScoredDocument(document, outputs, outputs.pop("truncated")))
    return scored, failed


def prediction_table(
    scored: Sequence[ScoredDocument], schema: pa.Schema, *, labels: Sequence[str], layout: str
) -> pa.Table:
    """Returns the predictions as a table of the `schema.prediction_schema` of a layout."""
    lengths = np.array([len(document.truncated) for document in scored], np.int64)
    documents = [document.document for document in scored]
    flat: dict[str, pa.Array | pa.ChunkedArray] = {
        "doc_id": pa.array([document.doc_id for document in documents], pa.string()),
        "source": pa.array([document.source for document in documents], pa.string()).dictionary_encode(),
        "record_index": pa.array([document.record_index for document in documents], pa.int64()),
    }
    if layout == "documents":
        if "sentences" in schema.names:
            item = schema.field("sentences").type.value_field
            struct = pa.StructArray.from_arrays(
                _arrays_of(_sentences(scored, labels), item.type), fields=list(item.type)
            )
            ends = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
            flat["sentences"] = pa.ListArray.from_arrays(ends, struct, type=schema.field("sentences").type)
    else:
        rows = np.repeat(np.arange(len(scored)), lengths)
        flat = {**{name: _take(array, rows) for name, array in flat.items()}, **_sentences(scored, labels)}
        firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        flat["sentence_index"] = pa.array(np.arange(len(rows)) - firsts, pa.int32())
    return pa.Table.from_arrays(_arrays_of(flat, schema), schema=schema)


def _sentences(scored: Sequence[ScoredDocument], labels: Sequence[str]) -> dict[str, pa.Array]:
    """Returns the columns about sentences, with a row for each sentence of all documents."""

    def joined(name: str, dtype: type[np.generic], *shape: int) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape), dtype), *(each.outputs[name] for each in scored)])

    truncated = np.concatenate([np.zeros(0, bool), *(each.truncated for each in scored)])
    arrays = {
        "sentence": pa.array([text for each in scored for text in each.document.sentences], pa.string()),
        "status": pa.DictionaryArray.from_arrays(pa.array(truncated.astype(np.int8)), pa.array(STATUSES, pa.string())),
    }
    if not labels:
        return {**arrays, "score": pa.array(joined("scores", np.float32), pa.float32())}
    probabilities, label_ids = joined("probabilities", np.float32, len(labels)), joined("label_ids", np.int32)
    chosen = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0]
    return {
        **arrays,
        "label": pa.DictionaryArray.from_arrays(pa.array(label_ids, pa.int16()), pa.array(labels, pa.string())),
        "probability": pa.array(chosen, pa.float32()),
        "probabilities": pa.FixedSizeListArray.from_arrays(
            pa.array(probabilities.ravel(), pa.float32()),
            type=pa.list_(pa.field("element", pa.float32(), nullable=False), len(labels)),
        ),
    }


def _take(array: pa.Array, rows: np.ndarray) -> pa.ChunkedArray:
    """Returns the entries of these rows. Arrow's offsets have 32 bits, which the ids of a million rows can't exceed."""
    return pa.chunked_array(
        [array.take(pa.array(rows[start : start + _ROWS])) for start in range(0, len(rows), _ROWS)], type=array.type
    )


def _arrays_of(
    columns: Mapping[str, pa.Array | pa.ChunkedArray], fields: pa.Schema | pa.StructType
) -> list[pa.Array | pa.ChunkedArray]:
    """Returns the arrays of the named fields, in the fields' order and of their types."""
    return [
        columns[field.name] if columns[field.name].type == field.type else columns[field.name].cast(field.type)
        for field in fields
    ]
