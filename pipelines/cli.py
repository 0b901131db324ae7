"""The command line, `sepline VERB`. Nothing heavy is imported before a verb runs.

Exit codes: 0 done, 1 failure, 2 a mistake in usage, settings or inputs; 130 interrupted. `retrain` has more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from model import __version__
from model.errors import Interrupted, JobFailure, UserError
from pipelines.runners.quiet_imports import keep_imports_quiet

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from model.config import Settings
    from pipelines.corpora.options import ReadOptions
    from pipelines.scoring.score import ScoreSettings

_FORMATS = ("jsonl", "medline", "pubmed_rct", "csv", "tsv", "parquet")
_INPUT_HELP = "files or globs; .gz, .bz2, .zst too"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    keep_imports_quiet()
    arguments = list(sys.argv[1:] if argv is None else argv)
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
        code: int | None = options.run(options)
    except UserError as error:
        print(f"sepline: {error}", file=sys.stderr)
        return 2
    except JobFailure as error:
        print(f"sepline: {error}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"sepline: {interruption}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("sepline: interrupted", file=sys.stderr)
        return 130
    return code or 0


def run() -> None:
    """The console script: runs a verb and exits with its code."""
    sys.exit(main())


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="sepline",
        description="Labels every sentence of large collections of scientific abstracts with its rhetorical role.",
        epilog="Flags of Beam itself follow after --, for example: sepline score ... -- --runner=FlinkRunner",
    )
    parser.add_argument("--version", action="version", version=f"sepline {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = _add_verb(verbs, "inspect", _inspect, "what corpora hold and what a run would make of them")
    verb.add_argument("input", nargs="+", metavar="PATH", help=_INPUT_HELP)
    _add_reading(verb)
    verb.add_argument("--limit", type=_positive, metavar="N", help="look at the first N records of each file only")
    _add_settings(verb, "encoder, window")
    _add_json(verb)

    verb = _add_verb(verbs, "preprocess", _preprocess, "labelled corpora -> training records", beam=True)
    _add_inputs(verb, required=False)
    for split in ("train", "dev", "test"):
        text = f"files that are the {split} split as they are; those of --input are spread by a hash of the id"
        verb.add_argument(f"--{split}", nargs="+", default=[], metavar="PATH", help=text)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the training records")
    _add_settings(verb, "encoder, window, data")
    _add_overwrite(verb)
    _add_json(verb)

    verb = _add_verb(verbs, "encoder", _encoder, "what an encoder is, and where its files lie")
    verb.add_argument("handle", metavar="HANDLE", help="minilm-l6, a checkpoint folder, or a TF Hub address or folder")
    _add_json(verb)

    verb = _add_verb(verbs, "train", _train, "training records -> a trained model, the bundle", beam=True)
    verb.add_argument("--data", required=True, nargs="+", metavar="DIR", help="folders that `sepline preprocess` wrote")
    shares = "how much of an epoch comes from each --data folder; by their sizes when left out"
    verb.add_argument("--shares", nargs="+", type=float, metavar="SHARE", help=shares)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the run; the model is DIR/bundle")
    _add_settings(verb, "encoder, model, training")
    _add_overwrite(verb)
    _add_json(verb)

    verb = _add_verb(verbs, "evaluate", _evaluate, "what a bundle is worth on a split, beside two baselines", beam=True)
    verb.add_argument("--model", required=True, metavar="BUNDLE", help="folder of the trained model, or REGISTRY/NAME")
    verb.add_argument("--data", required=True, metavar="DIR", help="folder that `sepline preprocess` wrote")
    verb.add_argument("--split", choices=("train", "dev", "test"), default="test", help="default: test")
    _add_json(verb)

    _add_score(verbs)

    _add_retrain(verbs)
    _add_models(verbs)

    verb = _add_verb(verbs, "demo", _demo, "all of it on real MEDLINE records, each command shown before it runs")
    verb.add_argument("--output", default="build/demo", metavar="DIR", help="default: build/demo")
    verb.add_argument("--full", action="store_true", help="all abstracts and all layers: an hour or two on two cores")
    verb.add_argument("--retrain", action="store_true", help="show three scheduled retrainings instead")
    return parser


def _inspect(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from pipelines.inspection import inspect_corpora
    from pipelines.terminal import show_inspection

    inspection = inspect_corpora(options.input, settings=settings, options=read_options(options), limit=options.limit)
    if options.json:
        print(json.dumps(inspection.to_json(), indent=1))
    else:
        show_inspection(inspection)
    unreadable = inspection.unreadable
    if unreadable:
        of_all = f"{len(unreadable)} of {len(inspection.sources)} sources cannot be read; the first"
        print(f"sepline: {of_all}: {unreadable[0].source}: {unreadable[0].message}", file=sys.stderr)
    return 1 if unreadable else 0


def _preprocess(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from pipelines.preprocessing.preprocess import preprocess
    from pipelines.terminal import show_training_data

    stats = preprocess(
        options.input or [],
        options.output,
        given_splits={split: getattr(options, split) for split in ("train", "dev", "test")},
        settings=settings,
        options=read_options(options),
        beam_options=_beam_options(options),
        overwrite=options.overwrite,
    )
    if options.json:
        print(json.dumps(stats, indent=1))
    else:
        show_training_data(stats, options.output)
    return _unreadable_sources(stats["counts"], f"{options.output}/rejects")


def _encoder(options: argparse.Namespace) -> None:
    from model.config import EncoderSettings
    from model.encoders.encoder import describe_encoder
    from pipelines.terminal import show_encoder

    description = describe_encoder(EncoderSettings(handle=options.handle))
    if options.json:
        print(json.dumps(description.to_json(), indent=1))
    else:
        show_encoder(description)


def _train(options: argparse.Namespace) -> None:
    settings = _settings(options)
    _check_local("--output", options.output)
    data = _records(options, options.data)
    from model.training.train import train_and_evaluate
    from pipelines.terminal import show_bundle

    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        bundle = train_and_evaluate(settings, data, options.output, shares=options.shares, overwrite=options.overwrite)
    if options.json:
        print(json.dumps({"bundle": str(bundle.path), **bundle.description}, indent=1))
    else:
        show_bundle(bundle)


def _evaluate(options: argparse.Namespace) -> None:
    _check_local("--model", options.model)
    (data,) = _records(options, [options.data])
    from model.evaluation.evaluate import evaluate_bundle
    from pipelines.terminal import show_evaluation

    results = evaluate_bundle(options.model, data, options.split)
    if options.json:
        print(json.dumps({name: metrics.to_json() for name, metrics in results.items()}, indent=1))
    else:
        show_evaluation(results, split=options.split)


def _score(options: argparse.Namespace) -> int:
    _check_local("--model", options.model)
    from pipelines.scoring.dry_run import estimate
    from pipelines.scoring.score import score
    from pipelines.terminal import show_estimate, show_scored

    settings = score_settings(options)
    reading = read_options(options)
    if options.dry_run:
        found = estimate(options.model, options.input, options.output, settings=settings, options=reading)
        if options.json:
            print(json.dumps(found.to_json(), indent=1))
        else:
            show_estimate(found)
        return 0
    manifest = score(
        options.model,
        options.input,
        options.output,
        settings=settings,
        options=reading,
        beam_options=_beam_options(options),
        workers=options.workers,
        overwrite=options.overwrite,
        resume=options.resume,
    )
    if options.json:
        print(json.dumps(manifest, indent=1))
    else:
        show_scored(manifest, options.output)
    rejects = f"{options.output}/_rejects"
    failed = manifest["counts"]["rejects"].get("failed_window", 0)
    if failed:
        print(f"sepline: the model failed on {failed} documents; {rejects} says why", file=sys.stderr)
    return _unreadable_sources(manifest["counts"], rejects) or int(failed > 0)


def _retrain(options: argparse.Namespace) -> int:
    import signal

    from pipelines.retraining.settings import load_retrain_settings

    settings = load_retrain_settings(options.config, options.set)
    _check_local("retrain.workspace", settings.retrain.workspace)
    _check_local("retrain.registry", settings.retrain.registry)
    from pipelines.retraining.retrain import retrain
    from pipelines.terminal_models import show_decision, show_result

    beam_options = _beam_options(options)
    # Lets go of the lock, where the default would not.
    default = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with redirect_stdout(sys.stderr):
            result = retrain(settings, beam_options=beam_options, take_over_lock=options.take_over_lock)
    finally:
        signal.signal(signal.SIGTERM, default)
    if options.json:
        result_json = {"outcome": result.outcome, "reason": result.reason, "record": result.record}
        print(json.dumps(result_json, indent=1))
    else:
        show_result(result.outcome, result.reason)
        if options.explain:
            show_decision(result.record)
    return result.exit_code


def _models(options: argparse.Namespace) -> None:
    from pipelines.models import run_action

    run_action(options)


def _demo(options: argparse.Namespace) -> None:
    _check_local("--output", options.output)
    if options.retrain:
        from pipelines.retrain_demo import run_retrain_demo

        run_retrain_demo(options.output)
    else:
        from pipelines.demo import run_demo

        run_demo(options.output, full=options.full)


def _is_local(path: str) -> bool:
    """Returns what `objects.is_local` does, and loads Beam only for a path that may name another filesystem."""
    if "://" not in path:
        return True
    from pipelines.storage.objects import is_local

    return is_local(path)


def _check_local(name: str, path: str) -> None:
    if not _is_local(path):
        raise UserError(f"{name} {path}: takes a local or shared folder; records and scored folders can lie elsewhere")


def _records(options: argparse.Namespace, folders: Sequence[str]) -> Sequence[str]:
    """Returns local folders with the records of some, for which Beam's options say how its filesystems reach them."""
    if all(map(_is_local, folders)):
        if options.beam_flags or options.runner_config:
            raise UserError(
                f"{options.verb} runs no Beam job, and --data is local; leave out --runner-config and what follows --"
            )
        return folders
    from pipelines.storage.local_copy import fetch_records

    _beam_options(options)
    return [fetch_records(folder) for folder in folders]


