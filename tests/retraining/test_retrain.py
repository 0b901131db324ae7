"""Scheduled retraining from end to end on tiny data: outcomes, gates, poisoned data, kills, locks, rollback."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from conftest import PROJECT, MakeOnce, see_mounts, tiny_documents, write_corpus
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.registry import Registry, open_model
from pipelines.cli import build_parser, main
from pipelines.retraining.settings import HooksSection, load_retrain_settings
from pipelines.retraining.workspace import Outcome, RunFacts, Workspace

FIRST, SECOND, THIRD = 160, 240, 300
"""How many documents the pool has after each of three deliveries."""


def write_delivery(folder: Path, number: int, documents: list[dict[str, Any]]) -> None:
    write_corpus(folder, f"delivery-{number}.jsonl", documents)


def deliver(folder: Path, number: int) -> None:
    """Adds a file of new documents to the pool, 1 to 3."""
    bounds = (0, FIRST, SECOND, THIRD)
    write_delivery(folder, number, tiny_documents(THIRD, seed=11)[bounds[number - 1] : bounds[number]])


def damage(file: Path, size: str) -> None:
    """Removes a file, or makes it empty, or half as long."""
    content = file.read_bytes()
    file.unlink()
    if size != "gone":
        file.write_bytes(content[: len(content) // 2] if size == "half" else b"")


TELL = """printf '%s\\n' "$SEPLINE_OUTCOME" "$SEPLINE_REASON" "$SEPLINE_RECORD" >> {}"""


class Schedule:
    """A retraining that is set up in a folder and called again and again; its hooks write down what they are told."""

    def __init__(self, folder: Path, encoder: Path, pool: Path, **sections: dict[str, Any]) -> None:
        self.folder, self.encoder = folder, encoder
        self.registry = Registry(folder / "registry" / "tiny")
        self.workspace = folder / "work"
        settings: dict[str, Any] = {
            "retrain": {
                "name": "tiny",
                "registry": str(folder / "registry"),
                "workspace": str(self.workspace),
                "input": [str(pool / "*.jsonl")],
                "start": "fresh",
            },
            "encoder": {"handle": str(encoder), "layers": 1},
            "window": {"max_tokens": 48, "context": 1},
            "data": {"splits": {"train": 0.6, "dev": 0.15, "test": 0.25}, "part_records": 50, "buckets": 3},
            "training": {"epochs": 4, "batch_tokens": 192, "learning_rate": 0.01, "checkpoint_seconds": 0},
            "checks": {"min_train_documents": 50, "min_held_out_documents": 20, "max_length_drift": 0.3},
            "gates": {
                "min_accuracy": 0.7,
                "min_label_f1": 0.3,
                "margin": 0.2,
                "margin_macro_f1": 0.2,
                "samples": 200,
                "slice_pattern": "delivery-(.)",
                "min_slice_documents": 10,
                "max_slice_drop": 0.3,
                "max_calibration_error": 0.5,
                "min_relative_speed": 0.01,
            },
            "hooks": {outcome: TELL.format(folder / "told.txt") for outcome in HooksSection.model_fields},
        }
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        self._settings = settings

    @cached_property
    def config(self) -> Path:
        """The file of its settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "retrain.yaml"
        file.write_text(yaml.safe_dump(self._settings), encoding="utf-8")
        return file

    def __call__(self, *flags: str) -> int:
        return main(["retrain", "--config", str(self.config), *flags])

    def record(self, run: int) -> dict[str, Any]:
        return dict(json.loads((self.workspace / "runs" / f"{run:06d}" / "record.json").read_text(encoding="utf-8")))

    def outcomes(self) -> list[str]:
        return [json.loads(line)["outcome"] for line in (self.workspace / "log.jsonl").read_text().splitlines()]

    def told(self) -> list[tuple[str, str, str]]:
        """Returns outcome, reason and record of every call, as the hooks were told."""
        lines = (self.folder / "told.txt").read_text(encoding="utf-8").splitlines()
        return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))

    def record_file(self, run: int, name: str = "record.json") -> str:
        return str(self.workspace / "runs" / f"{run:06d}" / name)

    def verdicts(self, run: int, part: str) -> dict[str, str]:
        return {one["name"]: one["verdict"] for one in self.record(run)[part]["verdicts"]}


