"""The workspace of scheduled retraining: a folder a run, the data that runs share, and a log of all calls.

    lock.json            while a run is on
    log.jsonl            a line for each call: when, outcome, reason
    data/DIGEST/         training records, used again by every run with the same inputs and settings of theirs
    runs/000003/         one run
        run.json         its inputs and settings, and the champion that it began with
        checks.json      the verdicts on the data
        training/        the training run, its bundle included
        evaluation.json  the figures of the new model and of the champion
        decision.json    the verdict of every gate
        version.json     the version that the model became
        error.json       what went wrong at the last call, if anything did
        record.json      the outcome and all of the above, written last: the run is over

A run without `record.json` is unfinished, and the next call goes on with it where nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from model.folders import write_json

_RECORD, _RUN, _LOG = "record.json", "run.json", "log.jsonl"


class Outcome(StrEnum):
    """How a call of `sepline retrain` can end."""

    PUBLISHED = "published"
    KEPT = "kept"
    NOTHING_NEW = "nothing_new"
    INVALID_DATA = "invalid_data"
    LOCKED = "locked"
    ERROR = "error"
    ABANDONED = "abandoned"  # of a run: what it began with has changed since


EXIT_CODES: Mapping[Outcome, int] = {
    Outcome.PUBLISHED: 0,
    Outcome.KEPT: 10,
    Outcome.NOTHING_NEW: 11,
    Outcome.INVALID_DATA: 12,
    Outcome.LOCKED: 13,
}
"""Beside 1 for a failure and 2 for a mistake in usage or settings, as with every verb."""


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        folder: where everything of it lies.
        facts: what `run.json` says.
    """

    folder: Path
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record_file(self) -> Path:
        return self.folder / _RECORD

    def read(self, name: str) -> Any:
        """Returns a JSON file of the run, or None where it is not written yet."""
        return _read(self.folder / name)

    def settle(self, outcome: Outcome, reason: str, **more: Any) -> dict[str, Any]:
        """Writes the record, by which the run is over, and returns it."""
        record = {
            "run": self.name,
            "outcome": outcome,
            "reason": reason,
            "ended": now(),
            **self.facts,
            "checks": self.read("checks.json"),
            "evaluation": self.read("evaluation.json"),
            "gates": self.read("decision.json"),
            **more,
        }
        write_json(self.record_file, record)
        (self.folder / "error.json").unlink(missing_ok=True)
        return record


class Workspace:
    """The runs of one model."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def settled(self, key: str) -> Run | None:
        """Returns the latest run that is over, if its inputs and settings are these."""
        over = [run for run in self._runs() if (run.read(_RECORD) or {}).get("outcome") not in (None, "abandoned")]
        return over[-1] if over and over[-1].facts["key"] == key else None

    def open(self, key: str, facts: Mapping[str, Any]) -> Run:
        """Returns the run to go on with, or a new one.

        An unfinished run with other inputs or settings, or whose champion is one no more, is recorded as abandoned.

        Args:
            key: of inputs and settings.
            facts: what else `run.json` is to say; `champion` is among them.
        """
        runs = self._runs()
        for run in runs:
            if not run.record_file.exists():
                version = (run.read("version.json") or {}).get("version")
                if run.facts["key"] == key and facts["champion"] in (run.facts["champion"], version):
                    return run
                run.settle(Outcome.ABANDONED, "inputs, settings or champion have changed since it began")
        folder = self.folder / "runs" / f"{int(runs[-1].name) + 1 if runs else 1:06d}"
        fresh = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write_json(fresh / _RUN, {"key": key, "started": now(), **facts})
        fresh.rename(folder)
        return Run(folder, _read(folder / _RUN))

    def unfinished(self) -> Run | None:
        """Returns the run that is not over yet."""
        return next((run for run in self._runs() if not run.record_file.exists()), None)

    def data_folder(self, digest: str) -> Path:
        """Returns the folder of the training records that `digest` stands for."""
        return self.folder / "data" / digest

    def log(self, **line: Any) -> None:
        """Adds a line to the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps({"when": now(), **line}) + "\n")

    def tidy(self, *, keep: int) -> None:
        """Removes what runs that are over have used up: all but the data and training of the latest `keep`."""
        runs = self._runs()
        kept = [run for run in runs if not run.record_file.exists()] + runs[-keep:]
        for run in runs:
            if run not in kept:
                shutil.rmtree(run.folder / "training", ignore_errors=True)
        used = {run.facts["data"] for run in kept}
        for folder in (self.folder / "data").glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _runs(self) -> list[Run]:
        folders = sorted(path for path in (self.folder / "runs").glob("[0-9]*") if path.name.isdigit())
        return [Run(folder, _read(folder / _RUN)) for folder in folders]


def digest(content: Any) -> str:
    """Returns a short hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def now() -> str:
    """Returns the time as records carry it, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
