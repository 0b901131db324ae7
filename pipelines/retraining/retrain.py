"""One scheduled retraining, from new files to a published model or a reason why not:

    fingerprint -> preprocess -> check the data -> train -> evaluate -> gates -> publish -> record

Each step writes its result into the run's folder (`workspace.py`), and is skipped if its result exists already. So
a call after a crash, whenever it happened, ends like an uninterrupted run. The champion stays in use meanwhile.
"""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import model
from model.bundles.bundle import Bundle, load_bundle
from model.bundles.registry import Registry
from model.bundles.training_data import STATS, VOCABULARY, TrainingData, open_training_data
from model.errors import DamagedFileError, DataError, UserError
from model.folders import write_json
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources, require_readable
from pipelines.retraining import workspace as files
from pipelines.retraining.figures import Evaluation
from pipelines.retraining.hooks import run_hook
from pipelines.retraining.lock import LockHeldError, RunLock
from pipelines.retraining.settings import RetrainSettings
from pipelines.retraining.verdicts import Checks, Decision
from pipelines.retraining.workspace import EXIT_CODES, Ending, Outcome, Run, RunFacts, Workspace, digest, now

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.retraining.evaluation import Champion


class _Json(Protocol):
    def to_json(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=_Json)
M = TypeVar("M")


@dataclass(frozen=True)
class Result:
    """How a call has ended.

    Attributes:
        outcome, reason: in one word, and in a sentence.
        run: the run that the call was about, which has ended; None if there was none.
    """

    outcome: Outcome
    reason: str
    run: Run | None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    @property
    def record(self) -> dict[str, Any]:
        """The record of the run, as JSON values; empty if there was none."""
        return self.run.record() if self.run else {}


