"""The workspace of scheduled retraining: a folder for each run, the data that runs share, and a log of all calls.

    lock.json            while a run is in progress
    log.jsonl            a line for each call: when, outcome, reason
    data/DIGEST/         training records, shared by all runs whose inputs and settings for them are the same
    runs/000003/         one run
        run.json         its inputs and settings, and the champion that it started with
        checks.json      the verdicts on the data
        training/        the training run, with its bundle
        evaluation.json  the figures of the new model and of the champion
        decision.json    the verdict of every gate
        version.json     the version that the model became
        error.json       what went wrong in the last call, if anything did
        record.json      the outcome and all of the above, written last: the run has ended

A run without `record.json` is unfinished, and the next call continues it if nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from model.errors import DamagedFileError, UserError
from model.folders import make_folder, publish_folder, read_json, write_json
from pipelines.retraining.verdicts import Checks, Decision

T = TypeVar("T")

RUN, CHECKS, EVALUATION, DECISION = "run.json", "checks.json", "evaluation.json", "decision.json"
VERSION, ERROR, RECORD = "version.json", "error.json", "record.json"
_LOG = "log.jsonl"
_PARTS_OF_RECORD = {"checks": CHECKS, "evaluation": EVALUATION, "gates": DECISION}


class Outcome(StrEnum):
    """How a call of `sepline retrain` ends."""

    PUBLISHED = "published"
    KEPT = "kept"
    NOTHING_NEW = "nothing_new"
    INVALID_DATA = "invalid_data"
    LOCKED = "locked"
    ERROR = "error"
    ABANDONED = "abandoned"  # of a run: its inputs, settings or champion have changed since it started


EXIT_CODES: Mapping[Outcome, int] = {
    Outcome.PUBLISHED: 0,
    Outcome.KEPT: 10,
    Outcome.NOTHING_NEW: 11,
    Outcome.INVALID_DATA: 12,
    Outcome.LOCKED: 13,
}
"""Besides 1 for a failure and 2 for a mistake in usage or settings, as for every verb."""


@dataclass(frozen=True)
class RunFacts:
    """What a run starts with; the content of `run.json`.

    Attributes:
        key: a hash of inputs and settings; a run with the same key has the same result.
        started: UTC, ISO 8601.
        champion: the version in use, if there is one.
        data: the name of the folder of its training records.
        sepline: the version of this program.
        inputs: a fingerprint for each input file.
        settings: those that the result depends on.
    """

    key: str
    started: str
    champion: int | None
    data: str
    sepline: str
    inputs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a run has ended.

    Attributes:
        outcome, reason: in one word, and in a sentence.
    """

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class AddedVersion:
    """The content of `version.json`: the number that the registry gave to the new model."""

    version: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        folder: everything of the run is in it.
        facts: what it started with.
    """

    folder: Path
    facts: RunFacts

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record_file(self) -> Path:
        return self.folder / RECORD

    @property
    def ending(self) -> Ending | None:
        """How the run has ended; None while it is unfinished, or if its record is damaged: it is written again."""
        return self.read(RECORD, Ending)

    @property
    def checks(self) -> Checks | None:
        """The checks of its data, or None if it didn't get that far."""
        return self.read(CHECKS, Checks)

    @property
    def decision(self) -> Decision | None:
        """The verdicts on its model, or None if it didn't get that far."""
        return self.read(DECISION, Decision)

    def read(self, name: str, kind: type[T]) -> T | None:
        """Returns the dataclass in one of the run's JSON files; None if it is not written yet, or damaged."""
        with suppress(DamagedFileError):  # it can be made again
            return read_json_as(kind, self.folder / name)
        return None

    def record(self) -> dict[str, Any]:
        """Returns the record of a run that has ended, as JSON values."""
        return json.loads(self.record_file.read_text(encoding="utf-8"))

    def end(self, outcome: Outcome, reason: str, **more: Any) -> Ending:
        """Writes the record, which ends the run; `more` are JSON values to add to it."""
        record = {
            "run": self.name,
            "outcome": outcome,
            "reason": reason,
            "ended": now(),
            **asdict(self.facts),
            **{part: self.read(name, dict) for part, name in _PARTS_OF_RECORD.items()},
            **more,
        }
        write_json(self.record_file, record)
        (self.folder / ERROR).unlink(missing_ok=True)
        return Ending(outcome, reason)