def _unreadable_sources(counts: Mapping[str, Any], rejects: str) -> int:
    """Returns the exit code of a job that is otherwise done: 1 where a whole source could not be read."""
    count = counts["rejects"].get("unreadable_source", 0)
    if count:
        print(
            f"sepline: {count} of the sources can't be read; {rejects} says why, the others are done", file=sys.stderr
        )
    return int(count > 0)


def _add_verb(verbs: Any, name: str, run: Any, summary: str, *, beam: bool = False) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=f"{name}: {summary}.",
        epilog="Flags of Beam itself follow after --." if beam else None,
    )
    verb.set_defaults(run=run, takes_beam_flags=beam)
    if beam:
        verb.add_argument(
            "--runner-config", metavar="YAML", help="a file of Beam options, such as those in runner_configs"
        )
    return verb


def _add_score(verbs: Any) -> None:
    verb = _add_verb(verbs, "score", _score, "document collections -> predictions in Parquet", beam=True)
    verb.add_argument("--model", required=True, metavar="BUNDLE", help="folder of the trained model, or REGISTRY/NAME")
    _add_inputs(verb)
    verb.add_argument("--output", required=True, metavar="DIR", help="folder for the Parquet files")
    verb.add_argument("--limit", type=_positive, metavar="N", help="score only the first N records of each file")
    verb.add_argument("--sample", type=_share, metavar="SHARE", help="score this share of the documents, by id: 0.01")
    verb.add_argument("--unlabelled-only", action="store_true", help="reject documents that carry labels already")
    verb.add_argument(
        "--layout", choices=("sentences", "documents"), default="sentences", help="what a row is (default: sentences)"
    )
    verb.add_argument("--columns", nargs="+", metavar="NAME", help="write only these columns (default: all)")
    verb.add_argument("--no-text", action="store_true", help="leave out the sentences' text")
    verb.add_argument("--workers", type=_positive, metavar="N", help="processes (default: by cores and memory)")
    verb.add_argument("--chunk-records", type=_positive, metavar="N", help="input records a part (default: 500)")
    verb.add_argument("--batch-tokens", type=_positive, metavar="N", help="wordpieces a micro-batch (default: 8192)")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be done, and about how long it takes")
    verb.add_argument("--resume", action="store_true", help="go on in --output though inputs or versions have changed")
    _add_overwrite(verb)
    _add_json(verb)


