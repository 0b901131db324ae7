"""One scheduled retraining, from new files to a published model or a reason why not:

    fingerprint -> preprocess -> check the data -> train -> evaluate -> gates -> publish -> record

Each step leaves its result in the run's folder (`workspace.py`) and takes it from there when it is there already.
So a call after a crash, at whatever moment, ends as one that nothing disturbed. The champion serves all the while.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import model
from model.bundles.bundle import Bundle, load_bundle
from model.bundles.registry import Registry
from model.bundles.training_data import STATS, VOCABULARY, TrainingData, open_training_data
from model.config import Settings
from model.errors import DataError
from model.folders import write_json
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_source, match_sources
from pipelines.retraining.hooks import run_hook
from pipelines.retraining.lock import LockHeldError, RunLock
from pipelines.retraining.settings import RetrainSettings
from pipelines.retraining.workspace import EXIT_CODES, Outcome, Run, Workspace, digest

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_RECORDED = ("run.json", "checks.json", "evaluation.json", "decision.json")


@dataclass(frozen=True)
class Result:
    """How a call has ended.

    Attributes:
        outcome, reason: in a word, and in words.
        record: of the run that it was about; empty where there was none.
    """

    outcome: Outcome
    reason: str
    record: dict[str, Any]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


@dataclass(frozen=True)
class _Job:
    """What all steps of a run need."""

    settings: RetrainSettings
    beam_options: PipelineOptions
    workspace: Workspace
    registry: Registry
    run: Run
    lock: RunLock

    @property
    def champion(self) -> int | None:
        return self.run.facts["champion"]

    def step(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the content of the run's JSON file `name`, which is made where it is missing."""
        self.lock.check()
        if (there := self.run.read(name)) is not None:
            return there
        made = make()
        write_json(self.run.folder / name, made)
        return self.run.read(name)


def retrain(
    settings: RetrainSettings,
    *,
    beam_options: PipelineOptions,
    take_over_lock: bool = False,
) -> Result:
    """Goes on with the unfinished run or makes a new one, to its end; runs the outcome's hook.

    Args:
        settings: what to retrain and when to publish it.
        beam_options: of preprocessing.
        take_over_lock: True to take over a stale lock, whatever the settings say.

    Raises:
        UserError: settings or inputs can't be used.
    """
    workspace = Workspace(settings.retrain.workspace)
    try:
        with RunLock(
            workspace.folder / "lock.json",
            expiry=60 * settings.lock.expiry_minutes,
            take_over=take_over_lock or settings.lock.take_over_stale,
            report=_say,
        ) as lock:
            result = _run_to_its_end(settings, beam_options, workspace, lock)
            workspace.tidy(keep=settings.retrain.keep_runs)
    except LockHeldError as error:
        result = Result(Outcome.LOCKED, str(error), {})
    except Exception as error:
        _finish(settings, workspace, Outcome.ERROR, f"{type(error).__name__}: {error}", record=_keep_error(workspace))
        raise
    record = workspace.folder / "runs" / result.record["run"] / "record.json" if result.record else None
    _finish(settings, workspace, result.outcome, result.reason, record=record)
    return result


def _run_to_its_end(
    settings: RetrainSettings,
    beam_options: PipelineOptions,
    workspace: Workspace,
    lock: RunLock,
) -> Result:
    registry = Registry(Path(settings.retrain.registry) / settings.retrain.name)
    options = _read_options(settings)
    inputs = [{**fingerprint_source(source), "split": None} for source in match_sources(settings.retrain.input)]
    contents = [[PurePosixPath(str(source["path"])).name, source["sha256"]] for source in inputs]
    key = digest([contents, settings.deciding(), asdict(options)])
    holder = f"retrain-{digest(str(workspace.folder.resolve()))}"  # of the pin of the champion
    if settled := workspace.settled(key):
        registry.unpin(holder)  # by a run that was killed between its record and its end
        record = settled.read("record.json")
        reason = f"inputs and settings are those of run {settled.name}, which has ended as {record['outcome']}"
        return Result(Outcome.NOTHING_NEW, reason, record)

    data_settings = settings.for_training().model_dump(
        mode="json", include={"encoder": {"handle"}, "window": True, "data": True}
    )
    facts = {
        "champion": registry.champion(),
        "data": digest([inputs, data_settings, asdict(options), model.__version__]),
        "sepline": model.__version__,
        "inputs": inputs,
        "settings": settings.deciding(),
    }
    run = workspace.open(key, facts)
    job = _Job(settings, beam_options, workspace, registry, run, lock)
    if job.champion is not None:
        registry.pin(job.champion, holder)
    _say(f"run {run.name}: {len(inputs)} files, {_named(job.champion)}")
    try:
        record = _steps(job, options)
    except DataError as error:
        record = run.settle(Outcome.INVALID_DATA, str(error))
    registry.unpin(holder)
    return Result(Outcome(record["outcome"]), record["reason"], record)


