"""What the registry knows about a published version: its bundle, the run that it comes from, and its changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.bundles.changes import Change
from model.bundles.registry import Registry
from model.errors import UserError
from model.folders import read_json
from pipelines.retraining.figures import Evaluation
from pipelines.retraining.verdicts import Checks, Decision
from pipelines.retraining.workspace import CHECKS, DECISION, EVALUATION, read_json_as


@dataclass(frozen=True)
class PublishedVersion:
    """A version of a model.

    Attributes:
        version: its number.
        champion: True for the one in use.
        path: the bundle's folder.
        fingerprint, labels: of the bundle.
        evaluation, gates, checks: of the run that published it; None for a version that was added by hand.
        changes: the lines of the registry's log about it, oldest first.
    """

    version: int
    champion: bool
    path: Path
    fingerprint: str
    labels: tuple[str, ...]
    evaluation: Evaluation | None
    gates: Decision | None
    checks: Checks | None
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "path": str(self.path),
            "gates": self.gates and self.gates.to_json(),
            "checks": self.checks and self.checks.to_json(),
        }


def describe_version(registry: Registry, version: int) -> PublishedVersion:
    """Returns what is known about a version.

    Raises:
        UserError: there is no such version.
    """
    path, recorded = registry.version_path(version), registry.record_path(version)
    if not path.is_dir():
        there = ", ".join(str(one) for one in registry.versions())
        raise UserError(f"{registry.folder}: has no version {version}; there are: {there}")
    bundle = read_json(path / "bundle.json", hint="prune this version, or restore it from a backup")
    return PublishedVersion(
        version=version,
        champion=version == registry.champion(),
        path=path,
        fingerprint=bundle["fingerprint"],
        labels=tuple(bundle["labels"]),
        evaluation=read_json_as(Evaluation, recorded / EVALUATION),
        gates=read_json_as(Decision, recorded / DECISION),
        checks=read_json_as(Checks, recorded / CHECKS),
        changes=tuple(change for change in registry.changes() if change.version == version),
    )
