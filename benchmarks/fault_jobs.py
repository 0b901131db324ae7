"""The four jobs that `faults.py` disturbs: `score`, `preprocess`, `train` and `retrain` over tiny data.

Each has a command, and a digest of what must come out the same however often the job was broken off: all bytes of a
scored folder; all bytes of training records but the transform graph, which TensorFlow never writes twice alike; the
weights and figures of a bundle; of a retraining those of the published version, and what its record says.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import tiny_documents, write_checkpoint, write_corpus
from support.warm_jobs import WarmJobs

Digest = dict[str, str]

_SETTINGS: dict[str, Any] = {
    "encoder": {"layers": 1},
    "window": {"max_tokens": 48, "context": 1},
    "data": {"splits": {"train": 0.6, "dev": 0.2, "test": 0.2}, "part_records": 20, "buckets": 2},
    "training": {"epochs": 2, "batch_tokens": 384, "learning_rate": 0.01, "checkpoint_seconds": 0},
}
_LENIENT = {
    "checks": {"min_new_documents": 1, "min_train_documents": 10, "min_held_out_documents": 5},
    "gates": {"min_accuracy": 0, "min_label_f1": 0, "samples": 100, "max_calibration_error": 1},
}


@dataclass(frozen=True)
class FaultJob:
    """One verb over tiny data.

    Attributes:
        verb: its name.
        command: returns its arguments for an empty output folder.
        digest: returns what must be the same, name by name, of a finished output folder.
        whole: the digest of a run that nothing disturbed.
    """

    verb: str
    command: Callable[[Path], list[str]]
    digest: Callable[[Path], Digest]
    whole: Digest


def make_jobs(folder: Path, warm: WarmJobs, verbs: list[str]) -> dict[str, FaultJob]:
    """Makes the data of the jobs in a folder, unless they are there, and runs each job once undisturbed."""
    data = folder / "data"
    if not (data / "made").exists():
        shutil.rmtree(data, ignore_errors=True)
        _make_data(data, warm)
        (data / "made").touch()
    jobs = {}
    for verb in verbs:
        command, digest = _JOBS[verb]
        output = folder / "whole" / verb
        if not (output / "whole.json").exists():
            shutil.rmtree(output, ignore_errors=True)
            _run(warm, command(data, output / "out"))
            (output / "whole.json").write_text(json.dumps(digest(output / "out")), encoding="utf-8")
        whole = json.loads((output / "whole.json").read_text(encoding="utf-8"))
        jobs[verb] = FaultJob(verb, lambda out, command=command: command(data, out), digest, whole)  # type: ignore[misc]
    return jobs


def write_documents(folder: Path, count: int) -> Path:
    """Writes a corpus of short documents and returns its file."""
    return write_corpus(folder, "a.jsonl", tiny_documents(count))


def _make_data(data: Path, warm: WarmJobs) -> None:
    encoder = write_checkpoint(data / "encoder")
    settings = {**_SETTINGS, "encoder": {**_SETTINGS["encoder"], "handle": str(encoder)}}
    (data / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    documents = tiny_documents()
    write_corpus(data / "corpus", "a.jsonl", documents[:30])
    plain = write_corpus(data / "corpus", "b.jsonl", [*documents[30:], {"doc_id": "empty", "sentences": []}])
    (data / "corpus" / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    _run(warm, _preprocess(data, data / "records"))
    _run(warm, _train(data, data / "run"))


def _run(warm: WarmJobs, arguments: list[str]) -> None:
    if code := warm.run(arguments):
        raise SystemExit(f"sepline {arguments[0]} ended with {code}: {warm.errors.read_text(encoding='utf-8')[-2000:]}")


def _score(data: Path, output: Path) -> list[str]:
    inputs = ["--input", str(data / "corpus" / "*")]
    return ["score", "--model", str(data / "run" / "bundle"), *inputs, "--output", str(output), "--chunk-records", "8"]


def _preprocess(data: Path, output: Path) -> list[str]:
    inputs = ["--input", str(data / "corpus" / "*")]
    return ["preprocess", "--config", str(data / "settings.yaml"), *inputs, "--output", str(output)]


def _train(data: Path, output: Path) -> list[str]:
    records = ["--data", str(data / "records")]
    return ["train", "--config", str(data / "settings.yaml"), *records, "--output", str(output)]


def _retrain(data: Path, output: Path) -> list[str]:
    config = output.with_name(f"{output.name}.yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "retrain": {
            "name": "tiny",
            "registry": str(output / "registry"),
            "workspace": str(output / "work"),
            "input": [str(data / "corpus" / "*")],
            "start": "fresh",
        },
        **yaml.safe_load((data / "settings.yaml").read_text(encoding="utf-8")),
        **_LENIENT,
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return ["retrain", "--config", str(config), "--take-over-lock"]


def _digest_scored(output: Path) -> Digest:
    return _digest_files(output)


def _digest_records(output: Path) -> Digest:
    # The list of all files has the checksums of the graph's, too.
    others = ("transform/", "files.json", "COMPLETED")
    return {name: digest for name, digest in _digest_files(output).items() if not name.startswith(others)}


def _digest_run(output: Path) -> Digest:
    return _digest_bundle(output / "bundle")


def _digest_retraining(output: Path) -> Digest:
    registry, records = output / "registry" / "tiny", sorted((output / "work" / "runs").glob("*/record.json"))
    (record,) = (json.loads(file.read_text(encoding="utf-8")) for file in records)
    judged = {key: record[key] for key in ("outcome", "reason", "checks")}
    champion = json.loads((registry / "champion.json").read_text(encoding="utf-8"))
    return {
        "record": _digest(judged),
        "champion": str(champion["version"]),
        **_digest_bundle(registry / "versions" / "000001"),
    }


def _digest_bundle(folder: Path) -> Digest:
    description: Mapping[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    weights = {name: digest for name, digest in _digest_files(folder / "variables").items() if ".data-" in name}
    assert weights
    return {**weights, "metrics": _digest(description.get("metrics"))}


def _digest_files(folder: Path) -> Digest:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_JOBS: Mapping[str, tuple[Callable[[Path, Path], list[str]], Callable[[Path], Digest]]] = {
    "score": (_score, _digest_scored),
    "preprocess": (_preprocess, _digest_records),
    "train": (_train, _digest_run),
    "retrain": (_retrain, _digest_retraining),
}
VERBS = tuple(_JOBS)