@dataclass(frozen=True)
class _Job:
    """What all steps of a run need."""

    settings: RetrainSettings
    options: ReadOptions
    beam_options: PipelineOptions
    workspace: Workspace
    registry: Registry
    run: Run
    lock: RunLock

    @property
    def champion(self) -> int | None:
        return self.run.facts.champion

    def step(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """Returns the content of the run's JSON file `name`; makes it first if it doesn't exist."""
        self.lock.check()
        there = self.run.read(name, kind)
        if there is None:
            there = make()
            write_json(self.run.folder / name, there.to_json())
        return there


def retrain(settings: RetrainSettings, *, beam_options: PipelineOptions, take_over_lock: bool = False) -> Result:
    """Continues the unfinished run or starts a new one, brings it to its end, and runs the outcome's hook.

    Args:
        settings: what to retrain and when to publish it.
        beam_options: for preprocessing.
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
            holder=settings.lock.holder,
            report=_say,
        ) as lock:
            result = _run_to_its_end(settings, beam_options, workspace, lock)
            workspace.tidy(keep=settings.retrain.keep_runs)
    except LockHeldError as error:
        result = Result(Outcome.LOCKED, str(error), None)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        _finish(settings, workspace, Outcome.ERROR, reason, record=_keep_error(workspace))
        raise
    _finish(
        settings,
        workspace,
        result.outcome,
        result.reason,
        record=result.run.record_file if result.run else None,
    )
    return result


def _run_to_its_end(
    settings: RetrainSettings, beam_options: PipelineOptions, workspace: Workspace, lock: RunLock
) -> Result:
    registry = Registry(Path(settings.retrain.registry) / settings.retrain.name)
    options = _read_options(settings)
    facts = _fingerprint(settings, options, registry)
    pin = f"retrain-{digest(str(workspace.folder.resolve()))}"
    if ended := workspace.ended_with(facts.key):
        run, ending = ended
        registry.unpin(pin)  # of a run that was killed after it wrote its record
        reason = f"inputs and settings are those of run {run.name}, which has ended as {ending.outcome}"
        return Result(Outcome.NOTHING_NEW, reason, run)

    run = workspace.open(facts)
    job = _Job(settings, options, beam_options, workspace, registry, run, lock)
    if job.champion is not None:
        registry.pin(job.champion, pin)
    _say(f"run {run.name}: {len(facts.inputs)} files, {_named(job.champion)}")
    try:
        ending = _run_steps(job)
    except DataError as error:
        ending = run.end(Outcome.INVALID_DATA, str(error))
    registry.unpin(pin)
    return Result(ending.outcome, ending.reason, run)


def _run_steps(job: _Job) -> Ending:
    """Runs every step that is not done yet, and returns how the run has ended."""
    run = job.run
    data = _preprocess(job)
    checks = job.step(files.CHECKS, Checks, lambda: _check(job, data))
    wanted = job.settings.checks.min_new_documents
    if checks.new_documents < wanted:
        reason = f"{checks.new_documents:,} new documents, checks.min_new_documents is {wanted:,}"
        return run.end(Outcome.NOTHING_NEW, reason)
    if checks.failures:
        return run.end(Outcome.INVALID_DATA, checks.failures)
    bundle = _train(job, data)
    evaluation = job.step(files.EVALUATION, Evaluation, lambda: _evaluate(job, data, bundle))
    decision = job.step(files.DECISION, Decision, lambda: _decide(job, evaluation))
    if decision.failures:
        return run.end(Outcome.KEPT, decision.failures, version=job.champion)
    version = _publish(job, data, bundle)
    accuracy = evaluation.candidate.metrics.accuracy
    reason = f"version {version} passed every gate, accuracy {accuracy:.4f}; before it: {_named(job.champion)}"
    return run.end(Outcome.PUBLISHED, reason, version=version)


def _fingerprint(settings: RetrainSettings, options: ReadOptions, registry: Registry) -> RunFacts:
    """Returns the facts that a run with these settings would start with now."""
    sources = fingerprint_sources(settings.retrain.input)
    require_readable(sources)
    inputs = [{**source.fingerprint, "split": None} for source in sources]
    contents = [[PurePosixPath(str(source["path"])).name, source["sha256"]] for source in inputs]
    data_settings = settings.for_training().model_dump(
        mode="json", include={"encoder": {"handle"}, "window": True, "data": True}
    )
    return RunFacts(
        key=digest([contents, settings.deciding(), asdict(options)]),
        started=now(),
        champion=registry.champion(),
        data=digest([inputs, data_settings, asdict(options), model.__version__]),
        sepline=model.__version__,
        inputs=inputs,
        settings=settings.deciding(),
    )


def _preprocess(job: _Job) -> TrainingData:
    from pipelines.preprocessing.preprocess import preprocess
    from pipelines.preprocessing.records_folder import notes_on_ids

    _say("preprocessing")
    folder = job.workspace.data_folder(job.run.facts.data)

    def make() -> TrainingData:
        stats = preprocess(
            job.settings.retrain.input,
            str(folder),
            settings=job.settings.for_training(),
            options=job.options,
            beam_options=job.beam_options,
        )
        for note in notes_on_ids(stats):
            _say(note)
        return open_training_data(folder)

    return _mending(folder, make)


def _check(job: _Job, data: TrainingData) -> Checks:
    from pipelines.retraining.data_checks import check_data

    recorded = None if job.champion is None else job.registry.record_path(job.champion)
    return check_data(data, recorded, job.settings)


def _train(job: _Job, data: TrainingData) -> Bundle:
    from model.training.train import train_and_evaluate

    settings = job.settings.for_training()
    if job.settings.retrain.start == "champion" and job.champion is not None:
        champion = str(job.registry.version_path(job.champion))
        training = settings.training.model_copy(update={"warm_start": champion})
        settings = settings.model_copy(update={"training": training})
    _say(f"training from {settings.training.warm_start or 'the pretrained encoder'}")
    job.lock.check()
    folder = job.run.folder / "training"

    def make() -> Bundle:
        return train_and_evaluate(settings, str(data.path), str(folder), before_epoch=job.lock.check)

    return _mending(folder, make)


def _mending(folder: Path, make: Callable[[], M]) -> M:
    """Returns what a step makes in a folder; the step starts over if a file that it has left there is damaged."""
    try:
        return make()
    except DamagedFileError as error:
        if not str(error).startswith(f"{folder}"):
            raise
        _say(f"{error}; this run makes it again")
        shutil.rmtree(folder)
        return make()


def _evaluate(job: _Job, data: TrainingData, bundle: Bundle) -> Evaluation:
    from pipelines.retraining.evaluation import evaluate_candidate

    _say("evaluating")
    split = job.settings.retrain.held_out
    bundle = replace(bundle, trusted=job.settings.encoder.trusted)
    return evaluate_candidate(bundle, _load_champion(job), data, split, settings=job.settings.gates)


def _load_champion(job: _Job) -> Champion | None:
    from pipelines.retraining.evaluation import Champion

    if job.champion is None:
        return None
    published = files.read_json_as(Evaluation, job.registry.record_path(job.champion) / files.EVALUATION)
    accuracy = published.candidate.metrics.accuracy if published else None
    champion = load_bundle(job.registry.version_path(job.champion), trusted=job.settings.encoder.trusted)
    return Champion(champion, job.champion, accuracy)


def _decide(job: _Job, evaluation: Evaluation) -> Decision:
    from pipelines.retraining.gates import apply_gates

    return apply_gates(evaluation, job.settings.gates)


def _publish(job: _Job, data: TrainingData, bundle: Bundle) -> int:
    _say("publishing")
    why = f"retraining, run {job.run.name}"
    names = (files.RUN, files.CHECKS, files.EVALUATION, files.DECISION)
    records = [*(job.run.folder / name for name in names), data.path / STATS, data.path / VOCABULARY]

    def add() -> files.AddedVersion:
        return files.AddedVersion(job.registry.add(bundle, why=why, records=records))

    version = job.step(files.VERSION, files.AddedVersion, add).version
    job.lock.check()
    job.registry.publish(version, champion=job.champion, why=why)
    return version


def _read_options(settings: RetrainSettings) -> ReadOptions:
    reading = settings.reading.model_dump()
    label_map = reading.pop("label_map")
    return ReadOptions(**reading, label_map=LabelMap.load(label_map) if label_map else None)


def _keep_error(workspace: Workspace) -> Path | None:
    """Writes the exception being handled into the unfinished run's folder; returns the file, None without one."""
    content = {"error": str(sys.exception()), "traceback": traceback.format_exc()}
    try:
        run = workspace.unfinished()
        if run is None:
            return None
        write_json(run.folder / files.ERROR, {"run": run.name, **content})
        return run.folder / files.ERROR
    except (OSError, UserError) as problem:  # which must not hide the error
        print(f"sepline: the error can't be kept: {problem}", file=sys.stderr)
        return None


def _finish(
    settings: RetrainSettings, workspace: Workspace, outcome: Outcome, reason: str, *, record: Path | None
) -> None:
    """Runs the outcome's hook and writes a line into the log."""
    hook = getattr(settings.hooks, outcome)
    problem = run_hook(hook, outcome=outcome, reason=reason, record=record) if hook else None
    told = None if record is None else str(record)
    try:
        workspace.log(outcome=outcome, reason=reason, record=told, hook_problem=problem)
    except OSError as error:  # which must not hide the outcome
        print(f"sepline: this call is missing in the log: {error}; the outcome is {outcome}", file=sys.stderr)
    if problem:
        print(f"sepline: {problem}; the outcome is still {outcome}", file=sys.stderr)


def _named(champion: int | None) -> str:
    return "no champion" if champion is None else f"champion version {champion}"


def _say(text: str) -> None:
    print(text, flush=True)
