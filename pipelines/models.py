"""`sepline models ACTION`: a look at a model's registry, and changes of it by hand."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.bundles.registry import Registry
from model.errors import UserError


def run_action(options: argparse.Namespace) -> None:
    """Does what the command line asks for.

    Raises:
        UserError: no such model or version.
    """
    registry = Registry(options.model)
    if not registry.versions():
        raise UserError(
            f"{options.model}: no versions of a model here; give REGISTRY/NAME as in the retraining settings"
        )
    if options.action == "list":
        _list(registry, as_json=options.json)
    elif options.action == "show":
        _show(registry, options.version, as_json=options.json)
    elif options.action == "promote":
        registry.promote(options.version, why=options.why)
        print(f"version {options.version} is the champion")
    elif options.action == "rollback":
        print(f"version {registry.rollback(why=options.why)} is the champion again")
    else:
        leaving = registry.prune(keep=options.keep, why=options.why, dry_run=options.dry_run)
        done = "would be removed" if options.dry_run else "removed"
        print(f"{done}: {', '.join(f'version {version}' for version in leaving) or 'nothing'}")


def describe_version(registry: Registry, version: int) -> dict[str, Any]:
    """Returns what is known of a version, as JSON values."""
    path = registry.version_path(version)
    if not path.is_dir():
        there = ", ".join(str(one) for one in registry.versions())
        raise UserError(f"{registry.folder}: has no version {version}; there are: {there}")
    bundle = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    evaluation = _read(registry.record_path(version) / "evaluation.json")
    changes = [asdict(change) for change in registry.changes() if change.version == version]
    return {
        "version": version,
        "champion": version == registry.champion(),
        "path": str(path),
        "fingerprint": bundle["fingerprint"],
        "labels": bundle["labels"],
        "evaluation": evaluation,
        "gates": _read(registry.record_path(version) / "decision.json"),
        "checks": _read(registry.record_path(version) / "checks.json"),
        "changes": changes,
    }


def _list(registry: Registry, *, as_json: bool) -> None:
    versions = [describe_version(registry, version) for version in registry.versions()]
    if as_json:
        print(json.dumps(versions, indent=1))
        return
    from pipelines.terminal_models import show_versions

    show_versions(versions)


def _show(registry: Registry, version: int | None, *, as_json: bool) -> None:
    version = version if version is not None else registry.champion()
    if version is None:
        raise UserError(f"{registry.folder}: has no champion; name a version")
    described = describe_version(registry, version)
    if as_json:
        print(json.dumps(described, indent=1))
        return
    from pipelines.terminal_models import show_version

    show_version(described)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
