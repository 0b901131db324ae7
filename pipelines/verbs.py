"""Runs each verb of the command line and prints its result."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from model.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from model.bundles.registry import Registry
    from model.config import Settings
    from pipelines.corpora.options import ReadOptions
    from pipelines.scoring.settings import ScoreSettings


def run_inspect(options: argparse.Namespace) -> int:
    """Prints what is in corpora; returns 1 if a source can't be read to its end."""
    settings = _settings(options)
    from pipelines.inspection.inspect import inspect_corpora
    from pipelines.terminal import show_inspection

    inspection = inspect_corpora(options.input, settings=settings, options=read_options(options), limit=options.limit)
    if options.json:
        _print_json(inspection.to_json())
    else:
        show_inspection(inspection)
    for summary in inspection.without_ids:
        print(
            f"sepline: {summary.source}: {summary.shared_ids} of {summary.documents} documents share their ids; a run "
            "identifies them by source and position",
            file=sys.stderr,
        )
    unreadable = inspection.unreadable
    if unreadable:
        of_all = f"{len(unreadable)} of {len(inspection.sources)} sources can't be read as a whole; the first"
        print(f"sepline: {of_all}: {unreadable[0].source}: {unreadable[0].message}", file=sys.stderr)
    return 1 if unreadable else 0


def run_preprocess(options: argparse.Namespace) -> int:
    """Makes training records and prints their counts; returns 1 if records are lost, as in a source that breaks off."""
    settings = _settings(options)
    from pipelines.preprocessing.preprocess import preprocess
    from pipelines.preprocessing.records_folder import notes_on_ids
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
    for note in notes_on_ids(stats):
        print(f"sepline: {note}", file=sys.stderr)
    if options.json:
        _print_json(stats)
    else:
        show_training_data(stats, options.output)
    return _report_lost_records(stats["counts"], f"{options.output}/rejects", allow_broken=options.allow_broken_sources)


def run_encoder(options: argparse.Namespace) -> None:
    """Prints what an encoder is."""
    from model.config import EncoderSettings
    from model.encoders.encoder import open_encoder
    from pipelines.terminal import show_encoder

    description = open_encoder(EncoderSettings(handle=options.handle)).describe()
    if options.json:
        _print_json(description.to_json())
    else:
        show_encoder(description)


def run_train(options: argparse.Namespace) -> None:
    """Trains a model and prints where its bundle is."""
    settings = _settings(options)
    _check_local("--output", options.output)
    data = _records(options, options.data)
    from model.training.train import train_and_evaluate
    from pipelines.terminal import show_bundle

    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        bundle = train_and_evaluate(settings, data, options.output, shares=options.shares, overwrite=options.overwrite)
    if options.json:
        _print_json({"bundle": str(bundle.path), **bundle.description})
    else:
        show_bundle(bundle)


def run_evaluate(options: argparse.Namespace) -> None:
    """Prints a bundle's figures on a split, next to those of the baselines."""
    _check_local("--model", options.model)
    (data,) = _records(options, [options.data])
    from model.evaluation.evaluate import evaluate_bundle
    from pipelines.terminal import show_evaluation

    evaluation = evaluate_bundle(options.model, data, options.split, trust_model=options.trust_model)
    if options.json:
        _print_json({name: metrics.to_json() for name, metrics in evaluation.results.items()})
    else:
        show_evaluation(evaluation.results, split=options.split)
    if evaluation.unknown_labels:
        counts = ", ".join(f"{label} ({count} sentences)" for label, count in evaluation.unknown_labels.items())
        print(f"sepline: labels that the model does not know, counted as wrong: {counts}", file=sys.stderr)


