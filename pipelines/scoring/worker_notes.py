"""Notes that workers leave in the scored folder for the command that ends or repeats the job.

A source that could not be read has a note `_failed/PREFIX.json`, where the prefix is that of the source's parts, so
that the others can be finished. The job that finds such notes at its end fails, and the next one reads these sources
again.

A worker on a cluster notes in `_working/NAME.json` which chunk it has in hand. If the job loses a worker, these notes
tell which chunk that was; local workers tell it themselves (`quarantine.py`). The next job removes all notes.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from model.errors import JobFailure
from pipelines.corpora.chunks import NOTHING, Chunk, Finished, Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import SourceFailure, shown_path
from pipelines.runners.fork_server import has_starter
from pipelines.scoring.quarantine import Place, Stage, last_place, read_around
from pipelines.storage import objects

FAILED = "_failed"
WORKING = "_working"
_SHOWN = 5


def read_or_note(
    unit: Unit,
    folder: str,
    options: ReadOptions,
    *,
    size: int,
    limit: int | None = None,
    failed: set[str],
    reader: str | None = None,
) -> Iterator[Chunk]:
    """Yields the chunks of a unit as `read_chunks` does; if the source fails, leaves a note in the folder instead.

    The units of a source that has failed are not tried: each would fail as well, after all the waits between tries.

    Args:
        unit: what to read.
        folder: for the notes.
        options: how to read it.
        size, limit: as for `read_chunks`.
        failed: the prefixes of sources that have failed; the unit's is added if it fails.
        reader: as for `note_chunk`.
    """
    if unit.prefix in failed:
        return
    try:
        for chunk in read_chunks(unit, options, size=size, limit=limit, read=read_around):
            note_chunk(folder, last_place(chunk), "splitting", reader)
            yield chunk
    except SourceFailure as failure:
        failed.add(unit.prefix)
        note = {"source": shown_path(unit.source), "failure": str(failure)}
        objects.write_json(f"{folder}/{FAILED}/{unit.prefix}.json", note)


def read_notes(folder: str) -> dict[str, str]:
    """Returns what has failed, by source."""
    names = sorted(objects.list_names(f"{folder}/{FAILED}"))
    notes = [objects.read_json(f"{folder}/{FAILED}/{name}") for name in names]
    return {note["source"]: note["failure"] for note in notes}


def note_chunk(folder: str, place: Place | None, stage: Stage, reader: str | None = None) -> None:
    """Leaves a note about the chunk that this worker has in hand, in place of its last one; not in local workers.

    `reader` stands for all threads that read for one of the worker's; None for the thread itself.
    """
    if place is not None and not has_starter():
        name = f"{socket.gethostname()}-{os.getpid()}-{reader or threading.get_ident()}"
        objects.write_json(f"{folder}/{WORKING}/{name}.json", {**asdict(place), "stage": stage})


def describe_work(folder: str, paths: Mapping[str, str], finished: Mapping[str, Finished], *, size: int) -> str:
    """Returns in a phrase which chunks the workers of a cluster had in hand; empty if nobody knows.

    Args:
        folder: of the notes.
        paths: of the sources, by the prefix of their parts.
        finished: the finished chunks of each source, by prefix.
        size: records per chunk.
    """
    noted: dict[tuple[str, int], tuple[Place, Stage]] = {}
    for name in sorted(objects.list_names(f"{folder}/{WORKING}")):
        note = objects.read_json(f"{folder}/{WORKING}/{name}")
        place = Place(note["prefix"], note["start"], note["record_index"])
        key = place.prefix, place.record_index // size
        # A chunk that is put to the model may still have the note of its reader, too.
        if place.prefix in paths and (key not in noted or note["stage"] == "predicting"):
            noted[key] = place, note["stage"]
    begun, behind = [], []
    for (_, index), (place, stage) in noted.items():
        path = shown_path(paths[place.prefix])
        if index not in finished.get(place.prefix, NOTHING).chunks:
            begun.append(f"{path}, records {max(place.start, index * size)} to {place.record_index} ({stage})")
        elif not finished[place.prefix].whole:
            behind.append(f"{path}, after record {place.record_index} (reading)")
    named = begun or behind
    more = f"; and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"the workers had in hand: {'; '.join(named[:_SHOWN])}{more}" if named else ""


def remove_notes(folder: str) -> None:
    """Removes the notes of an earlier job, or of this one when it is done."""
    for place in (f"{folder}/{FAILED}", f"{folder}/{WORKING}"):
        objects.remove([f"{place}/{name}" for name in objects.list_names(place)])
        objects.remove_folder(place)


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
