"""What becomes of a scored chunk: a part of predictions, a part of rejects, and counts in the part's metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import model
from model.bundle import Bundle
from model.engine import Outputs
from model.records import Document, EncodedWindow, Reject
from model.schema import STATUSES, prediction_schema
from pipelines.parts import write_rejects, write_table

REJECTS = "_rejects"
_COUNTS = b"sepline.counts"


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """A chunk between tokenization and inference.

    Attributes:
        name: of its part files.
        records: input records in it.
        documents: those that can be scored, split into sentences.
        windows: for each document, its windows.
        rejects: the other records.
    """

    name: str
    records: int
    documents: tuple[Document, ...]
    windows: tuple[tuple[EncodedWindow, ...], ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True, slots=True)
class ChunkInference:
    """What the model says of a chunk.

    Attributes:
        outputs: for each window of the chunk, in order, what `Engine.run` gives.
        tokens, padded_tokens: wordpieces that the encoder read, without and with padding.
    """

    outputs: tuple[Outputs, ...]
    tokens: int
    padded_tokens: int


def write_part(chunk: TokenizedChunk, inference: ChunkInference, folder: str, bundle: Bundle) -> str:
    """Writes a chunk's parts, the rejects first, and returns the path of the part of predictions.

    The part of predictions is there even where it has no rows: it says that its chunk is done, and its metadata
    carries the chunk's counts.
    """
    counts = Counter(
        records=chunk.records,
        scored=len(chunk.documents),
        rejected=len(chunk.rejects),
        sentences=sum(len(document.sentences) for document in chunk.documents),
        windows=len(inference.outputs),
        tokens=inference.tokens,
        padded_tokens=inference.padded_tokens,
    )
    counts.update(f"rejects.{reject.reason}" for reject in chunk.rejects)
    columns, truncated = prediction_columns(chunk, inference)
    counts["truncated"] = truncated
    metadata = {
        "sepline.version": model.__version__,
        "sepline.bundle": bundle.fingerprint,
        "sepline.engine": "tensorflow",
        "sepline.labels": json.dumps(list(bundle.labels)),
    }
    write_rejects(f"{folder}/{REJECTS}/{chunk.name}.parquet", chunk.rejects, metadata)
    schema = prediction_schema(bundle.labels, {**metadata, _COUNTS.decode(): json.dumps(counts, sort_keys=True)})
    path = f"{folder}/{chunk.name}.parquet"
    write_table(path, prediction_table(columns, schema, bundle.labels))
    return path


def prediction_columns(chunk: TokenizedChunk, inference: ChunkInference) -> tuple[dict[str, Any], int]:
    """Returns the columns of a chunk's predictions before labelling, and how many sentences were truncated.

    What is said of a sentence is taken from the window that owns it.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("doc_id", "sentence_index", "sentence", "status", "source", "record_index")
    }
    said: dict[str, list[np.ndarray]] = {name: [] for outputs in inference.outputs[:1] for name in outputs}
    shown_outputs = iter(inference.outputs)
    truncated = 0
    for document, windows in zip(chunk.documents, chunk.windows, strict=True):
        count = len(document.sentences)
        cut = np.zeros(count, bool)
        for encoded in windows:
            window = encoded.window
            owned = slice(window.owned_start - window.start, window.owned_end - window.start)
            for name, values in next(shown_outputs).items():
                said[name].append(values[owned])
            cut[window.owned_start : window.owned_end] = encoded.truncated[owned]
        truncated += int(cut.sum())
        columns["doc_id"] += [document.doc_id] * count
        columns["sentence_index"] += range(count)
        columns["sentence"] += document.sentences
        columns["status"] += [STATUSES[int(flag)] for flag in cut]
        columns["source"] += [document.source] * count
        columns["record_index"] += [document.record_index] * count
    return {**columns, **{name: np.concatenate(values) for name, values in said.items()}}, truncated


def prediction_table(columns: Mapping[str, Any], schema: pa.Schema, labels: Sequence[str]) -> pa.Table:
    """Returns the predictions as a table of `schema.prediction_schema`."""
    arrays = {
        **{name: pa.array(columns[name], pa.string()) for name in ("doc_id", "sentence")},
        "sentence_index": pa.array(columns["sentence_index"], pa.int32()),
        "record_index": pa.array(columns["record_index"], pa.int64()),
        "status": pa.array(columns["status"], pa.string()).cast(schema.field("status").type),
        "source": pa.array(columns["source"], pa.string()).cast(schema.field("source").type),
    }
    if labels:
        probabilities = columns.get("probabilities", np.zeros((0, len(labels)), np.float32))
        label_ids = columns.get("label_ids", np.zeros(0, np.int32))
        chosen = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0]
        arrays["label"] = pa.DictionaryArray.from_arrays(pa.array(label_ids, pa.int16()), pa.array(labels, pa.string()))
        arrays["probability"] = pa.array(chosen, pa.float32())
        arrays["probabilities"] = pa.FixedSizeListArray.from_arrays(
            pa.array(probabilities.ravel(), pa.float32()), type=schema.field("probabilities").type
        )
    else:
        arrays["score"] = pa.array(columns.get("scores", np.zeros(0, np.float32)), pa.float32())
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def read_part_counts(part: Path) -> dict[str, int]:
    """Returns the counts in the metadata of one part of predictions."""
    counts: dict[str, int] = json.loads(pq.read_schema(part).metadata[_COUNTS])
    return counts


def sum_parts(folder: Path) -> dict[str, Any]:
    """Returns the counts of all finished parts, read from their metadata; `rejects` by reason."""
    total: Counter[str] = Counter()
    for part in sorted(folder.glob("part-*.parquet")):
        total.update(read_part_counts(part))
    names = ("records", "scored", "rejected", "sentences", "truncated", "windows", "tokens", "padded_tokens")
    reasons = {name.removeprefix("rejects."): n for name, n in sorted(total.items()) if name.startswith("rejects.")}
    return {**{name: total[name] for name in names}, "rejects": reasons}
