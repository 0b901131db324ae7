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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from model.errors import JobFailure, UserError
from model.folders import difference, json_bytes
from pipelines.corpora.chunks import Finished, finished_chunks, part_prefix, prefix_of
from pipelines.corpora.sources import FingerprintedSource, shown_path
from pipelines.scoring.parts_list import PARTS, SUFFIX, read_parts, read_parts_list, write_parts_list
from pipelines.scoring.predictions import REJECTS
from pipelines.scoring.worker_notes import remove_notes
from pipelines.storage import objects

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
JOB = "_job.json"
JOB_FORMAT = 3
"""Of the job, the manifest and the parts. Format 1 had no list of parts; `verify` reads it still."""


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

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Path and fingerprint of every source, as JSON values."""
        return [source.fingerprint for source in self.sources]

    @property
    def failures(self) -> dict[str, str]:
        """The sources whose fingerprint couldn't be taken, with the reason."""
        return {source.path: source.failure for source in self.sources if source.failure is not None}

    def prefixes(self) -> dict[str, str]:
        """Returns the prefix of the names of each source's parts, by its path.

        Raises:
            UserError: two sources have the same; by chance, or since their names differ only in bytes that are escaped.
        """
        job = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        prefixes = {
            source.path: part_prefix(source.fingerprint["path"], job, json.dumps(source.fingerprint, sort_keys=True))
            for source in self.sources
        }
        if len(set(prefixes.values())) < len(prefixes):
            (prefix, _), *_ = Counter(prefixes.values()).most_common(1)
            twins = [shown_path(path) for path, one in prefixes.items() if one == prefix]
            raise UserError(f"{' and '.join(twins)}: their parts would have the same names; rename one of them")
        return prefixes

    def with_known(self, inputs: Sequence[Mapping[str, Any]]) -> Job:
        """Returns the job with the fingerprints that an earlier call took of the sources that can't be read now."""
        known = {source["path"]: dict(source) for source in inputs}
        return replace(
            self,
            sources=[
                source
                if source.failure is None
                else replace(source, fingerprint=known.get(source.fingerprint["path"], source.fingerprint))
                for source in self.sources
            ],
        )


@dataclass(frozen=True)
class Claim:
    """What `claim_scored_folder` found in a folder that now belongs to a job.

    Attributes:
        finished: the finished chunks of each source, by path.
        complete: whether the folder is finished.
        earlier_versions: other versions of the software than the job's that made some of the finished parts.
        damaged: chunks of earlier calls that have to be scored again since their files are damaged, with the reason.
    """

    finished: Mapping[str, Finished]
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
    names = objects.list_names(folder)
    if overwrite and JOB in names:
        _empty(folder, names)
        there, names = None, set()
    else:
        there = _read_job(folder, names)
    if there is not None:
        job = job.with_known(there["inputs"])
    expected = set(job.prefixes().values())
    damaged: dict[str, str] = {}
    earlier_versions: list[Mapping[str, str]] = []
    if there is not None:
        _check_identity(folder, there, job)
        _check_inputs(folder, there, job, resume=resume)
        published, damaged = _find_damage(folder, names)
        finished = finished_sources(folder, job, names - {f"{chunk}{SUFFIX}" for chunk in damaged})
        whole = all(each.whole for each in finished.values())
        parts = _parts(names)
        if whole and published and {prefix_of(part) for part in parts} == expected:
            return Claim(finished, complete=True)
        earlier_versions = there["earlier_versions"]
        if there["versions"] != job.versions and parts:
            _check_versions(folder, there, job, resume=resume or whole)
            earlier_versions = [*earlier_versions, there["versions"]]
    objects.remove_temporaries(folder)
    remove_notes(folder)
    # First, since they promise readers a finished folder.
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST, PARTS) if name in names])
    mark = {
        "format": JOB_FORMAT,
        "identity": job.identity,
        "versions": job.versions,
        "earlier_versions": earlier_versions,
        "inputs": job.inputs,
    }
    objects.write_json(f"{folder}/{JOB}", mark)
    for place in (folder, f"{folder}/{REJECTS}"):
        there_now = _parts(objects.list_names(place))
        stale = [part for part in there_now if prefix_of(part) not in expected or part in damaged]
        objects.remove([f"{place}/{part}{SUFFIX}" for part in stale])
    return Claim(
        finished_sources(folder, job), complete=False, earlier_versions=tuple(earlier_versions), damaged=damaged
    )


def _find_damage(folder: str, names: Collection[str]) -> tuple[bool, dict[str, str]]:
    """Returns whether the folder is published as it stands, and the chunks whose files are damaged, with the reason.

    The files of a published folder are compared with the list of its parts by size; those of any other are read.
    """
    if SUCCESS in names:
        try:
            listed = read_parts_list(folder, read_manifest(folder))
        except ValueError:
            listed = None
        if listed is not None:
            there = objects.list_sizes(folder)
            there |= {f"{REJECTS}/{name}": size for name, size in objects.list_sizes(f"{folder}/{REJECTS}").items()}
            sizes = {name: size for name, size in there.items() if PurePosixPath(name).name.startswith("part-")}
            wrong = sorted(
                name for name in sizes.keys() | listed if name not in listed or sizes.get(name) != listed[name].bytes
            )
            damaged = {
                PurePosixPath(name).name.removesuffix(SUFFIX): f"{name} is missing or has another size"
                for name in wrong
                if name in listed
            }
            return not wrong, damaged
    return False, dict(read_parts(folder, _parts(names)).damaged)


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
    """Returns the manifest of a finished folder.

    Raises:
        ValueError: it can't be read, or `_SUCCESS` names another one.
    """
    try:
        content = objects.read_bytes(f"{folder}/{MANIFEST}")
    except OSError as error:
        raise ValueError(f"{MANIFEST} can't be read: {' '.join(str(error).split())}") from error
    if read_marks(folder)[MANIFEST] != hashlib.sha256(content).hexdigest():
        raise ValueError(f"{MANIFEST} is not the one that {SUCCESS} names")
    return dict(json.loads(content))