def _steps(job: _Job, options: ReadOptions) -> dict[str, Any]:
    """Returns the record of the run, with every step done."""
    run, settings = job.run, job.settings
    data = _preprocess(job, options)
    checked = job.step("checks.json", lambda: _check(job, data))
    if checked["new_documents"] < settings.checks.min_new_documents:
        wanted = settings.checks.min_new_documents
        reason = f"{checked['new_documents']:,} new documents, checks.min_new_documents is {wanted:,}"
        return run.settle(Outcome.NOTHING_NEW, reason)
    if checked["failures"]:
        return run.settle(Outcome.INVALID_DATA, checked["failures"])
    bundle = _train(job, data)
    evaluation = job.step("evaluation.json", lambda: _evaluate(job, data, bundle))
    decision = job.step("decision.json", lambda: _decide(evaluation, settings))
    if decision["failures"]:
        return run.settle(Outcome.KEPT, decision["failures"], version=job.champion)
    version = _publish(job, data, bundle)
    accuracy = evaluation["candidate"]["metrics"]["accuracy"]
    reason = f"version {version} passed every gate, accuracy {accuracy:.4f}; before it: {_named(job.champion)}"
    return run.settle(Outcome.PUBLISHED, reason, version=version)


def _preprocess(job: _Job, options: ReadOptions) -> TrainingData:
    from pipelines.preprocessing.preprocess import preprocess

    _say("preprocessing")
    folder = job.workspace.data_folder(job.run.facts["data"])
    preprocess(
        job.settings.retrain.input,
        str(folder),
        settings=job.settings.for_training(),
        options=options,
        beam_options=job.beam_options,
    )
    return open_training_data(folder)


def _check(job: _Job, data: TrainingData) -> dict[str, Any]:
    from pipelines.retraining.data_checks import check_data, count_new_documents
    from pipelines.retraining.drift import read_profile
    from pipelines.retraining.verdicts import failures

    recorded = job.registry.record_path(job.champion) if job.champion is not None else None
    champion = read_profile(recorded) if recorded is not None and (recorded / STATS).exists() else None
    verdicts = check_data(
        read_profile(data.path),
        champion,
        settings=job.settings.checks,
        held_out=job.settings.retrain.held_out,
        expected_labels=job.settings.data.labels,
    )
    return {
        "new_documents": count_new_documents(data, champion),
        "counts": data.stats["counts"],
        "verdicts": [verdict.to_json() for verdict in verdicts],
        "failures": failures(verdicts),
    }


def _train(job: _Job, data: TrainingData) -> Bundle:
    from model.training.train import train_and_evaluate

    settings = job.settings.for_training()
    if job.settings.retrain.start == "champion" and job.champion is not None:
        settings = _warm(settings, job.registry.version_path(job.champion))
    _say(f"training from {settings.training.warm_start or 'the pretrained encoder'}")
    job.lock.check()
    return train_and_evaluate(settings, str(data.path), str(job.run.folder / "training"))


def _warm(settings: Settings, champion: Path) -> Settings:
    training = settings.training.model_copy(update={"warm_start": str(champion)})
    return settings.model_copy(update={"training": training})


def _evaluate(job: _Job, data: TrainingData, bundle: Bundle) -> dict[str, Any]:
    from pipelines.retraining.evaluation import evaluate_candidate

    _say("evaluating")
    champion, facts = None, {}
    if job.champion is not None:
        champion = load_bundle(job.registry.version_path(job.champion))
        facts = {"version": job.champion, "accuracy_when_published": _published_accuracy(job)}
    return evaluate_candidate(
        bundle, champion, data, job.settings.retrain.held_out, settings=job.settings.gates, champion_facts=facts
    )


def _published_accuracy(job: _Job) -> float | None:
    """Returns what the champion's accuracy was in the run that published it."""
    assert job.champion is not None
    file = job.registry.record_path(job.champion) / "evaluation.json"
    if not file.exists():
        return None
    return json.loads(file.read_text(encoding="utf-8"))["candidate"]["metrics"]["accuracy"]


def _decide(evaluation: dict[str, Any], settings: RetrainSettings) -> dict[str, Any]:
    from pipelines.retraining.gates import apply_gates
    from pipelines.retraining.verdicts import failures

    verdicts = apply_gates(evaluation, settings.gates)
    return {"verdicts": [verdict.to_json() for verdict in verdicts], "failures": failures(verdicts)}


def _publish(job: _Job, data: TrainingData, bundle: Bundle) -> int:
    _say("publishing")
    why = f"retraining, run {job.run.name}"
    files = [*(job.run.folder / name for name in _RECORDED), data.path / STATS, data.path / VOCABULARY]
    job.lock.check()
    version: int = job.step("version.json", lambda: {"version": job.registry.add(bundle, why=why, records=files)})[
        "version"
    ]
    job.registry.publish(version, champion=job.champion, why=why)
    return version


def _read_options(settings: RetrainSettings) -> ReadOptions:
    reading = settings.reading.model_dump()
    label_map = reading.pop("label_map")
    return ReadOptions(**reading, label_map=LabelMap.load(label_map) if label_map else None)


def _keep_error(workspace: Workspace) -> Path | None:
    """Writes the exception being handled into the unfinished run's folder, and returns the file."""
    run = workspace.unfinished()
    if run is None:
        return None
    file = run.folder / "error.json"
    write_json(file, {"run": run.name, "error": str(sys.exception()), "traceback": traceback.format_exc()})
    return file


def _finish(
    settings: RetrainSettings, workspace: Workspace, outcome: Outcome, reason: str, *, record: Path | None
) -> None:
    hook = getattr(settings.hooks, outcome)
    problem = run_hook(hook, outcome=outcome, reason=reason, record=record) if hook else None
    workspace.log(outcome=outcome, reason=reason, record=None if record is None else str(record), hook_problem=problem)
    if problem:
        print(f"sepline: {problem}; the outcome is {outcome} all the same", file=sys.stderr)


def _named(champion: int | None) -> str:
    return "no champion" if champion is None else f"champion version {champion}"


def _say(text: str) -> None:
    print(text, flush=True)
