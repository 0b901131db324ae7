"""A scored folder: which job it belongs to, which parts are finished, and what a repeated job changes.

    part-*.parquet            predictions; their names say which chunks are finished (`chunks.py`)
    _rejects/part-*.parquet   input records that could not be scored, and why
    _job.json                 bundle, settings, inputs and versions, from the start
    _parts.parquet            the parts with their sizes and checksums, at the end (`parts_list.py`)
    _manifest.json            what is in _job.json, with counts and the checksum of the list
    _SUCCESS                  the checksums of the manifest and of _job.json; written last

Readers of Parquet folders (pandas, Arrow, Spark) ignore names that begin with an underscore, so the folder as a whole
is a table. When a job ends, the folder has the same bytes as one that a fresh job over the same inputs would make.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from model.errors import JobFailure, UserError
from model.folders import difference
from pipelines.corpora.chunks import NOTHING, Finished, finished_chunks, part_prefix, prefix_of
from pipelines.corpora.sources import FingerprintedSource
from pipelines.scoring.parts_list import PARTS, SUFFIX, find_damaged, read_parts, read_parts_list, write_parts_list
from pipelines.scoring.predictions import REJECTS
from pipelines.scoring.worker_notes import remove_notes
from pipelines.storage import objects
from pipelines.storage.checksums import checksum
from pipelines.storage.long_json import long_json_bytes, read_long_json
from pipelines.storage.packed import Packed

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
JOB = "_job.json"
INPUTS = "inputs"
"""The key of the list of inputs in both."""
JOB_FORMAT = 3
"""Of the job, the manifest and the parts. Format 1 had no list of parts; `verify` reads it still."""
_ROWS = 10_000


@dataclass(frozen=True)
class Job:
    """What determines the content of a scored folder.

    Attributes:
        identity: JSON values on which every byte of the predictions depends: bundle, predictor, settings.
        sources: every source with its fingerprint.
        versions: of the software; with other versions the last digits of a probability may differ.
    """

    identity: Mapping[str, Any]
    sources: Sequence[FingerprintedSource]
    versions: Mapping[str, str]

    def inputs(self) -> Iterator[dict[str, Any]]:
        """Yields path and fingerprint of every source, as JSON values."""
        return (source.fingerprint for source in self.sources)

    @cached_property
    def failures(self) -> dict[str, str]:
        """The sources whose fingerprint couldn't be taken, with the reason."""
        return {source.path: source.failure for source in self.sources if source.failure is not None}

    @cached_property
    def prefixes(self) -> Sequence[str]:
        """The prefix of the names of each source's parts, in the order of the sources.

        Raises:
            UserError: two sources have the same; by chance, or since their names differ only in bytes that are escaped.
        """
        job = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        prefixes = [
            part_prefix(fingerprint["path"], job, json.dumps(fingerprint, sort_keys=True))
            for fingerprint in self.inputs()
        ]
        if len(set(prefixes)) < len(prefixes):
            (prefix, _), *_ = Counter(prefixes).most_common(1)
            twins = [
                fingerprint["path"] for fingerprint, one in zip(self.inputs(), prefixes, strict=True) if one == prefix
            ]
            raise UserError(f"{' and '.join(twins)}: their parts would have the same names; rename one of them")
        return Packed(prefixes)

    def with_known(self, known: Mapping[str, dict[str, Any]]) -> Job:
        """Returns the job with fingerprints that an earlier call took of sources that can't be read now, by path."""
        if not known:
            return self
        sources = (
            replace(source, fingerprint=known.get(source.fingerprint["path"], source.fingerprint))
            for source in self.sources
        )
        return replace(self, sources=Packed(sources))


@dataclass(frozen=True)
class Claim:
    """What `claim_scored_folder` found in a folder that now belongs to a job.

    Attributes:
        finished: the finished chunks of each source, in the order of the sources.
        complete: whether the folder is finished.
        earlier_versions: other versions of the software than the job's that made some of the finished parts.
        damaged: chunks of earlier calls that have to be scored again since their files are damaged, with the reason.
    """

    finished: Sequence[Finished]
    complete: bool
    earlier_versions: tuple[Mapping[str, str], ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)


