"""The commands that `peers.py` compares: for each measure, who is measured, at which size, and by which command."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from peer_inputs import ROOT, SEPLINE, Inputs
from processes import CommandError, Usage, run

HF = "Hugging Face fp32"
"""What everything else is a ratio to."""


@dataclass(frozen=True)
class Job:
    """One command of a measure.

    Attributes:
        measure: what it is part of.
        who: whose command it is, as the report names it.
        size: documents that it reads.
        command: makes the command; asked for when it is run, since inputs are made then.
        figures: reads further figures from where the command wrote its output and from what it printed.
        cores: the only cores it may use; None for all.
    """

    measure: str
    who: str
    size: int
    command: Callable[[Path], list[str]]
    figures: Callable[[Path, Usage], Mapping[str, float]] = lambda output, usage: {}
    cores: tuple[int, ...] | None = None

    def run(self, output: Path) -> tuple[Usage, Mapping[str, float]]:
        """Runs it, with its output under a path that doesn't exist yet.

        Raises:
            CommandError: it failed.
        """
        usage = run(self.command(output), environment={"PYTHONPATH": str(ROOT)}, cores=self.cores)
        return usage, self.figures(output, usage)


@dataclass(frozen=True)
class Sizes:
    """How many documents each measure reads."""

    score: int
    training: int
    preprocessing: tuple[int, int]
    flat: tuple[int, int]


@dataclass(frozen=True)
class Peers:
    """Makes the jobs.

    Attributes:
        inputs: what they read.
        python: the one that has PyTorch.
        predictors: as `tensorflow-f32`, those of sepline to measure.
        sizes: how many documents.
    """

    inputs: Inputs
    python: str
    predictors: tuple[str, ...]
    sizes: Sizes

    def jobs(self, measure: str) -> list[Job]:
        """Returns the jobs of a measure, in the order of the report."""
        made: dict[str, Callable[[], list[Job]]] = {
            "score": self._score,
            "workers": self._workers,
            "flat": self._flat,
            "training": self._training,
            "preprocessing": self._preprocessing,
        }
        return made[measure]()

    def _score(self) -> list[Job]:
        peers = {
            HF: [],
            "Hugging Face bf16": ["--dtype", "bfloat16"],
            "one document at a time, fp32": ["--one-at-a-time"],
        }
        jobs = []
        for size in (1, self.sizes.score):
            jobs += [Job("score", who, size, self._hf_score(size, flags)) for who, flags in peers.items()]
            jobs += [self._sepline_score("score", predictor, size) for predictor in self.predictors]
        return jobs + [self._bare(predictor) for predictor in self.predictors]

    def _workers(self) -> list[Job]:
        first = self.predictors[0]
        return [
            self._sepline_score("workers", first, size, workers=workers, cores=tuple(range(workers)))
            for size in (1, self.sizes.score)
            for workers in (1, 2)
        ]

    def _flat(self) -> list[Job]:
        return [
            self._sepline_score("flat", predictor, size)
            for size in (1, *self.sizes.flat)
            for predictor in self.predictors
        ]

    def _training(self) -> list[Job]:
        size = self.sizes.training

        def sepline(output: Path) -> list[str]:
            settings = ["--set", "training.epochs=2", "--set", "training.precision=float32"]
            return [*SEPLINE, "train", "--data", str(self.inputs.records(size)), "--output", str(output), *settings]

        def read_history(output: Path, usage: Usage) -> Mapping[str, float]:
            last = json.loads((output / "history.json").read_text(encoding="utf-8"))[-1]
            return {"tokens_per_second": last["tokens_per_second"]}

        def torch(output: Path) -> list[str]:
            windows = ["--windows", str(self.inputs.windows(size))]
            return [*self._peer("torch_training.py"), "--encoder", str(self.inputs.encoder()), *windows]

        def read_printed(output: Path, usage: Usage) -> Mapping[str, float]:
            return {"tokens_per_second": json.loads(usage.output)["tokens_per_second"]}

        return [
            Job("training", "PyTorch fp32", size, torch, read_printed),
            Job("training", "sepline fp32", size, sepline, read_history),
        ]

    def _preprocessing(self) -> list[Job]:
        def sepline(size: int) -> Callable[[Path], list[str]]:
            place = ["--input", str(self.inputs.labelled(size))]
            return lambda output: [*SEPLINE, "preprocess", *place, "--output", str(output)]

        def peer(size: int) -> Callable[[Path], list[str]]:
            place = ["--encoder", str(self.inputs.encoder()), "--input", str(self.inputs.labelled(size))]
            return lambda output: [*self._peer("hf_preprocess.py"), *place, "--output", str(output)]

        return [
            Job("preprocessing", who, size, command(size))
            for size in self.sizes.preprocessing
            for who, command in (("datasets.map", peer), ("sepline", sepline))
        ]

    def _hf_score(self, size: int, flags: list[str]) -> Callable[[Path], list[str]]:
        def command(output: Path) -> list[str]:
            place = ["--checkpoint", str(self.inputs.checkpoint()), "--input", str(self.inputs.abstracts(size))]
            return [*self._peer("hf_script.py"), *place, "--output", str(output), *flags]

        return command

    def _sepline_score(
        self,
        measure: str,
        predictor: str,
        size: int,
        *,
        workers: int | None = None,
        cores: tuple[int, ...] | None = None,
    ) -> Job:
        def command(output: Path) -> list[str]:
            flags = [*predictor_flags(predictor), *(["--workers", str(workers)] if workers else [])]
            place = ["--input", str(self.inputs.abstracts(size)), "--output", str(output)]
            return [*SEPLINE, "score", "--model", self.inputs.bundle_for(predictor), *place, *flags]

        who = sepline_name(predictor) + (f", workers of one thread: {workers}" if workers else "")
        return Job(measure, who, size, command, cores=cores)

    def _bare(self, predictor: str) -> Job:
        size = self.sizes.score

        def command(output: Path) -> list[str]:
            script = str(Path(__file__).with_name("bare_predictor.py"))
            return [
                sys.executable,
                script,
                self.inputs.bundle_for(predictor),
                str(self.inputs.abstracts(size)),
                predictor,
            ]

        def read_printed(output: Path, usage: Usage) -> Mapping[str, float]:
            return {"predictor_cpu_seconds": json.loads(usage.output)["cpu_seconds"]}

        return Job("predictor alone", sepline_name(predictor), size, command, read_printed)

    def _peer(self, script: str) -> list[str]:
        return [self.python, "-W", "ignore", str(Path(__file__).with_name(script))]


def sepline_name(predictor: str) -> str:
    """Returns how the report names sepline with a predictor such as `tensorflow-f32`."""
    return f"sepline {predictor.replace('-', ' ')}"


def predictor_flags(predictor: str) -> list[str]:
    """Returns the flags of `sepline score` for a predictor; none where there is only one."""
    engine, _, precision = predictor.partition("-")
    return ["--predictor", engine, "--precision", precision] if has_predictors() else []


@functools.cache
def has_predictors() -> bool:
    """Returns True if the installed sepline lets one choose."""
    return "--predictor" in run([*SEPLINE, "score", "--help"]).output


def missing(predictor: str, inputs: Inputs, scratch: Path) -> str | None:
    """Returns why sepline can't score with a predictor here; None if it can."""
    if not has_predictors():
        return None if predictor == "tensorflow-f32" else "this sepline has no --predictor"
    place = ["--input", str(inputs.abstracts(1)), "--output", str(scratch), "--overwrite"]
    try:
        run([*SEPLINE, "score", "--model", inputs.bundle_for(predictor), *place, *predictor_flags(predictor)])
    except CommandError as error:
        return str(error)
    return None