@pytest.fixture(scope="session")
def published(make_once: MakeOnce, tiny_encoder: Path) -> Path:
    """A folder with the first delivery under `pool`, and the registry and workspace of the run that published it."""

    def make(folder: Path) -> None:
        deliver(folder / "pool", 1)
        assert Schedule(folder, tiny_encoder, folder / "pool")() == 0

    return make_once("published", make)


@pytest.fixture(scope="session")
def republished(make_once: MakeOnce, published: Path, tiny_encoder: Path) -> Path:
    """The same after the second delivery, of which an unbroken run has published version 2."""

    def make(folder: Path) -> None:
        schedule = copied(published, tiny_encoder, folder, pool=folder / "pool")
        deliver(folder / "pool", 2)
        assert schedule() == 0

    return make_once("republished", make)


@pytest.fixture
def schedule(published: Path, tiny_encoder: Path, tmp_path: Path) -> Schedule:
    """A copy of `published` of the test's own, ready for the next delivery."""
    return copied(published, tiny_encoder, tmp_path / "copy", pool=tmp_path / "pool")


@pytest.fixture
def finished(schedule: Schedule, published: Path) -> Schedule:
    """`schedule` with the pool of its first run, and nothing new in it."""
    return Schedule(schedule.folder, schedule.encoder, published / "pool")


@pytest.fixture
def delivered(schedule: Schedule, republished: Path) -> Schedule:
    """`schedule` with the second delivery in its pool."""
    return second_delivery(schedule, republished)


@pytest.fixture
def trained(delivered: Schedule, republished: Path) -> Schedule:
    """`delivered` after a run on it was killed between training and evaluation."""
    run = Path("work", "runs", "000002")
    later = shutil.ignore_patterns("evaluation.json", "decision.json", "version.json", "record.json")
    shutil.copytree(republished / run, delivered.folder / run, ignore=later)
    return delivered


def second_delivery(schedule: Schedule, republished: Path) -> Schedule:
    """Returns the schedule with the second delivery in its pool; the training records are made already."""
    shutil.copytree(republished / "work" / "data", schedule.workspace / "data", dirs_exist_ok=True)
    return Schedule(schedule.folder, schedule.encoder, republished / "pool")


def copied(published: Path, encoder: Path, folder: Path, *, pool: Path) -> Schedule:
    shutil.copytree(published / "registry", folder / "registry")
    shutil.copytree(published / "work", folder / "work")
    if not pool.exists():
        shutil.copytree(published / "pool", pool)
    return Schedule(folder, encoder, pool)


def test_the_first_run_needs_only_the_absolute_gates(published: Path, tiny_encoder: Path) -> None:
    schedule = Schedule(published, tiny_encoder, published / "pool")
    record = schedule.record(1)
    assert (record["outcome"], record["version"], record["champion"]) == ("published", 1, None)
    gates, checks = schedule.verdicts(1, "gates"), schedule.verdicts(1, "checks")
    assert {name for name, verdict in gates.items() if verdict == "pass"} >= {"accuracy", "calibration", "f1.methods"}
    assert gates["champion.accuracy"] == gates["relative_speed"] == checks["label_drift"] == "skipped"
    assert "fail" not in {*gates.values(), *checks.values()}
    accuracy = record["evaluation"]["candidate"]["metrics"]["accuracy"]
    reason = f"version 1 passed every gate, accuracy {accuracy:.4f}; before it: no champion"
    assert schedule.told() == [("published", reason, schedule.record_file(1))]
    assert open_model(schedule.registry.folder).path == schedule.registry.version_path(1)
    kept = sorted(path.name for path in schedule.registry.record_path(1).iterdir())
    wanted = ["checks.json", "decision.json", "evaluation.json", "run.json", "stats.json", "vocabulary.parquet"]
    assert kept == wanted