def claim_scored_folder(folder: str, job: Job, *, overwrite: bool = False, resume: bool = False) -> Claim:
    """Claims the folder for a job, or checks that it belongs to it already, and removes what does not belong there.

    New input files are allowed: they are work to do. The folder must be locked, see `objects.lock_folder`.

    Args:
        folder: of the parts.
        job: the job that is about to run.
        overwrite: True to remove everything from an earlier job.
        resume: True to continue although other versions of the software made some parts, or although inputs have
            changed or are no longer named; their parts are removed.

    Raises:
        UserError: the folder belongs to another job, or inputs or versions differ and `resume` is False.
    """
    sizes = _list_sizes(folder)
    if overwrite and JOB in sizes:
        _empty(folder, sizes)
        there, sizes = None, {}
    else:
        there = _read_job(folder, sizes)
    damaged: dict[str, str] = {}
    finished: Sequence[Finished] = []
    earlier_versions: list[Mapping[str, str]] = []
    if there is not None:
        head, inputs = there
        _check_identity(folder, head, job)
        job = _check_inputs(folder, inputs, job, resume=resume)
        published, damaged = _find_damage(folder, sizes, job)
        finished = finished_sources(job, (chunk for chunk in _chunks(sizes) if chunk not in damaged))
        whole = all(each.whole for each in finished)
        if whole and published and not _surplus(sizes, job):
            return Claim(finished, complete=True)
        earlier_versions = head["earlier_versions"]
        if head["versions"] != job.versions and any(_chunks(sizes)):
            _check_versions(folder, head, job, resume=resume or whole)
            earlier_versions = [*earlier_versions, head["versions"]]
    finished = finished or finished_sources(job, ())
    objects.remove_temporaries(folder)
    remove_notes(folder)
    # First, since they promise readers a finished folder.
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST, PARTS) if name in sizes])
    mark = {
        "format": JOB_FORMAT,
        "identity": job.identity,
        "versions": job.versions,
        "earlier_versions": earlier_versions,
    }
    objects.write_bytes(f"{folder}/{JOB}", long_json_bytes(mark, INPUTS, job.inputs()))
    of_damaged = (f"{place}{chunk}{SUFFIX}" for chunk in damaged for place in ("", f"{REJECTS}/"))
    objects.remove([f"{folder}/{name}" for name in {*_surplus(sizes, job), *of_damaged} if name in sizes])
    return Claim(finished, complete=False, earlier_versions=tuple(earlier_versions), damaged=damaged)


def _list_sizes(folder: str) -> dict[str, int]:
    """Returns the sizes of the files in a folder by name, those of rejects as `_rejects/NAME`."""
    sizes = objects.list_sizes(folder)
    sizes |= {f"{REJECTS}/{name}": size for name, size in objects.list_sizes(f"{folder}/{REJECTS}").items()}
    return sizes


def _find_damage(folder: str, sizes: Mapping[str, int], job: Job) -> tuple[bool, dict[str, str]]:
    """Returns whether the folder is published as it stands, and the chunks whose files are damaged, with the reason.

    The files of a published folder are compared with the list of its parts by size; of any other, the ends are read.
    """
    listed: pa.Table | None = None
    if SUCCESS in sizes:
        with suppress(ValueError):
            listed = read_parts_list(folder, read_manifest(folder), ["name", "bytes"])
    if listed is None:
        prefixes = set(job.prefixes)
        files = [name for name in sizes if _is_part(name) and "/" not in name and prefix_of(_chunk(name)) in prefixes]
        return False, find_damaged(folder, files)
    wrong: list[str] = []
    for batch in listed.to_batches(max_chunksize=_ROWS):
        names, bytes_ = (column.to_pylist() for column in batch.columns)
        wrong += [name for name, size in zip(names, bytes_, strict=True) if sizes.get(name) != size]
    added = sum(map(_is_part, sizes)) - (listed.num_rows - sum(name not in sizes for name in wrong))
    damaged = {_chunk(name): f"{name} is missing or has another size" for name in sorted(wrong)}
    return not (wrong or added), damaged