class Workspace:
    """The runs of one model."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def ended_with(self, key: str) -> tuple[Run, Ending] | None:
        """Returns the latest run that has ended, with its ending, if it has this key."""
        runs = [(run, run.ending) for run in self._runs()]
        ended = [(run, ending) for run, ending in runs if ending and ending.outcome is not Outcome.ABANDONED]
        return ended[-1] if ended and ended[-1][0].facts.key == key else None

    def open(self, facts: RunFacts) -> Run:
        """Returns the run to continue, or a new one.

        An unfinished run with another key or other data, or whose champion is no longer the champion, is recorded as
        abandoned.

        Args:
            facts: what a new run starts with.
        """
        runs = self._runs()
        for run in runs:
            if run.ending is None:
                added = run.read(VERSION, AddedVersion)
                champions = {run.facts.champion} | ({added.version} if added else set())
                same = (run.facts.key, run.facts.data) == (facts.key, facts.data)
                if same and facts.champion in champions:
                    return run
                run.end(Outcome.ABANDONED, "inputs, settings or champion have changed since it began")
        taken = [int(folder.name) for folder in self._run_folders()]
        folder = self.folder / "runs" / f"{max(taken, default=0) + 1:06d}"
        fresh = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(fresh, ignore_errors=True)
        make_folder(fresh)
        write_json(fresh / RUN, asdict(facts))
        publish_folder(fresh, folder)
        return Run(folder, facts)

    def unfinished(self) -> Run | None:
        """Returns the run that has not ended yet, if there is one."""
        return next((run for run in self._runs() if run.ending is None), None)

    def data_folder(self, digest: str) -> Path:
        """Returns the folder of the training records with this digest."""
        return self.folder / "data" / digest

    def log(self, **line: Any) -> None:
        """Adds a line to the log."""
        make_folder(self.folder)
        with open(self.folder / _LOG, "a+b") as log:
            log.seek(max(0, log.tell() - 1))
            begun = log.read() not in (b"", b"\n")  # a crash has cut the last line short
            log.write(b"\n" * begun + json.dumps({"when": now(), **line}).encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())

    def tidy(self, *, keep: int) -> None:
        """Removes the data and training of runs that have ended, except the latest `keep`."""
        runs = self._runs()
        kept = [run for run in runs if run.ending is None] + runs[-keep:]
        used_folders = {run.folder for run in kept}
        for folder in self._run_folders():
            if folder not in used_folders:
                shutil.rmtree(folder / "training", ignore_errors=True)
        used = {run.facts.data for run in kept}
        for folder in (self.folder / "data").glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _run_folders(self) -> list[Path]:
        return sorted(path for path in (self.folder / "runs").glob("[0-9]*") if path.name.isdigit())

    def _runs(self) -> list[Run]:
        """Returns the runs, oldest first, except those of which nobody knows any more what they started with."""
        runs = []
        for folder in self._run_folders():
            for name in (RUN, RECORD):  # the record has what run.json had
                with suppress(DamagedFileError):
                    if facts := read_json_as(RunFacts, folder / name):
                        runs.append(Run(folder, facts))
                        break
        return runs


def read_json_as(kind: type[T], file: Path) -> T | None:
    """Returns a dataclass from a JSON file; None if there is no such file. Keys that it has no field for are ignored.

    Raises:
        DamagedFileError: it is not JSON.
        UserError: it is another version's.
    """
    content = _read_json(file)
    try:
        return None if content is None else TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: is not what this sepline writes there ({key}: {first['msg']})") from error


def digest(content: Any) -> str:
    """Returns a short hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def now() -> str:
    """Returns the current time as records have it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(file: Path) -> Any:
    return read_json(file, hint="restore it from a backup") if file.exists() else None
