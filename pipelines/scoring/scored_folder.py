"""A scored folder: which job it belongs to, which parts are finished, and what a repeated job changes.

    part-*.parquet            predictions; their names say which chunks are finished (`chunks.py`)
    _rejects/part-*.parquet   input records that could not be scored, and why
    _job.json                 bundle, settings, inputs and versions, from the start
    _manifest.json            the same with counts, at the end
    _SUCCESS                  written last

Readers of Parquet folders (pandas, Arrow, Spark) ignore names that begin with an underscore, so the folder as a whole
is a table. When a job ends, the folder has the same bytes as one that a fresh job over the same inputs would make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.errors import UserError
from model.folders import difference
from pipelines.corpora.chunks import Finished, finished_chunks, part_prefix, prefix_of
from pipelines.corpora.sources import FingerprintedSource
from pipelines.scoring.failed_sources import remove_notes
from pipelines.scoring.predictions import REJECTS
from pipelines.storage import objects

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
JOB = "_job.json"
JOB_FORMAT = 1
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Job:
    """What determines the content of a scored folder.

    Attributes:
        identity: JSON values on which every byte of the predictions depends: bundle, predictor (`engine`), settings.
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
        """Returns the prefix of the names of each source's parts, by its path."""
        job = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return {
            source.path: part_prefix(source.fingerprint["path"], job, json.dumps(source.fingerprint, sort_keys=True))
            for source in self.sources
        }

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
    """

    finished: Mapping[str, Finished]
    complete: bool
    earlier_versions: tuple[Mapping[str, str], ...] = ()


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
    parts = {prefix_of(part) for part in _parts(names)}
    finished = finished_sources(folder, job, names)
    earlier_versions: list[Mapping[str, str]] = []
    if there is not None:
        _check_identity(folder, there, job)
        _check_inputs(folder, there, job, resume=resume)
        whole = all(each.whole for each in finished.values())
        if whole and SUCCESS in names and parts == expected:
            return Claim(finished, complete=True)
        earlier_versions = there["earlier_versions"]
        if there["versions"] != job.versions and parts:
            _check_versions(folder, there, job, resume=resume or whole)
            earlier_versions = [*earlier_versions, there["versions"]]
    objects.remove_temporaries(folder)
    remove_notes(folder)
    # First, since they promise readers a finished folder.
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST) if name in names])
    mark = {
        "format": JOB_FORMAT,
        "identity": job.identity,
        "versions": job.versions,
        "earlier_versions": earlier_versions,
        "inputs": job.inputs,
    }
    objects.write_json(f"{folder}/{JOB}", mark)
    for place in (folder, f"{folder}/{REJECTS}"):
        stale = [part for part in _parts(objects.list_names(place)) if prefix_of(part) not in expected]
        objects.remove([f"{place}/{part}{_SUFFIX}" for part in stale])
    return Claim(finished, complete=False, earlier_versions=tuple(earlier_versions))


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


def publish(folder: str, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, and then the mark that says that the folder is finished.

    Temporary files are removed first: the runner may have lost workers while they were writing.
    """
    objects.remove_temporaries(folder)
    objects.write_json(f"{folder}/{MANIFEST}", manifest)
    objects.write_bytes(f"{folder}/{SUCCESS}", b"\n")


def _parts(names: Iterable[str]) -> set[str]:
    return {name.removesuffix(_SUFFIX) for name in names if name.startswith("part-")}


def _empty(folder: str, names: Collection[str]) -> None:
    """Removes a job's files: first the mark that it is finished, last the mark that says whose folder it is."""
    objects.remove([f"{folder}/{name}" for name in (SUCCESS, MANIFEST) if name in names])
    for place in (folder, f"{folder}/{REJECTS}"):
        objects.remove([f"{place}/{part}{_SUFFIX}" for part in _parts(objects.list_names(place))])
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
        raise UserError(f"{folder}: was made by another version of sepline; name another --output, or --overwrite it")
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
