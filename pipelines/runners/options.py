"""Beam options from a YAML file and from the command line, each of them checked before a job is built.

Beam itself ignores options that it doesn't know, and a `false` in a file. Here every option must be one of Beam's, or
one that the runner's job server takes, with a value of the right kind.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import create_runner
from apache_beam.transforms.environments import PythonLoopbackEnvironment

from model.errors import UserError
from pipelines.storage.objects import is_local

_DEFAULTS = {
    "runner": "FnApiRunner",  # Beam's own default tries to download another runner first
    "save_main_session": False,  # Beam pickles the main module for Dataflow; workers need nothing from ours
}

JOB_SERVER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "FlinkRunner": ("execution_retry_delay", "flink_conf_dir", "max_bundle_size", "number_of_execution_retries"),
    "SparkRunner": ("bundle_size", "storage_level"),
}
"""Options that Beam's Java runners take and its Python side doesn't know; they pass through to the job server."""

_FILES = ("setup_file", "requirements_file", "flink_job_server_jar", "spark_job_server_jar", "prism_location")
_JAVA_RUNNERS = ("FlinkRunner", "SparkRunner")
_NOT_RUN = ("dry_run", "no_wait_until_finish", "template_location")
"""Options with which Beam returns before the job is done; sepline would take the results for complete."""


def beam_options(config: str | None, flags: Sequence[str]) -> PipelineOptions:
    """Returns the pipeline options of a file; flags override them.

    Args:
        config: a YAML mapping from option to value: `true` and `false` for a switch, a list for an option that
            repeats, a mapping for one that takes JSON. Flags for an option that repeats are added to the file's values.
        flags: as on a command line, `--name=value`.

    Raises:
        UserError: the file can't be read, Beam has no such option, or a value or a combination is wrong.
    """
    given = {**_DEFAULTS, **(_read(config) if config else {})}
    parser = _parser()
    runner = _runner([f"--runner={given['runner']}", *flags], parser)
    for name in JOB_SERVER_OPTIONS.get(runner, ()):
        parser.add_argument(f"--{name}")
    arguments = [flag for name, value in given.items() for flag in _flags(name, value, parser, config or "defaults")]
    _check_arguments(arguments, parser, config or "defaults")
    _check_arguments(flags, parser, "after --")
    parsed = PipelineOptions([*arguments, *flags])
    _check_whole(parsed, runner)
    FileSystems.set_options(parsed)  # this process lists inputs before Beam would set them
    return parsed


def asks_for_gpus(options: PipelineOptions) -> bool:
    """Returns True if Dataflow's workers are to have GPUs. What other clusters' workers have is not known here."""
    services = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return any(service.startswith("worker_accelerator=") for service in services)


def check_paths(options: PipelineOptions, paths: Iterable[str]) -> None:
    """Raises `UserError` for a relative path if the workers run in folders of their own and would look there."""
    relative = [path for path in paths if is_local(path) and not Path(path).is_absolute()]
    if relative and not workers_are_here(options):
        raise UserError(f"{relative[0]}: the workers run in folders of their own; give the absolute path")


def workers_are_here(options: PipelineOptions) -> bool:
    """Returns True if the workers run in this process."""
    runner = create_runner(options.view_as(StandardOptions).runner)
    if isinstance(runner, PortableRunner):
        return isinstance(runner.default_environment(options), PythonLoopbackEnvironment)
    return type(runner).__name__ != "DataflowRunner"


def _read(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: give a mapping of Beam options, for example `runner: FnApiRunner`")
    return {str(name): value for name, value in content.items()}


def _parser() -> argparse.ArgumentParser:
    """Returns Beam's own parser of all its options."""
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    (parser,) = parsers
    parser.exit_on_error = False
    return parser


