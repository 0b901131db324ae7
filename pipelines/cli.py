"""The command line, `sepline VERB`. Nothing heavy is imported before a verb runs.

Exit codes: 0 done, 1 failure, 2 a mistake in usage, settings or inputs; 130 interrupted; 143 terminated. `retrain` has
more.
"""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeAlias

from model import __version__
from model.errors import Interrupted, JobFailure, UserError
from model.inference.names import PRECISIONS, PREDICTORS
from model.screen import controls_made_visible
from pipelines import verbs
from pipelines.corpora.formats import FORMATS, QUOTINGS
from pipelines.runners import machine
from pipelines.runners.failures import ending_at_sigterm, system_failure
from pipelines.runners.quiet_imports import keep_imports_quiet

Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it
Run = Callable[[argparse.Namespace], int | None]

_INPUT_HELP = "files or globs; .gz, .bz2, .zst too"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code. What it prints has no control characters from data or errors."""
    with controls_made_visible():
        return _run_verb(list(sys.argv[1:] if argv is None else argv))


def _run_verb(arguments: list[str]) -> int:
    keep_imports_quiet()
    machine.keep_to_quota()
    beam_flags: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, beam_flags = arguments[:cut], arguments[cut + 1 :]
    options = build_parser().parse_args(arguments)
    if beam_flags and not options.takes_beam_flags:
        print(f"sepline: {options.verb} runs no Beam job; leave out what follows --", file=sys.stderr)
        return 2
    options.beam_flags = beam_flags
    try:
        with ending_at_sigterm():
            code: int | None = options.run(options)
    except UserError as error:
        print(f"sepline: {error}", file=sys.stderr)
        return 2
    except JobFailure as error:
        print(f"sepline: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"sepline: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return getattr(interruption, "exit_code", Interrupted.exit_code)
    except Exception as error:
        reason = system_failure(error)
        if reason is None:
            raise
        print(f"sepline: {reason}; what is finished is kept, repeat the command to continue", file=sys.stderr)
        return 1
    return code or 0


def run() -> None:
    """The console script: runs a verb and exits with its code."""
    machine.runs_command = True
    with controls_made_visible():
        try:
            code = main()
        except Exception:
            traceback.print_exc()  # here, since a message can hold text from data
            code = 1
    gc.freeze()  # else Python looks through all that is loaded once more before it ends
    sys.exit(code)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="sepline",
        description="Labels every sentence of large collections of scientific abstracts with its rhetorical role.",
        epilog="Beam's own flags follow after --, for example: sepline score ... -- --runner=FlinkRunner",
    )
    parser.add_argument("--version", action="version", version=f"sepline {__version__}")
    parsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_inspect(parsers)
    _add_preprocess(parsers)
    _add_encoder(parsers)
    _add_train(parsers)
    _add_evaluate(parsers)
    _add_score(parsers)
    _add_optimize(parsers)
    _add_verify(parsers)
    _add_retrain(parsers)
    _add_models(parsers)
    _add_demo(parsers)
    return parser


def _add_verb(parsers: Parsers, name: str, run: Run, summary: str, *, beam: bool = False) -> argparse.ArgumentParser:
    verb = parsers.add_parser(
        name,
        help=summary,
        description=f"{name}: {summary}.",
        epilog="Beam's own flags follow after --." if beam else None,
    )
    verb.set_defaults(run=run, takes_beam_flags=beam)
    if beam:
        verb.add_argument(
            "--runner-config", metavar="YAML", help="a file of Beam options, such as those in runner_configs"
        )
    return verb


def _add_inspect(parsers: Parsers) -> None:
    verb = _add_verb(parsers, "inspect", verbs.run_inspect, "what corpora hold and what a run would make of them")
    verb.add_argument("input", nargs="+", metavar="PATH", help=_INPUT_HELP)
    _add_reading(verb)
    verb.add_argument("--limit", type=_positive, metavar="N", help="read only the first N records of each file")
    _add_settings(verb, "encoder, window")
    _add_json(verb)


def _add_preprocess(parsers: Parsers) -> None:
    verb = _add_verb(parsers, "preprocess", verbs.run_preprocess, "labelled corpora -> training records", beam=True)
    _add_inputs(verb, required=False)
    for split in ("train", "dev", "test"):
        text = f"files that form the {split} split; the documents of --input are assigned to splits by a hash of the id"
        verb.add_argument(f"--{split}", nargs="+", default=[], metavar="PATH", help=text)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the training records")
    _add_settings(verb, "encoder, window, data")
    _add_allow_broken(verb)
    _add_overwrite(verb)
    _add_json(verb)


def _add_encoder(parsers: Parsers) -> None:
    verb = _add_verb(parsers, "encoder", verbs.run_encoder, "what an encoder is, and where its files are")
    verb.add_argument("handle", metavar="HANDLE", help="minilm-l6, a checkpoint folder, or a TF Hub address or folder")
    _add_json(verb)


def _add_train(parsers: Parsers) -> None:
    verb = _add_verb(parsers, "train", verbs.run_train, "training records -> a trained model, the bundle", beam=True)
    verb.add_argument("--data", required=True, nargs="+", metavar="DIR", help="folders that `sepline preprocess` wrote")
    shares = "how much of an epoch comes from each --data folder (default: in proportion to their sizes)"
    verb.add_argument("--shares", nargs="+", type=float, metavar="SHARE", help=shares)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the run; the model is DIR/bundle")
    _add_settings(verb, "encoder, model, training")
    _add_overwrite(verb)
    _add_json(verb)


def _add_evaluate(parsers: Parsers) -> None:
    summary = "how good a model is on a split, compared with two baselines"
    verb = _add_verb(parsers, "evaluate", verbs.run_evaluate, summary, beam=True)
    _add_model(verb)
    verb.add_argument("--data", required=True, metavar="DIR", help="folder that `sepline preprocess` wrote")
    verb.add_argument("--split", choices=("train", "dev", "test"), default="test", help="default: test")
    _add_trust(verb)
    _add_json(verb)


def _add_score(parsers: Parsers) -> None:
    verb = _add_verb(parsers, "score", verbs.run_score, "document collections -> predictions in Parquet", beam=True)
    _add_model(verb)
    _add_inputs(verb)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the Parquet files")
    verb.add_argument("--limit", type=_positive, metavar="N", help="score only the first N records of each file")
    verb.add_argument("--sample", type=_share, metavar="SHARE", help="score this share of the documents, by id: 0.01")
    verb.add_argument("--unlabelled-only", action="store_true", help="reject documents that already have labels")
    verb.add_argument(
        "--layout", choices=("sentences", "documents"), default="sentences", help="what a row is (default: sentences)"
    )
    verb.add_argument("--columns", nargs="+", metavar="NAME", help="write only these columns (default: all)")
    verb.add_argument("--no-text", action="store_true", help="leave out the sentences' text")
    verb.add_argument("--workers", type=_positive, metavar="N", help="processes (default: by cores and memory)")
    verb.add_argument("--chunk-records", type=_positive, metavar="N", help="input records per part (default: 500)")
    verb.add_argument("--batch-tokens", type=_positive, metavar="N", help="wordpieces per micro-batch (default: 8192)")
    verb.add_argument("--predictor", choices=PREDICTORS, help="what runs the model (default: openvino if it can)")
    verb.add_argument("--precision", choices=PRECISIONS, help="in which it computes (default: the fastest good one)")
    verb.add_argument("--dry-run", action="store_true", help="only print what would be done, and how long it takes")
    verb.add_argument("--resume", action="store_true", help="continue although inputs or versions have changed")
    _add_trust(verb)
    _add_allow_broken(verb)
    _add_overwrite(verb)
    _add_json(verb)


def _add_optimize(parsers: Parsers) -> None:
    summary = "a model -> one that the predictor openvino runs, too"
    verb = _add_verb(parsers, "optimize", verbs.run_optimize, summary, beam=True)
    verb.add_argument("model", metavar="BUNDLE", help="folder of the trained model, or REGISTRY/NAME")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the new bundle")
    verb.add_argument("--data", metavar="DIR", help="records, on whose dev split both predictors are compared")
    verb.add_argument("--int8", action="store_true", help="quantize it, too, if dev accuracy allows it; needs --data")
    _add_trust(verb)
    _add_json(verb)


def _add_verify(parsers: Parsers) -> None:
    summary = "whether every file of an output folder is as it was written"
    verb = _add_verb(parsers, "verify", verbs.run_verify, summary, beam=True)
    verb.add_argument("folder", nargs="+", metavar="FOLDER", help="scored folders, records, bundles, REGISTRY/NAME")
    _add_json(verb)
    verb.epilog = (
        "Exit codes: 0 all is as it was written; 1 something is missing, has changed or was added; "
        "2 a folder that is not there, or is of another kind."
    )


def _add_retrain(parsers: Parsers) -> None:
    summary = "new labelled files -> a published model, if it is better"
    verb = _add_verb(parsers, "retrain", verbs.run_retrain, summary, beam=True)
    verb.add_argument("--config", required=True, metavar="YAML", help="see runner_configs/retrain.yaml")
    _add_override(verb)
    verb.add_argument("--explain", action="store_true", help="print the decision table: every check and gate")
    verb.add_argument("--take-over-lock", action="store_true", help="take over the lock of a run that has died")
    verb.add_argument("--exit-zero", action="store_true", help="end with 0 where the code would be 10, 11 or 12")
    _add_json(verb)
    verb.epilog = (
        "Exit codes: 0 published; 10 the champion was kept; 11 nothing new; 12 invalid data; 13 another run holds the "
        "lock, or has left it behind; 1 failure; 2 a mistake in usage or settings. Beam's own flags follow after --."
    )


def _add_models(parsers: Parsers) -> None:
    summary = "the registry: versions of a model, and which one is the champion"
    verb = parsers.add_parser("models", help=summary, description=f"models: {summary}.")
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)

    action = _add_action(actions, "list", verbs.run_models_list, "the versions of a model")
    _add_json(action)

    summary = "one version: what it is, where it comes from, and every change of it"
    action = _add_action(actions, "show", verbs.run_models_show, summary)
    action.add_argument("version", type=_positive, nargs="?", metavar="N", help="the version (default: the champion)")
    _add_json(action)

    action = _add_action(actions, "promote", verbs.run_models_promote, "make a version the champion")
    action.add_argument("version", type=_positive, metavar="N", help="the version")
    _add_why(action)

    action = _add_action(
        actions, "rollback", verbs.run_models_rollback, "make the previous champion the champion again"
    )
    _add_why(action)

    summary = "remove old versions; never the champion, the one before it, or one that an unfinished run needs"
    action = _add_action(actions, "prune", verbs.run_models_prune, summary)
    action.add_argument("--keep", type=_positive, default=5, metavar="N", help="newest to keep (default: 5)")
    action.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    _add_why(action)


def _add_action(actions: Parsers, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=summary, description=f"models {name}: {summary}.")
    action.set_defaults(run=run, takes_beam_flags=False)
    action.add_argument("model", metavar="REGISTRY/NAME", help="the model's folder in the registry")
    return action


def _add_demo(parsers: Parsers) -> None:
    summary = "the whole workflow on real MEDLINE records, each command shown before it runs"
    verb = _add_verb(parsers, "demo", verbs.run_demo, summary)
    verb.add_argument("--output", default="build/demo", metavar="DIR", help="default: build/demo")
    verb.add_argument("--full", action="store_true", help="all abstracts and all layers: an hour or two on two cores")
    verb.add_argument("--retrain", action="store_true", help="show three scheduled retrainings instead")


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", required=True, metavar="BUNDLE", help="folder of the trained model, or REGISTRY/NAME")


def _add_inputs(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    verb.add_argument("--input", required=required, nargs="+", metavar="PATH", help=_INPUT_HELP)
    _add_reading(verb)


def _add_reading(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", choices=FORMATS, help="default: by name and content")
    verb.add_argument("--id-column", metavar="NAME", help="column or key of the document id (default: doc_id)")
    verb.add_argument("--text-column", metavar="NAME", help="column or key of the text (default: text)")
    verb.add_argument(
        "--sentences-column", metavar="NAME", help="column or key of given sentences (default: sentences)"
    )
    verb.add_argument("--labels-column", metavar="NAME", help="column or key of their labels (default: labels)")
    verb.add_argument(
        "--quoting",
        choices=QUOTINGS,
        help='fields of CSV and TSV in " (csv) or as they are (default: csv, for TSV none)',
    )
    verb.add_argument("--label-map", metavar="YAML", help="renames labels and section headings; see docs/corpora.md")


def _add_settings(verb: argparse.ArgumentParser, sections: str) -> None:
    verb.add_argument("--config", metavar="YAML", help=f"settings file; the sections used here: {sections}")
    _add_override(verb)


def _add_override(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, which overrides the file's; may be repeated",
    )


def _add_allow_broken(verb: argparse.ArgumentParser) -> None:
    summary = "end with exit code 0 although the content of a source breaks off, as in a truncated file"
    verb.add_argument("--allow-broken-sources", action="store_true", help=summary)


def _add_trust(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--trust-model", action="store_true", help="run a model that can do more than compute")


def _add_overwrite(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in --output")


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_why(action: argparse.ArgumentParser) -> None:
    action.add_argument("--why", default="by hand", metavar="TEXT", help="reason, for the log")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return value


if __name__ == "__main__":
    run()
