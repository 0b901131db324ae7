"""`sepline verify`: is a folder as it was written? Every file is read and compared with its checksum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.bundles.bundle import DESCRIPTION, load_bundle
from model.bundles.registry import REGISTRY_FILES, Registry
from model.bundles.training_data import COMPLETED, DATA_FORMAT, STATS
from model.errors import UserError
from model.folders import json_bytes
from model.progress import ProgressReporter
from pipelines.preprocessing.records_folder import FILES, MARK, read_files
from pipelines.scoring.parts_list import PARTS, SUFFIX, read_parts, read_parts_list
from pipelines.scoring.scored_folder import (
    JOB,
    JOB_FORMAT,
    MANIFEST,
    SUCCESS,
    finished_parts,
    read_manifest,
    read_marks,
)
from pipelines.storage import objects
from pipelines.storage.checksums import differences


@dataclass(frozen=True)
class Verification:
    """What was found out about a folder.

    Attributes:
        folder: its path.
        kind: `scored folder`, `records`, `bundle` or `registry`.
        files: how many files were compared.
        problems: a line for each file that is missing, has changed or is not listed; none if all is as it was written.
        note: what could not be checked; None if everything was.
    """

    folder: str
    kind: str
    files: int
    problems: tuple[str, ...] = ()
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(folder: str) -> Verification:
    """Returns whether every file of a folder is as it was written.

    Args:
        folder: a scored folder, a folder of records, a bundle, or a model's folder in a registry.

    Raises:
        UserError: it is none of them.
        JobFailure: a file can't be read.
    """
    folder = folder.rstrip("/")
    names = objects.list_names(folder)
    if JOB in names or {MANIFEST, SUCCESS} & names:
        return _reporting(folder, _verify_scored)
    if MARK in names or FILES in names:
        return _reporting(folder, _verify_records)
    if objects.is_local(folder) and {DESCRIPTION, "saved_model.pb"} & names:
        return _verify_bundle(folder)
    if objects.is_local(folder) and (Path(folder) / "versions").is_dir():
        return _verify_registry(folder)
    raise UserError(f"{folder}: is no scored folder, no records, no bundle and no model's folder in a registry")


Check = Callable[[str, Callable[[int], None]], Verification]


def _reporting(folder: str, check: Check) -> Verification:
    with ProgressReporter("verifying", total=None, unit="files") as progress:
        return check(folder, lambda count: progress.update(done=count))


def _verify_scored(folder: str, done: Callable[[int], None]) -> Verification:
    found = Verification(folder, "scored folder", 0)
    there = objects.list_tree(folder)
    if SUCCESS not in there:
        return replace(found, problems=(f"{SUCCESS} is missing: the job has not ended, or its mark was lost",))
    if JOB in there and (old := _old_format(f"{folder}/{JOB}")):
        return _verify_old_scored(folder, found, old)
    listed: dict[str, str] = {}
    problems: list[str] = []
    try:
        listed |= read_marks(folder)
        listed |= {PARTS: read_manifest(folder)["parts"]["sha256"]}
        parts = read_parts_list(folder, read_manifest(folder), ["name", "sha256"])
        listed |= dict(zip(parts["name"].to_pylist(), parts["sha256"].to_pylist(), strict=True))
    except (ValueError, KeyError, TypeError) as error:
        # Without the list nothing is said about the parts.
        problems.append(f"{error}; the parts can't be checked without it, repeat the job")
        there = {name for name in there if name in listed}
    lines = differences(folder, listed, there - {SUCCESS}, done=done)
    return replace(found, files=len(listed), problems=(*problems, *lines))


def _old_format(job: str) -> int | None:
    try:
        written = objects.read_json(job).get("format")
    except (ValueError, AttributeError, UserError):  # the checksum says so
        return None
    return written if isinstance(written, int) and written < JOB_FORMAT else None


def _verify_old_scored(folder: str, found: Verification, written: int) -> Verification:
    try:
        manifest = objects.read_json(f"{folder}/{MANIFEST}")
        counts: Mapping[str, Any] = manifest["counts"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return replace(found, problems=(f"{MANIFEST} is missing or damaged",))
    read = read_parts(folder, [f"{part}{SUFFIX}" for part in finished_parts(folder)])
    problems = [reason for _, reason in sorted(read.damaged.items())]
    if read.counts.to_json() != counts:
        problems.append("the parts' counts are not those of the manifest")
    return replace(found, files=read.table.num_rows, problems=tuple(problems), note=_no_checksums(written))


def _verify_records(folder: str, done: Callable[[int], None]) -> Verification:
    found = Verification(folder, "records", 0)
    there = objects.list_tree(folder)
    if COMPLETED not in there:
        return replace(found, problems=(f"{COMPLETED} is missing: the job has not ended, or its mark was lost",))
    try:
        if FILES not in there and (written := objects.read_json(f"{folder}/{STATS}")["format"]) < DATA_FORMAT:
            return replace(found, note=_no_checksums(written))
        listed = read_files(folder)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        return replace(found, problems=(f"{error}; the files can't be checked without it, preprocess again",))
    return replace(
        found, files=len(listed), problems=tuple(differences(folder, listed, there - {COMPLETED}, done=done))
    )


def _no_checksums(written: int) -> str:
    return f"format {written} has no checksums, since an earlier sepline wrote it; only what can be counted was checked"


def _verify_bundle(folder: str) -> Verification:
    found = Verification(folder, "bundle", sum(file.is_file() for file in Path(folder).rglob("*")))
    problems = []
    file = Path(folder) / DESCRIPTION
    try:
        bundle = load_bundle(folder)
        if json_bytes(bundle.description) != file.read_bytes():
            problems.append(f"{DESCRIPTION} has changed, though not in its meaning")
    except UserError as error:
        problems.append(str(error).removeprefix(f"{folder}: "))
    return replace(found, problems=tuple(problems))


def _verify_registry(folder: str) -> Verification:
    registry, files = Registry(folder), 0
    problems: list[str] = []
    for version in registry.versions():
        checked = _verify_bundle(str(registry.version_path(version)))
        files += checked.files
        problems += [f"version {version}: {problem}" for problem in checked.problems]
    try:
        changes = registry.changes()
        added = {change.version for change in changes if change.change == "add"}
        problems += [f"version {version} is not in the log" for version in registry.versions() if version not in added]
        problems += [f"version {version} is missing" for version in registry.missing_versions()]
        problems += registry.check_pointer()
    except UserError as error:
        problems.append(str(error))
    known = ("versions", "records", "pins")
    names = {file.relative_to(folder).parts for file in Path(folder).rglob("*") if file.is_file()}
    problems += [
        f"{'/'.join(parts)} is not listed"
        for parts in sorted(names)
        if (len(parts) == 1 and parts[0] not in REGISTRY_FILES) or (len(parts) > 1 and parts[0] not in known)
    ]
    note = "the log, the number of its lines in champion.json and the records of versions have no checksums"
    return Verification(folder, "registry", files, tuple(problems), note)
