"""Scoring as a Dataflow Flex Template: the launcher submits the job and exits, as the service requires.

The launcher cannot publish the folder. When the job is done, run `sepline score` with the same model, inputs, output
and settings: it scores the parts that are missing, if any, and writes the manifest and `_SUCCESS`.

A template's parameters come as flags, among those of Beam: lists with commas, switches as `true` and `false`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from model.bundles.registry import open_model
from model.errors import UserError
from model.screen import controls_made_visible
from pipelines.cli import build_parser
from pipelines.runners.options import asks_for_gpus
from pipelines.scoring.pipeline import submit_units
from pipelines.scoring.score import choose_predictor, describe_job, plan_units
from pipelines.scoring.scored_folder import claim_scored_folder
from pipelines.scoring.settings import ScoringContext
from pipelines.scoring.worker_notes import report_failures
from pipelines.verbs import read_options, score_settings

NOT_PARAMETERS = ("allow_broken_sources", "dry_run", "help", "json", "runner_config", "workers")
"""Options of `sepline score` that have no meaning for a job that the launcher does not wait for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Submits the job that the flags describe and returns an exit code."""
    with controls_made_visible():  # logs are read on terminals too
        return _launch(argv)


def _launch(argv: Sequence[str] | None) -> int:
    line, flags = command_line(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(["score", *line])
    try:
        submit(options, PipelineOptions(["--no_save_main_session", *flags]))
    except UserError as error:
        print(f"sepline: {error}", file=sys.stderr)
        return 2
    return 0


def submit(options: argparse.Namespace, beam_options: PipelineOptions) -> Any:
    """Claims the output folder, starts a job for its unfinished units, and returns Beam's result.

    Args:
        options: of `sepline score`, parsed.
        beam_options: of the pipeline, which runs on after this returns.

    Raises:
        UserError: inputs or folder can't be used.
        JobFailure: an input can't be read.
    """
    bundle, output = open_model(options.model, trusted=options.trust_model), options.output.rstrip("/")
    settings, reading = score_settings(options), read_options(options)
    choice = choose_predictor(bundle, options.predictor, options.precision, gpu=asks_for_gpus(beam_options))
    job = describe_job(bundle, options.input, settings=settings, options=reading, predictor=choice)
    claim = claim_scored_folder(output, job, overwrite=options.overwrite, resume=options.resume)
    context = ScoringContext(bundle, output, settings, reading, choice)
    units, failures = plan_units(job, claim.finished, context)
    report_failures(failures, len(job.sources))
    return submit_units(units, context, beam_options)


def parameters() -> dict[str, argparse.Action]:
    """Returns the options of `sepline score` that are parameters of the template, by the parameters' names."""
    (verbs,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    actions = verbs.choices["score"]._actions
    return {action.dest: action for action in actions if action.dest not in NOT_PARAMETERS}


def command_line(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns a template's parameters as arguments of `sepline score`, and the remaining flags, which are Beam's."""
    known = parameters()
    line: list[str] = []
    flags: list[str] = []
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        action = known.get(name)
        if action is None:
            flags.append(argument)
        elif action.nargs == 0:
            line += [action.option_strings[0]] if value == "true" else []
        elif action.nargs == "+":
            line += [action.option_strings[0], *value.split(",")]
        else:
            line.append(f"{action.option_strings[0]}={value}")
    return line, flags


if __name__ == "__main__":
    sys.exit(main())
