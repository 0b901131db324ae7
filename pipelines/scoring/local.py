"""Scoring in worker processes of this machine, which survives records that kill them.

A worker that dies is started again with what is left. When a second one dies in the same chunk, the chunk's records
are tried one at a time, in a worker that writes nothing. Those that kill it are rejected, and the job goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from apache_beam.options.pipeline_options import PipelineOptions

from model.bundles.bundle import Bundle
from model.errors import JobFailure, UserError
from model.inference.kinds import PredictorChoice
from pipelines.corpora.chunks import Killer, Unit, finished_chunks, unfinished
from pipelines.corpora.options import ReadOptions
from pipelines.runners.local_processes import LocalWorkers, count_gpus, default_workers
from pipelines.runners.machine import visible_gpus
from pipelines.scoring.progress import sample_sources, sources_to_sample
from pipelines.scoring.quarantine import Stage, Supplied, Told
from pipelines.scoring.scored_folder import finished_parts
from pipelines.scoring.server import PIPELINE, scoring_server
from pipelines.scoring.settings import ScoringContext
from pipelines.storage.packed import Packed

_SAMPLE = "sample"
_MOST_SORTED = 1000  # units; among more, none is a large share of the work, and they are not all held in memory
_MOST_KILLERS = 20  # of a chunk; a model that kills its process whatever it reads is no matter of single records
_MEMORY = "if memory ran out, take fewer --workers, a smaller --batch-tokens or fewer --chunk-records"


def examine(bundle: Bundle, predictor: str) -> tuple[str, ...]:
    """Returns the precisions in which a predictor runs a bundle here, found by a worker; this process loads nothing.

    Raises:
        UserError: the model's graph can do more than compute, and is not trusted; or the predictor is not installed.
        JobFailure: the worker died.
    """
    with LocalWorkers(scoring_server(predictor), 1) as workers:
        end = workers.run(f"{__name__}:examine_here", bundle, predictor)
    if end.died is not None:
        raise JobFailure(f"{bundle.path}: a worker process that looked at the model ended with {end.died}")
    refusal, precisions = end.returned
    if refusal is not None:
        raise UserError(refusal)
    return tuple(precisions)


def examine_here(bundle: Bundle, predictor: str) -> tuple[str | None, tuple[str, ...]]:
    """Returns why a predictor can't run a bundle in this process, None if it can, and its precisions."""
    try:
        return None, PredictorChoice(predictor).kind().examine(bundle)
    except UserError as error:
        return str(error), ()