def run_score(options: argparse.Namespace) -> int:
    """Scores documents, or prints an estimate for `--dry-run`; returns 1 if a document failed or records are lost."""
    _check_local("--model", options.model)
    if not (options.dry_run or options.beam_flags or options.runner_config):
        from pipelines.scoring.server import start_server

        # It loads what the workers need while this process loads what it needs.
        start_server(options.model, options.predictor, options.precision)
    from model.records import Reason
    from pipelines.corpora.chunks import ids_are_shared
    from pipelines.scoring.score import score
    from pipelines.scoring.scored_folder import MANIFEST
    from pipelines.storage import objects
    from pipelines.terminal import show_estimate, show_scored

    settings = score_settings(options)
    reading = read_options(options)
    if options.dry_run:
        from pipelines.scoring.dry_run import estimate  # which loads TensorFlow

        found = estimate(
            options.model,
            options.input,
            options.output,
            settings=settings,
            options=reading,
            trust_model=options.trust_model,
            predictor=options.predictor,
            precision=options.precision,
        )
        if options.json:
            _print_json(found.to_json())
        else:
            show_estimate(found)
        return 0
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
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
            trust_model=options.trust_model,
            predictor=options.predictor,
            precision=options.precision,
        )
    if options.json:
        _print_json(objects.read_json(f"{options.output.rstrip('/')}/{MANIFEST}"))
    else:
        show_scored(manifest, options.output)
    counts = manifest["counts"]
    if ids_are_shared(counts.get("shared_ids", 0), counts["records"]):
        print(
            f"sepline: {counts['shared_ids']} of {counts['records']} records have the id of another one in their part; "
            "source and record_index tell their rows apart, and decide which are in a --sample",
            file=sys.stderr,
        )
    rejects = f"{options.output}/_rejects"
    by_reason = manifest["counts"]["rejects"]
    failed, killed = by_reason.get(Reason.FAILED_WINDOW, 0), by_reason.get(Reason.KILLED_WORKER, 0)
    if failed:
        print(f"sepline: the model failed on {failed} documents; {rejects} says why", file=sys.stderr)
    if killed:
        print(f"sepline: {killed} records killed the process that reads them; {rejects} says how", file=sys.stderr)
    lost = _report_lost_records(manifest["counts"], rejects, allow_broken=options.allow_broken_sources)
    return lost or int(failed + killed > 0)


def run_optimize(options: argparse.Namespace) -> None:
    """Adds to a bundle what the predictor openvino runs, and prints how far it agrees with TensorFlow."""
    _check_local("--model", options.model)
    _check_local("--output", options.output)
    data = _records(options, [options.data])[0] if options.data else None
    from model.optimization.optimize import optimize
    from pipelines.terminal import show_bundle

    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        bundle = optimize(
            options.model, options.output, data_dir=data, int8=options.int8, trust_model=options.trust_model
        )
    if options.json:
        _print_json({"bundle": str(bundle.path), **bundle.description})
    else:
        show_bundle(bundle)


def run_verify(options: argparse.Namespace) -> int:
    """Prints whether folders are as they were written; returns 1 if one is not."""
    from pipelines.inspection.verify import verify

    _beam_options(options)  # tells Beam's filesystems how to reach the folders
    found = [verify(folder) for folder in options.folder]
    if options.json:
        _print_json([one.to_json() for one in found])
    for one in [] if options.json else found:
        count = len(one.problems)
        state = f"{count} problem{'s' if count > 1 else ''}" if count else "as it was written"
        print(f"{one.folder}: {one.kind}, {one.files:,} files: {state}")
        for line in [*one.problems, *([one.note] if one.note else [])]:
            print(f"  {line}")
    return int(any(one.problems for one in found))


def run_retrain(options: argparse.Namespace) -> int:
    """Runs a scheduled retraining and prints its outcome; returns the exit code of the outcome."""
    from pipelines.retraining.settings import load_retrain_settings

    settings = load_retrain_settings(options.config, options.set)
    _check_local("retrain.workspace", settings.retrain.workspace)
    _check_local("retrain.registry", settings.retrain.registry)
    from pipelines.retraining.retrain import retrain
    from pipelines.retraining.workspace import Outcome
    from pipelines.terminal import show_decision, show_outcome

    beam_options = _beam_options(options)
    with redirect_stdout(sys.stderr):
        result = retrain(settings, beam_options=beam_options, take_over_lock=options.take_over_lock)
    if options.json:
        _print_json({"outcome": result.outcome, "reason": result.reason, "record": result.record})
    else:
        show_outcome(result.outcome, result.reason)
        if options.explain and result.run:
            show_decision(result.run)
    return 0 if options.exit_zero and result.outcome is not Outcome.LOCKED else result.exit_code


def run_models_list(options: argparse.Namespace) -> None:
    """Prints the versions of a model."""
    from pipelines.retraining.versions import describe_version
    from pipelines.terminal import show_versions

    registry = _open_registry(options)
    versions = [describe_version(registry, version) for version in registry.versions()]
    if options.json:
        _print_json([version.to_json() for version in versions])
    else:
        show_versions(versions)


def run_models_show(options: argparse.Namespace) -> None:
    """Prints what is known about one version, by default the champion."""
    from pipelines.retraining.versions import describe_version
    from pipelines.terminal import show_version

    registry = _open_registry(options)
    version = options.version if options.version is not None else registry.champion()
    if version is None:
        raise UserError(f"{registry.folder}: has no champion; name a version")
    described = describe_version(registry, version)
    if options.json:
        _print_json(described.to_json())
    else:
        show_version(described)


