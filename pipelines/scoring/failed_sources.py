"""Notes about sources that could not be read, which workers leave in the folder, so that the others can be finished.

A note is a small object `_failed/PREFIX.json`, where the prefix is that of the source's parts. The job that finds notes
at its end fails, and the next one removes them and reads these sources again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model.errors import JobFailure
from pipelines.corpora.chunks import Chunk, Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import SourceFailure, shown_path
from pipelines.scoring.quarantine import read_around
from pipelines.storage import objects

FAILED = "_failed"


def read_or_note(
    unit: Unit, folder: str, options: ReadOptions, *, size: int, limit: int | None = None
) -> Iterator[Chunk]:
    """Yields the chunks of a unit as `read_chunks` does; if the source fails, leaves a note in the folder instead."""
    try:
        yield from read_chunks(unit, options, size=size, limit=limit, read=read_around)
    except SourceFailure as failure:
        note = {"source": shown_path(unit.source), "failure": str(failure)}
        objects.write_json(f"{folder}/{FAILED}/{unit.prefix}.json", note)


def read_notes(folder: str) -> dict[str, str]:
    """Returns what has failed, by source."""
    names = sorted(objects.list_names(f"{folder}/{FAILED}"))
    notes = [objects.read_json(f"{folder}/{FAILED}/{name}") for name in names]
    return {note["source"]: note["failure"] for note in notes}


def remove_notes(folder: str) -> None:
    """Removes the notes of an earlier job."""
    objects.remove([f"{folder}/{FAILED}/{name}" for name in objects.list_names(f"{folder}/{FAILED}")])
    objects.remove_folder(f"{folder}/{FAILED}")


def report_failures(failures: Mapping[str, str], sources: int) -> None:
    """Reports sources that could not be read.

    Args:
        failures: why, by source; perhaps none.
        sources: how many the job has.

    Raises:
        JobFailure: there are failures.
    """
    if failures:
        first = next(iter(failures.values()))
        raise JobFailure(
            f"{first}; {len(failures)} of {sources} sources failed, what is finished is kept; repeat the command to "
            "read them again"
        )