def score_locally(
    units: Sequence[Unit],
    context: ScoringContext,
    beam_options: PipelineOptions,
    *,
    expect: Callable[[tuple[int, int]], None],
    workers: int | None = None,
) -> None:
    """Scores the units.

    Args:
        units: what is to be scored, at least one.
        context: of the job.
        beam_options: of the pipeline that each worker runs.
        expect: is told what `sample_sources` returns, which a worker runs, since it parses records.
        workers: number of processes; None for as many as suit the machine and the units.

    Raises:
        JobFailure: workers die, and not by single records.
        RuntimeError: a worker raised; the message has its traceback.
    """
    server = scoring_server(context.predictor.name)
    gpus = visible_gpus() if context.predictor.name == "tensorflow" else []
    if gpus:
        with LocalWorkers(server, 1) as counting:
            gpus = gpus[: counting.run(f"{count_gpus.__module__}:{count_gpus.__name__}").returned or 0]
    if workers is None:
        workers = max(1, min(default_workers(context.bundle.path, gpus=len(gpus)), len(units) // 2))
    workers = min(workers, len(units))
    with LocalWorkers(server, workers, gpus=gpus) as running:
        running.start(_SAMPLE, f"{__name__}:sample", sources_to_sample(units), context.options)
        _LocalJob(running, context, beam_options, expect).score(units, workers)


def sample(paths: Sequence[str], options: ReadOptions) -> tuple[int, int] | None:
    """Returns what `sample_sources` does, None if a filesystem doesn't answer."""
    with suppress(JobFailure):
        return sample_sources(paths, options)
    return None


@dataclass(slots=True)
class _Line:
    """A worker and those that replace it.

    Attributes:
        number: of the line.
        taken: the units that the present worker has taken.
        again: the units that its predecessor left, which it takes first, and carefully.
        suspected: the chunks that the predecessor was busy with when it died.
    """

    number: int
    taken: Packed[Supplied] = field(default_factory=Packed)
    again: deque[Unit] = field(default_factory=deque)
    suspected: frozenset[tuple[str, int]] = frozenset()


class _LocalJob:
    """Runs workers until all is scored, and mends what ends them."""

    def __init__(
        self,
        workers: LocalWorkers,
        context: ScoringContext,
        beam_options: PipelineOptions,
        expect: Callable[[tuple[int, int]], None],
    ) -> None:
        self._workers, self._context, self._beam_options, self._expect = workers, context, beam_options, expect
        self._size = context.settings.chunk_records
        self._deaths: Counter[tuple[str, int] | None] = Counter()  # by prefix and chunk; None before the first chunk

    def score(self, units: Sequence[Unit], workers: int) -> None:
        if workers > 1 and len(units) <= _MOST_SORTED:
            units = sorted(units, key=_files_by_size)
        self._units = iter(units)
        self._next = next(self._units, None)
        lines = [_Line(number) for number in range(workers)]
        for line in lines:
            self._start(line)
        while end := self._workers.next_end():
            if end.key == _SAMPLE:
                if end.returned is not None:
                    self._expect(end.returned)
            elif end.died is not None:
                line = lines[end.key]
                line.again.extendleft(reversed(self._mend(line, end.died, end.told)))
                line.taken = Packed()
                if line.again or self._next:
                    self._start(line)

    def _start(self, line: _Line) -> None:
        function = f"{PIPELINE}:score_supplied"
        self._workers.start(
            line.number,
            function,
            self._context,
            self._beam_options,
            gpu=line.number,
            supply=lambda: self._supply(line),
        )

    def _supply(self, line: _Line) -> Supplied | None:
        """Returns the next unit for a worker; None if there is none."""
        if line.again:
            supplied = Supplied(line.again.popleft(), careful=True)
        elif self._next:
            supplied = Supplied(self._next)
            self._next = next(self._units, None)
        else:
            return None
        line.taken.add(supplied)
        return supplied

    def _mend(self, line: _Line, died: str, told: Sequence[Told]) -> list[Unit]:
        """Returns what a worker that died has left of what it took; if need be, with the records that kill.

        A worker that reads ahead may have died of two chunks. Its successor does one thing at a time with the units
        that it has left.
        """
        taken = [supplied.unit for supplied in line.taken]
        left = unfinished(taken, finished_chunks(finished_parts(self._context.folder)), size=self._size)
        places = [place for place, _ in told if place]
        chunks = [(place.prefix, place.record_index // self._size) for place in places]
        careful = {(each.unit.prefix, each.unit.start.record_index) for each in line.taken if each.careful}
        if places and (places[-1].prefix, places[-1].start) not in careful:
            line.suspected = frozenset(chunks)
            return left
        place, chunk = (places[-1], chunks[-1]) if places else (None, None)
        self._deaths[chunk] += 1 + (chunk in line.suspected)
        line.suspected = frozenset()
        if self._deaths[chunk] < 2:
            return left
        if place is None or chunk is None:
            raise JobFailure(f"two worker processes ended with {died} before they had read anything; {_MEMORY}")
        for number, unit in enumerate(left):
            if (unit.prefix, unit.start.record_index) == (place.prefix, place.start) and chunk[1] not in unit.done:
                killers = self._find_killers(unit, chunk[1]) if self._deaths[chunk] == 2 else []
                if not killers:
                    raise JobFailure(
                        f"{self._deaths[chunk]} worker processes ended with {died} in {self._name(unit, chunk[1])}, "
                        f"but none of these records alone ends one; {_MEMORY}"
                    )
                left[number] = replace(unit, killers=(*unit.killers, *killers))
        return left

    def _find_killers(self, unit: Unit, index: int) -> list[Killer]:
        """Returns the records of a chunk that kill a worker that tries them one at a time."""
        first, end = index * self._size, (index + 1) * self._size
        found: list[Killer] = []
        while True:
            tried = replace(unit, killers=(*unit.killers, *found))
            trial = self._workers.run(f"{PIPELINE}:try_records", tried, index, first, self._context, self._beam_options)
            if trial.died is None:
                return found
            told: Told = trial.told[-1] if trial.told else (None, "reading")
            place, stage = told
            if place is None or not first <= place.record_index < end:
                raise JobFailure(f"a worker process ended with {trial.died} in {self._name(unit, index)}; {_MEMORY}")
            if len(found) == _MOST_KILLERS:
                raise JobFailure(
                    f"more than {_MOST_KILLERS} of {self._name(unit, index)} end the worker process, the last one "
                    f"with {trial.died}; so it is not these records alone"
                )
            if not found:
                self._check_model()
            found.append(_killer(place.record_index, trial.died, stage))
            first = place.record_index + 1

    def _check_model(self) -> None:
        """Lets a worker put a plain sentence to the model: if that kills it, records are not to blame."""
        died = self._workers.run(f"{PIPELINE}:try_model", self._context).died
        if died is not None:
            raise JobFailure(f"a worker process ended with {died} when it put a plain sentence to the model; {_MEMORY}")

    def _name(self, unit: Unit, index: int) -> str:
        return f"the records {index * self._size} to {(index + 1) * self._size - 1} of {unit.source}"


def _files_by_size(unit: Unit) -> int:
    """Sorts whole files first, the largest first, so that none of them is left alone at the end."""
    return 0 if unit.records is not None or unit.state is None else -unit.state.size


def _killer(record_index: int, died: str, stage: Stage) -> Killer:
    doing = {"reading": "read", "splitting": "split into sentences and tokenized", "predicting": "put to the model"}
    message = f"the worker process ended with {died} each time this record was {doing.get(stage, stage)}"
    return Killer(record_index, message, unread=stage == "reading")