def run_models_promote(options: argparse.Namespace) -> None:
    """Makes a version the champion."""
    _open_registry(options).promote(options.version, why=options.why)
    print(f"version {options.version} is the champion")


def run_models_rollback(options: argparse.Namespace) -> None:
    """Makes the previous champion the champion again."""
    print(f"version {_open_registry(options).rollback(why=options.why)} is the champion again")


def run_models_prune(options: argparse.Namespace) -> None:
    """Removes old versions and prints which."""
    versions = _open_registry(options).prune(keep=options.keep, why=options.why, dry_run=options.dry_run)
    done = "would be removed" if options.dry_run else "removed"
    print(f"{done}: {', '.join(f'version {version}' for version in versions) or 'nothing'}")


def run_demo(options: argparse.Namespace) -> None:
    """Runs one of the two demos."""
    _check_local("--output", options.output)
    from pipelines import demo

    if options.retrain:
        demo.run_retrain_demo(options.output)
    else:
        demo.run_demo(options.output, full=options.full)


def _is_local(path: str) -> bool:
    """Returns the same as `objects.is_local`, but loads Beam only for a path that may name another filesystem."""
    if "://" not in path:
        return True
    from pipelines.storage.objects import is_local

    return is_local(path)


def _check_local(name: str, path: str) -> None:
    if not _is_local(path):
        raise UserError(f"{name} {path}: takes a local or shared folder; records and scored folders can be elsewhere")


def _records(options: argparse.Namespace, folders: Sequence[str]) -> Sequence[str]:
    """Returns the `--data` folders; those on other filesystems are fetched into local folders."""
    if all(map(_is_local, folders)):
        if options.beam_flags or options.runner_config:
            raise UserError(
                f"{options.verb} runs no Beam job, and --data is local; leave out --runner-config and what follows --"
            )
        return folders
    from pipelines.storage.local_copy import fetch_records

    _beam_options(options)  # tells Beam's filesystems how to reach the folders
    return [fetch_records(folder) for folder in folders]


def _report_lost_records(counts: Mapping[str, Any], rejects: str, *, allow_broken: bool = False) -> int:
    """Reports rejects in which records are lost, such as whole sources; returns the exit code: 1 if there are any.

    Args:
        counts: of the job, with `rejects` by reason.
        rejects: where the rejects are, for the message.
        allow_broken: True if sources whose content breaks off are only reported.
    """
    from model.records import Reason

    lost = 0
    for reason, text in (
        (Reason.UNREADABLE_SOURCE, "of the sources can't be read; {} says why, the others are done"),
        (Reason.BROKEN_SOURCE, "of the sources broke off, and what came after that is lost; {} says where"),
        (Reason.SWALLOWED_RECORDS, "broken rows extend over several lines; rows may be lost in them; {} says which"),
    ):
        if count := counts["rejects"].get(reason, 0):
            if reason is Reason.BROKEN_SOURCE:
                from pipelines.storage.parquet import count_reject_sources

                count = count_reject_sources(rejects, reason)  # one may break off in several places
            print(f"sepline: {count} {text.format(rejects)}", file=sys.stderr)
            lost += 0 if allow_broken and reason is Reason.BROKEN_SOURCE else count
    return int(lost > 0)


def _open_registry(options: argparse.Namespace) -> Registry:
    from model.bundles.registry import Registry

    registry = Registry(options.model)
    if not registry.versions():
        raise UserError(
            f"{options.model}: no versions of a model here; give REGISTRY/NAME as in the retraining settings"
        )
    return registry


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))


def score_settings(options: argparse.Namespace) -> ScoreSettings:
    """Returns the scoring settings from the parsed options of `sepline score`."""
    from pipelines.scoring.settings import PartFormat, ScoreSettings

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
    """Returns the reading options from the parsed options of a verb."""
    from pipelines.corpora.labels import LabelMap
    from pipelines.corpora.options import ReadOptions

    given = {
        name: getattr(options, name)
        for name in ("format", "id_column", "text_column", "sentences_column", "labels_column", "quoting")
        if getattr(options, name) is not None
    }
    return ReadOptions(**given, label_map=LabelMap.load(options.label_map) if options.label_map else None)


def _beam_options(options: argparse.Namespace) -> PipelineOptions:
    from pipelines.runners.options import beam_options

    return beam_options(options.runner_config, options.beam_flags)