def read_marks(folder: str) -> dict[str, str]:
    """Returns the SHA-256 of manifest and job, which `_SUCCESS` has.

    Raises:
        ValueError: it can't be read.
    """
    try:
        marks = json.loads(objects.read_bytes(f"{folder}/{SUCCESS}"))
        return {name: str(marks[name]) for name in (MANIFEST, JOB)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{SUCCESS} can't be read: {' '.join(str(error).split())}") from error


def read_manifest(folder: str) -> dict[str, Any]:
    """Returns the manifest of a finished folder, without the inputs.

    Raises:
        ValueError: it can't be read, or `_SUCCESS` names another one.
    """
    path = f"{folder}/{MANIFEST}"
    try:
        with objects.open_object(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise ValueError(f"{MANIFEST} can't be read: {' '.join(str(error).split())}") from error
    if read_marks(folder)[MANIFEST] != digest:
        raise ValueError(f"{MANIFEST} is not the one that {SUCCESS} names")
    manifest, _ = read_long_json(path, INPUTS)
    return manifest


def finished_sources(job: Job, chunks: Iterable[str]) -> list[Finished]:
    """Returns the finished chunks of each source of a job, in the order of the sources.

    Args:
        job: whose sources they are.
        chunks: the names of the parts of predictions in the folder, without suffix.
    """
    found = finished_chunks(chunks)
    return [found.get(prefix, NOTHING) for prefix in job.prefixes]


def finished_parts(folder: str) -> set[str]:
    """Returns the names of the folder's parts of predictions, without suffix."""
    return set(_chunks(objects.each_name(folder)))


def publish(folder: str, job: Job, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Reads every part, lists them, writes the manifest, and then the mark that says that the folder is finished.

    What a late writer of an earlier job has added meanwhile is removed: it is not part of the table.

    Args:
        folder: of the parts.
        job: whose folder it is.
        manifest: without the inputs, the counts and the list of parts, which are added here.

    Returns:
        The manifest without the inputs.

    Raises:
        JobFailure: parts are missing or damaged; the damaged ones are removed, and a repeated job makes them again.
    """
    objects.remove_temporaries(folder)
    files = _list_parts(folder)
    surplus = _surplus(files, job) | _surplus(_list_parts(folder, f"{REJECTS}/"), job)
    objects.remove([f"{folder}/{name}" for name in surplus])
    files -= surplus
    for number, finished in enumerate(finished_sources(job, _chunks(files))):
        if not finished.whole:
            path = job.sources[number].path
            raise JobFailure(f"{folder}: parts of {path} are missing, though the job has ended; repeat the command")
    read = read_parts(folder, files)
    if read.damaged:
        for place in (folder, f"{folder}/{REJECTS}"):
            objects.remove([f"{place}/{chunk}{SUFFIX}" for chunk in read.damaged])
        chunk, reason = next(iter(read.damaged.items()))
        raise JobFailure(
            f"{folder}: {len(read.damaged)} parts are damaged ({chunk}: {reason}) and were removed; repeat the command"
        )
    manifest = {
        "format": JOB_FORMAT,
        **manifest,
        "counts": read.counts.to_json(),
        "parts": write_parts_list(folder, read.table),
    }
    rejects = set(pc.filter(read.table["name"], pc.starts_with(read.table["name"], f"{REJECTS}/")).to_pylist())
    del read
    pa.default_memory_pool().release_unused()  # what comes next takes as much
    content = long_json_bytes(manifest, INPUTS, job.inputs())
    objects.write_bytes(f"{folder}/{MANIFEST}", content)
    marks = {MANIFEST: hashlib.sha256(content).hexdigest(), JOB: checksum(f"{folder}/{JOB}")}
    objects.write_json(f"{folder}/{SUCCESS}", marks)
    late = _list_parts(folder) - files, _list_parts(folder, f"{REJECTS}/") - rejects
    objects.remove([f"{folder}/{name}" for names in late for name in names])
    remove_notes(folder)
    return manifest


def _list_parts(folder: str, place: str = "") -> set[str]:
    """Returns the names of the parts of predictions, or of those of rejects as `_rejects/NAME`."""
    names = objects.each_name(f"{folder}/{place}".rstrip("/"))
    return {name for name in (f"{place}{name}" if place else name for name in names) if _is_part(name)}


def _surplus(sizes: Iterable[str], job: Job) -> set[str]:
    """Returns the parts of predictions and rejects that are not the job's, by the names of the files."""
    prefixes = set(job.prefixes)
    return {name for name in sizes if _is_part(name) and prefix_of(_chunk(name)) not in prefixes}


def _is_part(name: str) -> bool:
    return name.startswith(("part-", f"{REJECTS}/part-")) and name.endswith(SUFFIX)


def _chunk(name: str) -> str:
    """Returns the name of a part without folder and suffix."""
    return name.rpartition("/")[2].removesuffix(SUFFIX)


def _chunks(names: Iterable[str]) -> Iterator[str]:
    """Yields the names of parts of predictions, without suffix."""
    return (name.removesuffix(SUFFIX) for name in names if _is_part(name) and "/" not in name)


def _empty(folder: str, names: Collection[str]) -> None:
    """Removes a job's files: first the mark that it is finished, last the mark that says whose folder it is."""
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST, PARTS) if name in names])
    objects.remove([f"{folder}/{name}" for name in names if _is_part(name)])
    objects.remove_folder(f"{folder}/{REJECTS}")
    remove_notes(folder)
    objects.remove([f"{folder}/{JOB}"])