def finished_sources(folder: str, job: Job, names: Collection[str] | None = None) -> dict[str, Finished]:
    """Returns the finished chunks of each source of a job, by path.

    Args:
        folder: of the parts.
        job: whose sources they are.
        names: of the objects in the folder; None to list them.
    """
    parts = finished_chunks(_parts(objects.list_names(folder) if names is None else names))
    return {path: parts.get(prefix, Finished(set())) for path, prefix in job.prefixes().items()}


def finished_parts(folder: str) -> set[str]:
    """Returns the names of the folder's parts of predictions, without suffix."""
    return _parts(objects.list_names(folder))


def publish(folder: str, job: Job, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Reads every part, lists them, writes the manifest, and then the mark that says that the folder is finished.

    What a late writer of an earlier job has added meanwhile is removed: it is not part of the table.

    Args:
        folder: of the parts.
        job: whose folder it is.
        manifest: without the counts and the list of parts, which are added here.

    Returns:
        The manifest.

    Raises:
        JobFailure: parts are missing or damaged; the damaged ones are removed, and a repeated job makes them again.
    """
    objects.remove_temporaries(folder)
    _remove_surplus(folder, job, None)
    names = finished_parts(folder)
    found = finished_chunks(names)
    for path, prefix in job.prefixes().items():
        if prefix not in found or not found[prefix].whole:
            raise JobFailure(f"{folder}: parts of {path} are missing, though the job has ended; repeat the command")
    read = read_parts(folder, names)
    if read.damaged:
        for place in (folder, f"{folder}/{REJECTS}"):
            objects.remove([f"{place}/{chunk}{SUFFIX}" for chunk in read.damaged])
        chunk, reason = next(iter(read.damaged.items()))
        raise JobFailure(
            f"{folder}: {len(read.damaged)} parts are damaged ({chunk}: {reason}) and were removed; repeat the command"
        )
    listed = write_parts_list(folder, read.parts)
    manifest = {"format": JOB_FORMAT, **manifest, "counts": read.counts.to_json(), "parts": listed}
    content = json_bytes(manifest)
    objects.write_bytes(f"{folder}/{MANIFEST}", content)
    marks = {MANIFEST: content, JOB: objects.read_bytes(f"{folder}/{JOB}")}
    objects.write_json(f"{folder}/{SUCCESS}", {name: hashlib.sha256(text).hexdigest() for name, text in marks.items()})
    _remove_surplus(folder, job, {part.name for part in read.parts})
    remove_notes(folder)
    return manifest


def _remove_surplus(folder: str, job: Job, listed: Collection[str] | None) -> None:
    """Removes parts that are not the job's, or not in the list."""
    expected = set(job.prefixes().values())
    for place in ("", f"{REJECTS}/"):
        surplus = [
            f"{folder}/{place}{part}{SUFFIX}"
            for part in _parts(objects.list_names(f"{folder}/{place}".rstrip("/")))
            if prefix_of(part) not in expected or (listed is not None and f"{place}{part}{SUFFIX}" not in listed)
        ]
        objects.remove(surplus)


def _parts(names: Iterable[str]) -> set[str]:
    return {name.removesuffix(SUFFIX) for name in names if name.startswith("part-")}


def _empty(folder: str, names: Collection[str]) -> None:
    """Removes a job's files: first the mark that it is finished, last the mark that says whose folder it is."""
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST, PARTS) if name in names])
    for place in (folder, f"{folder}/{REJECTS}"):
        objects.remove([f"{place}/{part}{SUFFIX}" for part in _parts(objects.list_names(place))])
    objects.remove_folder(f"{folder}/{REJECTS}")
    remove_notes(folder)
    objects.remove([f"{folder}/{JOB}"])


def _read_job(folder: str, names: Collection[str]) -> dict[str, Any] | None:
    if JOB not in names:
        if not objects.is_empty(folder):
            raise UserError(f"{folder}: is not empty and has no {JOB}; name another --output")
        return None
    job: dict[str, Any] = objects.read_json(f"{folder}/{JOB}")
    if job.get("format") != JOB_FORMAT:
        raise UserError(
            f"{folder}: has format {job.get('format')}, and this sepline writes format {JOB_FORMAT}; its parts can be "
            "read as they are; name another --output, or --overwrite it"
        )
    return job


def _check_identity(folder: str, there: Mapping[str, Any], job: Job) -> None:
    identity = json.loads(json.dumps(job.identity))
    if there["identity"] != identity:
        what = difference(there["identity"], identity)
        raise UserError(f"{folder}: was made with {what}; name another --output, or --overwrite this one")


def _check_inputs(folder: str, there: Mapping[str, Any], job: Job, *, resume: bool) -> None:
    known = {source["path"]: source for source in there["inputs"]}
    named = {source["path"]: source for source in job.inputs}
    changed = sorted(
        path
        for path in known.keys() & named.keys()
        # A source whose fingerprint could not be taken has not been scored.
        if known[path] != named[path] and known[path].get("sha256", "") is not None
    )
    gone = sorted(known.keys() - named.keys())
    if resume or not (changed or gone):
        return
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
