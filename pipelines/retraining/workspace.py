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
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from model.errors import UserError
from model.folders import write_json
from pipelines.retraining.verdicts import Checks, Decision

T = TypeVar("T")

RUN, CHECKS, EVALUATION, DECISION = "run.json", "checks.json", "evaluation.json", "decision.json"
VERSION, ERROR, RECORD = "version.json", "error.json", "record.json"
_LOG = "log.jsonl"


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
        """How the run has ended; None while it is unfinished."""
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
        """Returns the dataclass in one of the run's JSON files; None if the file is not written yet."""
        return read_json_as(kind, self.folder / name)

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
            "checks": _read_json(self.folder / CHECKS),
            "evaluation": _read_json(self.folder / EVALUATION),
            "gates": _read_json(self.folder / DECISION),
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

        An unfinished run with another key, or whose champion is no longer the champion, is recorded as abandoned.

        Args:
            facts: what a new run starts with.
        """
        runs = self._runs()
        for run in runs:
            if run.ending is None:
                added = run.read(VERSION, AddedVersion)
                champions = {run.facts.champion} | ({added.version} if added else set())
                if run.facts.key == facts.key and facts.champion in champions:
                    return run
                run.end(Outcome.ABANDONED, "inputs, settings or champion have changed since it began")
        folder = self.folder / "runs" / f"{int(runs[-1].name) + 1 if runs else 1:06d}"
        fresh = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write_json(fresh / RUN, asdict(facts))
        fresh.rename(folder)
        return Run(folder, facts)

    def unfinished(self) -> Run | None:
        """Returns the run that has not ended yet, if there is one."""
        return next((run for run in self._runs() if not run.record_file.exists()), None)

    def data_folder(self, digest: str) -> Path:
        """Returns the folder of the training records with this digest."""
        return self.folder / "data" / digest

    def log(self, **line: Any) -> None:
        """Adds a line to the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps({"when": now(), **line}) + "\n")

    def tidy(self, *, keep: int) -> None:
        """Removes the data and training of runs that have ended, except the latest `keep`."""
        runs = self._runs()
        kept = [run for run in runs if not run.record_file.exists()] + runs[-keep:]
        for run in runs:
            if run not in kept:
                shutil.rmtree(run.folder / "training", ignore_errors=True)
        used = {run.facts.data for run in kept}
        for folder in (self.folder / "data").glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _runs(self) -> list[Run]:
        folders = sorted(path for path in (self.folder / "runs").glob("[0-9]*") if path.name.isdigit())
        facts = [read_json_as(RunFacts, folder / RUN) for folder in folders]
        return [Run(folder, fact) for folder, fact in zip(folders, facts, strict=True) if fact is not None]


def read_json_as(kind: type[T], file: Path) -> T | None:
    """Returns a dataclass from a JSON file; None if there is no such file. Keys that it has no field for are ignored.

    Raises:
        UserError: the file has other content.
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
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