def _runner(arguments: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Returns the runner's name as Beam spells it, or the full name of a class of the user's own."""
    name = str(_parse(arguments, parser, "after --")[0].runner)
    known = {known.lower(): known for known in StandardOptions.KNOWN_RUNNER_NAMES}
    short = name.lower() if name.lower() in known else f"{name.lower()}runner"
    if "." in name or short in known:
        return known.get(short, name)
    raise UserError(f"Beam has no runner {name!r}{_suggest(name, known.values())}")


def _flags(name: str, value: Any, parser: argparse.ArgumentParser, origin: str) -> Iterator[str]:
    """Yields the command-line flags for one entry of a file."""
    where = f"{origin}: {name}"
    action = _action(f"--{name}", parser, where)
    if value is None:
        raise UserError(f"{where}: has no value; give one or leave the line out")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{where}: is a switch; write true or false, not {value!r}")
        yield from _switch(name, action, parser, on=value)
    elif isinstance(value, list):
        if not _repeats(action):
            raise UserError(f"{where}: takes one value, not a list")
        for item in value:
            if isinstance(item, (list, dict)) or item is None:
                raise UserError(f"{where}: {item!r} is not a single value; quote it if it is meant as text")
            yield f"--{name}={item}"
    elif isinstance(value, dict):
        if not (name == "environment_config" or action.type is json.loads):
            raise UserError(f"{where}: takes one value, not a mapping")
        yield f"--{name}={json.dumps(value)}"
    elif isinstance(value, bool):
        raise UserError(f"{where}: takes a value, not {str(value).lower()}; quote it if it is meant as text")
    else:
        yield f"--{name}={value}"


def _switch(name: str, action: argparse.Action, parser: argparse.ArgumentParser, *, on: bool) -> Iterator[str]:
    if on:
        yield f"--{name}"
        return
    opposite = parser._option_string_actions.get(f"--no_{name}")
    if opposite is not None and opposite.dest == action.dest:
        yield f"--no_{name}"


def _repeats(action: argparse.Action) -> bool:
    return type(action).__name__ in ("_AppendAction", "_CommaSeparatedListAction", "_GcsCustomAuditEntriesAction")


def _check_arguments(arguments: Sequence[str], parser: argparse.ArgumentParser, origin: str) -> None:
    for argument in _parse(arguments, parser, origin)[1]:
        if not argument.startswith("--"):
            raise UserError(f"{origin}: {argument!r} belongs to no option; write --name=value")
        _action(argument.partition("=")[0], parser, origin)


def _parse(
    arguments: Sequence[str], parser: argparse.ArgumentParser, origin: str
) -> tuple[argparse.Namespace, list[str]]:
    try:
        return parser.parse_known_args(list(arguments))
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"{origin}: {' '.join(str(error).split())}") from error


def _action(option: str, parser: argparse.ArgumentParser, where: str) -> argparse.Action:
    """Returns Beam's own argparse action for an option, which must be spelled in full."""
    actions = parser._option_string_actions
    if option not in actions:
        raise UserError(f"{where}: Beam has no option {option}{_suggest(option, actions)}")
    return actions[option]


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; check its spelling"


def _check_whole(options: PipelineOptions, runner: str) -> None:
    """Runs Beam's own validation, and checks that the files and programs that the runner needs exist."""
    given = options.get_all_options(drop_default=True)
    for name in _NOT_RUN:
        if given.get(name):
            raise UserError(f"{name}: with it sepline would return before the job is done; leave it out")
    for name in _FILES:
        value = given.get(name)
        if value and "://" not in value and not Path(value).is_file():
            raise UserError(f"{name}: there is no file {value!r}")
    launcher = options.view_as(JobServerOptions).job_server_java_launcher
    served = options.view_as(PortableOptions).job_endpoint
    if runner in _JAVA_RUNNERS and not served and shutil.which(launcher) is None:
        raise UserError(f"{runner} needs Java, and there is no {launcher!r}; install Java 11 or later")
    if runner == "DataflowRunner":  # whose validation asks the network
        errors = [f"{name} is missing" for name in ("project", "region", "temp_location") if not given.get(name)]
    else:
        errors = PipelineOptionsValidator(options, create_runner(runner)).validate()
    if errors:
        raise UserError(f"{runner}: {', '.join(' '.join(error.split()) for error in errors)}")