def _add_retrain(verbs: Any) -> None:
    verb = _add_verb(verbs, "retrain", _retrain, "new labelled files -> a published model, if it is better", beam=True)
    verb.add_argument("--config", required=True, metavar="YAML", help="see runner_configs/retrain.yaml")
    _add_override(verb)
    verb.add_argument("--explain", action="store_true", help="print the decision table: every check and gate")
    verb.add_argument("--take-over-lock", action="store_true", help="take over the lock of a run that has died")
    _add_json(verb)
    verb.epilog = (
        "Exit codes: 0 published; 10 the champion was kept; 11 nothing new; 12 invalid data; 13 another run holds the "
        "lock, or has left it behind; 1 failure; 2 a mistake in usage or settings. Flags of Beam itself follow "
        "after --."
    )


def _add_models(verbs: Any) -> None:
    verb = _add_verb(verbs, "models", _models, "the registry: versions of a model, and which one is the champion")
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in (
        ("list", "the versions of a model"),
        ("show", "one version: what it is, how it came to be, and every change of it"),
        ("promote", "make a version the champion"),
        ("rollback", "make the champion before the present one the champion again"),
        ("prune", "remove old versions; never the champion, the one before it, or one in use by an unfinished run"),
    ):
        action = actions.add_parser(name, help=summary, description=f"models {name}: {summary}.")
        action.add_argument("model", metavar="REGISTRY/NAME", help="the model's folder in the registry")
        if name in ("show", "promote"):
            nargs = "?" if name == "show" else None
            action.add_argument("version", type=_positive, nargs=nargs, metavar="N", help="the version's number")
        if name == "prune":
            action.add_argument("--keep", type=_positive, default=5, metavar="N", help="newest to keep (default: 5)")
            action.add_argument("--dry-run", action="store_true", help="only say what would go")
        if name in ("list", "show"):
            _add_json(action)
        else:
            action.add_argument("--why", default="by hand", metavar="TEXT", help="reason, for the log")


