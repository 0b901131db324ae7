"""JSON lines: one object per line, with sepline's keys or those of allenai/sequential_sentence_classification."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from model.records import MAX_EXCERPT_BYTES, Reason
from pipelines.corpora.checks import Problem, RawRecord
from pipelines.corpora.lines import START, Line, RecordPosition, bounded_lines, every_so_many
from pipelines.corpora.options import ReadOptions


def read_jsonl(stream: BinaryIO, options: ReadOptions, start: RecordPosition = START) -> Iterator[RawRecord | Problem]:
    """Yields an item for every line from `start` on that is not blank."""
    if start.offset:
        stream.seek(start.offset)
    for line in _record_lines(stream, options, start):
        if line.too_long:
            message = f"line {line.number} is longer than {options.max_record_bytes} bytes"
            yield Problem(Reason.TOO_LARGE, message, line.data.decode("utf-8", "replace"))
        else:
            yield _parse_line(line.number, line.data, options)


def jsonl_positions(
    stream: BinaryIO, options: ReadOptions, every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the position of every `every`th record, and how many records there are, without parsing them."""
    lines = enumerate(_record_lines(stream, options, START))
    return every_so_many((RecordPosition(index, line.number, line.start) for index, line in lines), every, limit)


def is_jsonl(head: bytes) -> bool:
    """Returns True if a file begins with an object."""
    return head.startswith(b"{")


def _record_lines(stream: BinaryIO, options: ReadOptions, start: RecordPosition) -> Iterator[Line]:
    lines = bounded_lines(stream, options.max_record_bytes, start=start)
    return (line for line in lines if line.too_long or line.data.strip())


def _parse_line(number: int, data: bytes, options: ReadOptions) -> RawRecord | Problem:
    def beginning() -> str:
        return data[:MAX_EXCERPT_BYTES].decode("utf-8", "replace")

    try:
        record = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"line {number} is not UTF-8 at byte {error.start}"
        return Problem(Reason.INVALID_ENCODING, message, beginning())
    except (ValueError, RecursionError) as error:  # ValueError: broken JSON, and integers of thousands of digits
        return Problem(Reason.BROKEN_RECORD, f"line {number} is not valid JSON: {error}", beginning())
    if not isinstance(record, dict):
        return Problem(Reason.WRONG_TYPE, f"line {number} is not a JSON object", beginning())
    features = record.get("features")
    if features is None and isinstance(abstract_scores := record.get("abstract_scores"), list):
        features = [[score] for score in abstract_scores]
    return RawRecord(
        beginning,
        doc_id=_first(record, options.id_column, "abstract_id"),
        text=record.get(options.text_column),
        sentences=record.get(options.sentences_column),
        labels=record.get(options.labels_column),
        confidences=_first(record, "confidences", "confs"),
        scores=_first(record, "scores", "highlight_scores"),
        features=features,
        highlights=record.get("highlights"),
    )


def _first(record: dict[str, object], key: str, other_key: str) -> object:
    value = record.get(key)
    return record.get(other_key) if value is None else value