def _read_job(folder: str, names: Collection[str]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]] | None:
    """Returns what the folder's job is, and its inputs; None for an empty folder."""
    if JOB not in names:
        if not objects.is_empty(folder):
            raise UserError(f"{folder}: is not empty and has no {JOB}; name another --output")
        return None
    head, inputs = read_long_json(f"{folder}/{JOB}", INPUTS)
    if head.get("format") != JOB_FORMAT:
        raise UserError(
            f"{folder}: has format {head.get('format')}, and this sepline writes format {JOB_FORMAT}; its parts can be "
            "read as they are; name another --output, or --overwrite it"
        )
    return head, inputs


def _check_identity(folder: str, there: Mapping[str, Any], job: Job) -> None:
    identity = json.loads(json.dumps(job.identity))
    if there["identity"] != identity:
        what = difference(there["identity"], identity)
        raise UserError(f"{folder}: was made with {what}; name another --output, or --overwrite this one")


def _check_inputs(folder: str, inputs: Iterator[dict[str, Any]], job: Job, *, resume: bool) -> Job:
    """Checks that the inputs are those of the folder, or more; returns the job with what was known of unreadable ones.

    Both lists are sorted by path, so that neither has to be held; what is in one alone is compared at the end.
    """
    changed: list[str] = []
    known: dict[str, dict[str, Any]] = {}

    def compare(before: dict[str, Any], now: FingerprintedSource) -> None:
        if now.failure is not None:
            known[before["path"]] = before
        # A source whose fingerprint could not be taken has not been scored.
        elif before != now.fingerprint and before.get("sha256", "") is not None:
            changed.append(before["path"])

    before_alone: dict[str, dict[str, Any]] = {}
    now_alone: dict[str, FingerprintedSource] = {}
    sources = iter(job.sources)
    now = next(sources, None)
    for before in inputs:
        while now is not None and now.fingerprint["path"] < before["path"]:
            now_alone[now.fingerprint["path"]] = now
            now = next(sources, None)
        if now is not None and now.fingerprint["path"] == before["path"]:
            compare(before, now)
            now = next(sources, None)
        else:
            before_alone[before["path"]] = before
    for source in (*now_alone.values(), *([] if now is None else [now]), *(sources if before_alone else ())):
        if (before_of := before_alone.pop(source.fingerprint["path"], None)) is not None:
            compare(before_of, source)
    changed, gone = sorted(changed), sorted(before_alone)
    if resume or not (changed or gone):
        return job.with_known(known)
    said, mend = [], []
    if changed:
        said.append(f"{_count(changed, 'changed')}")
        mend.append("scores again what changed")
    if gone:
        said.append(f"{_count(gone, 'not named now')}")
        mend.append("removes the predictions of what is not named")
    raise UserError(
        f"{folder}: of the inputs scored there {' and '.join(said)}; --resume {' and '.join(mend)} and keeps the rest, "
        "--overwrite starts over"
    )


def _count(paths: Sequence[str], what: str) -> str:
    return f"{len(paths)} {'is' if len(paths) == 1 else 'are'} {what} ({paths[0]}{', ...' if len(paths) > 1 else ''})"


def _check_versions(folder: str, there: Mapping[str, Any], job: Job, *, resume: bool) -> None:
    if not resume:
        what = difference(there["versions"], job.versions)
        raise UserError(
            f"{folder}: was started with {what}, which may change the last digits of probabilities; "
            "--resume continues anyway, --overwrite starts over"
        )
