"""Beam options from a YAML file and from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from model.errors import UserError

_DEFAULTS = {"runner": "FnApiRunner"}  # Beam's own default tries to download another runner first


def beam_options(config: str | None, flags: Sequence[str]) -> PipelineOptions:
    """Returns the pipeline options of a file, with flags over them.

    Args:
        config: a YAML mapping from option to value: `true` for a switch, a list for an option that repeats.
        flags: as on a command line, `--name=value`.

    Raises:
        UserError: the file can't be read, or Beam knows no such option.
    """
    options = {**_DEFAULTS, **(_read(config) if config else {})}
    arguments = [flag for name, value in options.items() for flag in _flags(name, value)]
    arguments += flags
    parsed = PipelineOptions(arguments)
    known = {name.replace("-", "_") for name in PipelineOptions([]).get_all_options(drop_default=False)}
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in known and name.removeprefix("no_") not in known:
            where = "on the command line" if argument in flags else f"in {config}"
            raise UserError(f"Beam has no option {argument.partition('=')[0]} ({where}); check its spelling")
    return parsed


def _read(path: str) -> dict[str, object]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: give a mapping of Beam options, for example `runner: FnApiRunner`")
    return {str(name): value for name, value in content.items()}


def _flags(name: str, value: object) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}={item}" for item in value]
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}={value}"]