def test_a_cycle_of_deliveries(
    schedule: Schedule, republished: Path, tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing new, a model that is published, scoring with either, and a rollback."""
    assert schedule() == 11
    assert "nothing new: inputs and settings are those of run 000001" in capsys.readouterr().out
    reason = "inputs and settings are those of run 000001, which has ended as published"
    assert schedule.told() == [("nothing_new", reason, schedule.record_file(1))]
    command = ["score", "--model", str(schedule.registry.folder), "--input", str(tiny_corpus), "--output"]
    assert main([*command, str(tmp_path / "old")]) == 0
    (tmp_path / "old" / "_SUCCESS").unlink()  # as of a scoring that is still to go on

    schedule = second_delivery(schedule, republished)
    told = tmp_path / "told.txt"
    hook = f'echo "$SEPLINE_OUTCOME $SEPLINE_RECORD" >> {told}; exit 3'
    capsys.readouterr()
    flags = ["--set", f"hooks.published={json.dumps(hook)}", "--set", "retrain.start=champion"]
    assert schedule("--explain", *flags) == 0
    captured = capsys.readouterr()
    record = schedule.record(2)
    assert record["outcome"] == "published" and record["version"] == 2 and record["champion"] == 1
    accuracy = schedule.record(1)["evaluation"]["candidate"]["metrics"]["accuracy"]
    assert record["evaluation"]["champion"]["accuracy_when_published"] == accuracy
    started = load_bundle(schedule.registry.version_path(2)).description["settings"]["training"]["warm_start"]
    assert started == str(schedule.registry.version_path(1))
    assert record["checks"]["new_documents"] == SECOND - FIRST - record["checks"]["counts"]["duplicates_dropped"]
    assert "published: version 2" in captured.out and "champion.accuracy" in captured.out
    assert "the hook" in captured.err and "exit code 3" in captured.err
    assert told.read_text() == f"published {schedule.workspace / 'runs' / '000002' / 'record.json'}\n"
    assert {*schedule.verdicts(2, "gates").values()} <= {"pass", "skipped"}
    assert schedule.verdicts(2, "gates")["champion.accuracy"] == "pass"
    assert {"slice.1", "slice.2"} <= schedule.verdicts(2, "gates").keys()
    assert schedule.outcomes() == ["published", "nothing_new", "published"]

    assert open_model(schedule.registry.folder).path == schedule.registry.version_path(2)
    assert main([*command, str(tmp_path / "new")]) == 0
    assert main([*command, str(tmp_path / "old")]) == 2  # begun with version 1, which is the champion no more
    assert "bundle" in capsys.readouterr().err
    old = ["--model", str(schedule.registry.version_path(1)), *command[3:]]
    assert main(["score", *old, str(tmp_path / "old")]) == 0
    fingerprints = [
        pq.read_schema(next((tmp_path / name).glob("part-*.parquet"))).metadata[b"sepline.bundle"].decode()
        for name in ("old", "new")
    ]
    assert fingerprints == [load_bundle(schedule.registry.version_path(version)).fingerprint for version in (1, 2)]

    assert main(["models", "rollback", str(schedule.registry.folder), "--why", "complaints"]) == 0
    assert open_model(schedule.registry.folder).path == schedule.registry.version_path(1)
    assert schedule("--json", *flags) == 11
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["outcome"] == "nothing_new"


def test_a_worse_model_is_not_published(delivered: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    worse = ["--set", "training.epochs=1", "--set", "training.learning_rate=1.0e-5"]
    assert delivered(*worse, "--set", "gates.min_accuracy=0", "--set", "gates.min_label_f1=0") == 10
    record = delivered.record(2)
    assert (record["outcome"], record["version"]) == ("kept", 1)
    assert "champion.accuracy" in record["reason"]
    assert delivered.verdicts(2, "gates")["champion.accuracy"] == "fail"
    interval = record["evaluation"]["comparison"]["accuracy"]
    assert interval["low"] <= interval["difference"] <= interval["high"] < -0.2
    assert delivered.registry.champion() == 1 and delivered.registry.versions() == [1]
    assert "kept: champion.accuracy" in capsys.readouterr().out
    assert delivered.told() == [("kept", record["reason"], delivered.record_file(2))]


def shuffled_labels(documents: list[dict[str, Any]]) -> None:
    draw = random.Random(1)
    for document in documents:
        document["labels"] = [
            draw.choice(["background", "methods", "results", "conclusions"]) for _ in document["labels"]
        ]


def missing_class(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        document["labels"] = ["methods" if label == "results" else label for label in document["labels"]]


def half_empty_text(documents: list[dict[str, Any]]) -> None:
    for number, document in enumerate(documents):
        if number % 2:
            document["sentences"] = ["" for _ in document["sentences"]]


@pytest.mark.parametrize(
    ("poison", "code", "words"),
    [
        (shuffled_labels, 10, ("accuracy", "champion.fall")),
        (missing_class, 12, ("labels: results missing", "label_drift")),
        (half_empty_text, 12, ("reject_rise: no_text",)),
    ],
)
def test_poisoned_data_are_never_published(
    schedule: Schedule,
    tmp_path: Path,
    poison: Callable[[list[dict[str, Any]]], None],
    code: int,
    words: tuple[str, ...],
) -> None:
    documents = tiny_documents(THIRD, seed=11)
    if poison is missing_class:  # a new export of everything
        poison(documents)
        write_delivery(tmp_path / "pool", 1, documents)
    else:
        poison(documents[FIRST:])
        write_delivery(tmp_path / "pool", 2, documents[FIRST:])
    assert schedule() == code
    record = schedule.record(2)
    assert record["outcome"] == {10: "kept", 12: "invalid_data"}[code]
    for word in words:
        assert word in record["reason"]
    assert schedule.registry.champion() == 1 and schedule.registry.versions() == [1]
    assert schedule() == 11  # nothing new: it is not tried again


def test_too_few_new_documents_are_nothing_new(delivered: Schedule) -> None:
    assert delivered("--set", "checks.min_new_documents=1000") == 11
    assert "new documents, checks.min_new_documents is 1,000" in delivered.record(2)["reason"]
    assert not (delivered.workspace / "runs" / "000002" / "training").exists()


def test_data_that_can_not_train_and_a_wrong_path(
    schedule: Schedule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedule("--set", "data.labels=[odd]") == 12
    assert "no document can train" in schedule.record(2)["reason"]
    assert schedule("--set", f"retrain.input=[{tmp_path / 'nowhere' / '*.jsonl'}]") == 2
    assert "nowhere" in capsys.readouterr().err
    assert schedule("--set", "gates.min_acuracy=1") == 2
    assert "gates.min_acuracy" in capsys.readouterr().err
    assert schedule("--set", "data.target=scores") == 2
    assert "leave data.target out" in capsys.readouterr().err
    assert schedule("--set", "gates.slice_pattern='('") == 2
    assert "gates.slice_pattern" in capsys.readouterr().err
    assert schedule.outcomes()[-2:] == ["invalid_data", "error"]
    (invalid, wrong) = schedule.told()
    assert invalid == ("invalid_data", schedule.record(2)["reason"], schedule.record_file(2))
    assert wrong[0] == "error" and "nowhere" in wrong[1] and wrong[2] == ""
    assert schedule.registry.champion() == 1


def test_a_failure_is_recorded_and_the_next_call_goes_on(trained: Schedule) -> None:
    """The champion's bundle is damaged, so that the evaluation fails; then it is mended."""
    vocabulary = trained.registry.version_path(1) / "vocab.txt"
    text = vocabulary.read_text(encoding="utf-8")
    vocabulary.chmod(0o644)
    vocabulary.write_text("damaged", encoding="utf-8")
    assert trained() == 2
    error = json.loads(Path(trained.record_file(2, "error.json")).read_text(encoding="utf-8"))
    assert "vocab.txt changed since the export" in error["error"]
    assert trained.told() == [("error", f"DamagedFileError: {error['error']}", trained.record_file(2, "error.json"))]
    vocabulary.write_text(text, encoding="utf-8")
    assert trained() == 0
    assert not (trained.workspace / "runs" / "000002" / "error.json").exists()
    assert (trained.record(2)["outcome"], trained.registry.champion()) == ("published", 2)


DAMAGES = ["gone", "empty", "half"]


@pytest.mark.parametrize("size", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "record.json", "both", "checks.json", "version.json"])
def test_a_damaged_file_of_a_run_that_has_ended(
    finished: Schedule, name: str, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record is written again from what is left, or has what `run.json` had; nothing is published twice."""
    record = without_times(finished.record(1))
    for one in {"both": ("run.json", "record.json")}.get(name, (name,)):
        damage(Path(finished.record_file(1, one)), size)
    if name == "both":
        workspace = Workspace(finished.workspace)
        assert workspace.ended_with("any") is None and workspace.unfinished() is None
        assert workspace.open(facts("any")).name == "000002"
        return
    assert finished() == (0 if name == "record.json" else 11)
    assert "Traceback" not in capsys.readouterr().err
    assert without_times(finished.record(1)) == record
    assert finished.registry.versions() == [1] and finished.registry.champion() == 1


@pytest.mark.parametrize("size", DAMAGES)
def test_damaged_results_of_steps_are_made_again(
    finished: Schedule, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = finished.record(1)
    for name in ("checks.json", "decision.json", "record.json"):
        damage(Path(finished.record_file(1, name)), size)
    damage(finished.workspace / "log.jsonl", "half")
    assert finished() == 0
    assert "Traceback" not in capsys.readouterr().err
    assert without_times(finished.record(1)) == without_times(record)
    assert json.loads((finished.workspace / "log.jsonl").read_text().splitlines()[-1])["outcome"] == "published"


@pytest.mark.parametrize("name", ["training/bundle/vocab.txt", "training/run.json", "stats.json"])
def test_damaged_records_and_training_are_made_again(finished: Schedule, name: str) -> None:
    """Of a run that was killed before its evaluation."""
    record = finished.record(1)
    for one in ("evaluation.json", "decision.json", "version.json", "record.json"):
        Path(finished.record_file(1, one)).unlink()
    (data,) = (finished.workspace / "data").iterdir()
    file = data / name if name == "stats.json" else Path(finished.record_file(1, name))
    damage(file, "half")
    shutil.rmtree(finished.registry.folder)
    assert finished("--set", "training.epochs=4") == 0
    assert finished.record(1)["outcome"] == record["outcome"]


def test_a_full_disk_is_recorded_and_the_next_call_goes_on(
    published: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    warm_jobs: WarmJobs,
    small_disk: tuple[Path, int],
) -> None:
    """The disk has room for the records of the training data, and not for a checkpoint."""
    disk, holder = small_disk
    seen, see = Path(f"/proc/{holder}/root{disk}"), see_mounts(holder)
    schedule = Schedule(tmp_path / "own", tiny_encoder, published / "pool", retrain={"workspace": str(disk / "work")})
    words = ["retrain", "--config", str(schedule.config)]
    (seen / "ballast").write_bytes(bytes(1_500_000))
    said = warm_jobs.errors.stat().st_size
    assert warm_jobs.run(words, before=see) == 1
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert "No space left on device" in message.splitlines()[-1] and "Traceback" not in message, message
    ((outcome, reason, _),) = schedule.told()
    assert outcome == "error" and "No space left on device" in reason
    assert not (seen / "work" / "lock.json").exists()
    (seen / "ballast").unlink()
    assert warm_jobs.run(words, before=see) == 0
    assert [outcome for outcome, _, _ in schedule.told()] == ["error", "published"]
    log = (seen / "work" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(log[-1])["outcome"] == "published"


def test_old_runs_leave_their_records(delivered: Schedule) -> None:
    assert delivered("--set", "retrain.keep_runs=1", "--set", "checks.min_label_drift=null") == 2
    assert delivered("--set", "retrain.keep_runs=1", "--set", "checks.max_label_drift=0") == 12
    assert (delivered.workspace / "runs" / "000001" / "record.json").exists()
    assert not (delivered.workspace / "runs" / "000001" / "training").exists()
    assert len(list((delivered.workspace / "data").iterdir())) == 1


def test_two_runs_at_once(trained: Schedule, warm_jobs: WarmJobs, capsys: pytest.CaptureFixture[str]) -> None:
    job = warm_jobs.start(["retrain", "--config", str(trained.config)], before=stop_before("/evaluation.json$"))
    job.wait_until_stopped()
    assert trained() == 13
    assert f"process {job.pid}" in capsys.readouterr().out
    assert job.kill() == -signal.SIGKILL
    # The killed run has left its lock behind; it is reported, and taken over when told.
    assert trained() == 13
    assert "--take-over-lock" in capsys.readouterr().out
    assert trained("--take-over-lock") == 0
    assert f"took over the lock of process {job.pid}" in capsys.readouterr().err
    assert trained.outcomes() == ["published", "locked", "locked", "published"]
    *refusals, (outcome, _, record) = trained.told()
    assert [(outcome, record) for outcome, _, record in refusals] == [("locked", "")] * 2
    assert all(f"process {job.pid}" in reason for _, reason, _ in refusals)
    assert (outcome, record) == ("published", trained.record_file(2))
    assert not (trained.workspace / "lock.json").exists()


class Reader:
    """Loads the champion over and over in a thread, as a service would."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._stopped = registry, threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.seen: list[int] = []
        self.problem: Exception | None = None

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _read(self) -> None:
        stopped = False
        while not stopped:  # once more after the last change
            stopped = self._stopped.is_set()
            try:
                self.seen.append(int(open_model(self._registry.folder).path.name))
            except Exception as error:
                self.problem = error
                return
            time.sleep(0.01)


def without_times(content: Any) -> Any:
    """Returns JSON values without what a clock or a place has a part in: a bundle names the folder of its run."""
    if isinstance(content, dict):
        dropped = {"started", "ended", "speed", "size_mb", "fingerprint"}
        return {key: without_times(value) for key, value in content.items() if key not in dropped}
    if isinstance(content, list):
        return [
            without_times(value)
            for value in content
            if not (isinstance(value, dict) and value.get("name") in ("size", "speed", "relative_speed"))
        ]
    return content


def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(
    published: Path, republished: Path, tiny_encoder: Path, tmp_path: Path, warm_jobs: WarmJobs
) -> None:
    unbroken = Schedule(republished, tiny_encoder, republished / "pool")
    killed = copied(published, tiny_encoder, tmp_path / "killed", pool=republished / "pool")
    schedules = [unbroken, killed]

    work = killed.workspace
    run = work / "runs" / "000002"

    boundaries = (
        "/lock.json$",
        "/runs/000002$",
        "/preprocess.json$",
        "/documents/train/part-",
        "/transform/",
        "/COMPLETED$",
        "/checks.json$",
        "/training/run.json$",
        "/training/history.json$",
        "/training/bundle$",
        "/evaluation.json$",
        "/decision.json$",
        f"{killed.registry.version_path(2)}$",
        "/version.json$",
        "/champion.json$",
        "/record.json$",
    )
    command = ["retrain", "--config", str(killed.config), "--set", "lock.take_over_stale=true"]
    draw = random.Random(3)

    def kill(before: str, *, seconds: float | None = None) -> None:
        """Kills the run at the boundary, or so many seconds after its start if it has not come there by then."""
        job = warm_jobs.start(command, before=before)
        if seconds is None:
            job.wait_until_stopped()
        else:
            time.sleep(seconds)
        assert job.kill() == -signal.SIGKILL

    with Reader(killed.registry) as reader:
        for number, (boundary, following) in enumerate(itertools.pairwise(boundaries)):
            kill(stop_before(boundary))
            if number % 3 == 2 and not (run / "evaluation.json").exists():  # at a random moment of the next step, too
                kill(stop_before(following), seconds=draw.uniform(0, 1.5))
        kill(stop_before(boundaries[-1]))
        kill(stop_before("/log.jsonl$", event="open"))
        code = warm_jobs.run(command)
    assert reader.problem is None
    assert code == 11  # the last kill came after the record
    assert reader.seen == sorted(reader.seen) and set(reader.seen) == {1, 2}

    assert sorted(path.name for path in (work / "runs").iterdir()) == ["000001", "000002"]
    records = [without_times(one.record(2)) for one in schedules]
    assert records[0] == records[1]
    for one in schedules:
        assert one.registry.versions() == [1, 2] and one.registry.champion() == 2
        assert [(change.change, change.version) for change in one.registry.changes()] == [
            ("add", 1),
            ("promote", 1),
            ("add", 2),
            ("promote", 2),
        ]
        assert not list((one.registry.folder / "pins").glob("*"))
        assert not (one.workspace / "lock.json").exists()
    weights = [
        tf.train.load_checkpoint(str(one.registry.version_path(2) / "variables" / "variables")) for one in schedules
    ]
    names = [name for name in weights[0].get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    assert names
    for name in names:
        np.testing.assert_array_equal(weights[0].get_tensor(name), weights[1].get_tensor(name))


def test_a_champion_that_changed_meanwhile_ends_the_run(
    delivered: Schedule, tiny_bundle: Bundle, warm_jobs: WarmJobs
) -> None:
    """A person goes back to another champion while a run is dead; the run would have compared with the wrong one."""
    registry = delivered.registry
    registry.promote(registry.add(tiny_bundle, why="by hand"), why="by hand")
    job = warm_jobs.start(["retrain", "--config", str(delivered.config)], before=stop_before("/checks.json$"))
    job.wait_until_stopped()
    assert job.kill() == -signal.SIGKILL
    registry.promote(1, why="by hand")
    (pin,) = (registry.folder / "pins").glob("*.json")
    assert json.loads(pin.read_text(encoding="utf-8")) == {"version": 2}  # what the dead run compares with
    assert delivered("--take-over-lock") == 0
    assert (delivered.record(2)["outcome"], delivered.record(2)["champion"]) == ("abandoned", 2)
    assert (delivered.record(3)["outcome"], delivered.record(3)["champion"]) == ("published", 1)
    assert delivered.record(3)["version"] == registry.champion() == 3


def test_the_shipped_settings_are_valid_and_complete() -> None:
    from pipelines.retraining.settings import RetrainSettings, load_retrain_settings

    file = PROJECT / "runner_configs" / "retrain.yaml"
    settings = load_retrain_settings(str(file), [])
    assert settings.data.revisions == "latest"
    text = file.read_text(encoding="utf-8")
    for name in ("retrain", "reading", "checks", "gates", "lock", "hooks"):
        for key in RetrainSettings.model_fields[name].annotation.model_fields:  # type: ignore[union-attr]
            assert f"  {key}: " in text or f"  # {key}:" in text, f"{name}.{key}"


def test_the_shipped_schedules_parse() -> None:
    import ast

    folder = PROJECT / "runner_configs"
    (job,) = yaml.safe_load_all((folder / "retrain_cronjob.yaml").read_text(encoding="utf-8"))
    assert job["kind"] == "CronJob" and job["spec"]["concurrencyPolicy"] == "Forbid"
    pods = job["spec"]["jobTemplate"]["spec"]
    assert pods["podReplacementPolicy"] == "Failed" and pods["template"]["spec"]["restartPolicy"] == "Never"
    (container,) = pods["template"]["spec"]["containers"]
    assert [one["name"] for one in container["env"]] == ["JOB"]
    command: list[str] = [*container["command"], *container["args"]]
    options = build_parser().parse_args(command[1:])
    assert (command[0], options.exit_zero) == ("sepline", True)
    config = str(folder / options.config)
    assert load_retrain_settings(config, options.set).lock.model_dump() == {
        "expiry_minutes": 60,
        "take_over_stale": True,
        "holder": "$(JOB)",
    }
    lines = (folder / "retrain.crontab").read_text(encoding="utf-8").splitlines()
    (entry,) = [line for line in lines if line[0].isdigit()]
    assert len(entry.split(maxsplit=5)) == 6
    source = (folder / "retrain_airflow.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    from pipelines.retraining.workspace import EXIT_CODES

    names = {
        target.id: value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
        for target, value in zip(node.targets[0].elts, node.value.elts, strict=True)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant)
    }
    assert {outcome.name: code for outcome, code in EXIT_CODES.items()}.items() <= names.items()


def facts(key: str, *, data: str = "d") -> RunFacts:
    return RunFacts(key, "2026-01-01T00:00:00+00:00", champion=None, data=data, sepline="1", inputs=[], settings={})


def test_workspaces_of_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    assert workspace.ended_with("key") is None and workspace.unfinished() is None
    run = workspace.open(facts("key"))
    assert (run.name, workspace.open(facts("key"))) == ("000001", run)
    assert os.listdir(tmp_path / "work" / "runs") == ["000001"]
    assert workspace.open(facts("other")).name == "000002"
    abandoned = json.loads(run.record_file.read_text(encoding="utf-8"))
    assert (abandoned["outcome"], abandoned["key"], abandoned["checks"]) == ("abandoned", "key", None)


def test_what_a_workspace_keeps(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for number in range(1, 6):
        run = workspace.open(facts(f"key {number}", data=f"data {(number + 1) // 2}"))
        (run.folder / "training").mkdir()
        workspace.data_folder(run.facts.data).mkdir(parents=True, exist_ok=True)
        if number < 5:
            run.end(Outcome.KEPT, "as a test")

    def left() -> tuple[list[str], list[str]]:
        trained = [path.parent.name for path in tmp_path.glob("runs/*/training")]
        return sorted(trained), sorted(path.name for path in (tmp_path / "data").iterdir())

    workspace.tidy(keep=9)
    assert left() == ([f"00000{number}" for number in range(1, 6)], ["data 1", "data 2", "data 3"])
    workspace.tidy(keep=2)
    assert left() == (["000004", "000005"], ["data 2", "data 3"])
    assert len(list(tmp_path.glob("runs/*/run.json"))) == 5