def _add_inputs(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    verb.add_argument("--input", required=required, nargs="+", metavar="PATH", help=_INPUT_HELP)
    _add_reading(verb)


def _add_reading(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", choices=_FORMATS, help="default: told from name and content")
    verb.add_argument("--id-column", metavar="NAME", help="column or key of the document id (default: doc_id)")
    verb.add_argument("--text-column", metavar="NAME", help="column or key of the text (default: text)")
    verb.add_argument(
        "--sentences-column", metavar="NAME", help="column or key of given sentences (default: sentences)"
    )
    verb.add_argument("--labels-column", metavar="NAME", help="column or key of their labels (default: labels)")
    verb.add_argument("--label-map", metavar="YAML", help="renames labels and section headings; see docs/corpora.md")


def _add_settings(verb: argparse.ArgumentParser, sections: str) -> None:
    verb.add_argument("--config", metavar="YAML", help=f"settings file; the sections that count here: {sections}")
    _add_override(verb)


def _add_override(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, over the file's; may be repeated",
    )


def _add_overwrite(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in --output")


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


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


def score_settings(options: argparse.Namespace) -> ScoreSettings:
    """Returns what the parsed options of `sepline score` say of chunks, batches and rows."""
    from pipelines.scoring.predictions import PartFormat
    from pipelines.scoring.score import ScoreSettings

    given = {key: getattr(options, key) for key in ("chunk_records", "batch_tokens", "limit", "sample")}
    return ScoreSettings(
        **{key: value for key, value in given.items() if value is not None},
        unlabelled_only=options.unlabelled_only,
        format=PartFormat(
            options.layout, columns=tuple(options.columns) if options.columns else None, text=not options.no_text
        ),
    )


def _settings(options: argparse.Namespace) -> Settings:
    from model.config import load_settings

    return load_settings(options.config, options.set)


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Returns what the parsed options of a verb say of how its inputs are read."""
    from pipelines.corpora.labels import LabelMap
    from pipelines.corpora.options import ReadOptions

    given = {
        name: getattr(options, name)
        for name in ("format", "id_column", "text_column", "sentences_column", "labels_column")
        if getattr(options, name) is not None
    }
    return ReadOptions(**given, label_map=LabelMap.load(options.label_map) if options.label_map else None)


def _beam_options(options: argparse.Namespace) -> PipelineOptions:
    from pipelines.runners.options import beam_options

    return beam_options(options.runner_config, options.beam_flags)


if __name__ == "__main__":
    run()
