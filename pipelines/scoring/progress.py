"""The progress of a scoring job, counted from its finished parts, so that it works the same on every runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType

import numpy as np
import numpy.typing as npt

from model.errors import JobFailure, UserError
from model.progress import ProgressReporter
from pipelines.corpora.chunks import Unit, finished_chunks, prefix_of
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import FingerprintedSource, sample_records
from pipelines.scoring.counts import read_part_counts
from pipelines.scoring.scored_folder import Job, finished_parts
from pipelines.storage import objects
from pipelines.storage.parallel import map_files

_POLL_SECONDS = 0.5
_MOST_POLL_SECONDS = 30.0  # if listing the folder takes long, for example over a network
_LAST_LOOK_SECONDS = 5.0  # after a failure, which may be the store's
_SAMPLED_FILES = 5


def sources_to_sample(units: Sequence[Unit]) -> list[str]:
    """Returns a few of the sources whose units don't know their records, for `sample_sources`."""
    unknown = sum(unit.records is None for unit in units)
    paths = (unit.source for unit in units if unit.records is None)
    return list(islice(paths, 0, None, -(-unknown // _SAMPLED_FILES) or 1))


def sample_sources(paths: Sequence[str], options: ReadOptions) -> tuple[int, int]:
    """Returns the number of records at the beginnings of files, and how many bytes they take as stored."""
    sampled = [sample_records(path, options) for path in paths]
    return sum(records for records, _ in sampled), sum(stored for _, stored in sampled)


def estimate_records(
    sources: Sequence[FingerprintedSource],
    units: Sequence[Unit],
    sample: tuple[int, int],
    *,
    limit: int | None = None,
) -> npt.NDArray[np.int64]:
    """Returns the estimated number of records of each source `[sources]`, 0 if it has no units.

    It is exact if the units know their records. For other files it is estimated from their sizes.

    Args:
        sources: of the job.
        units: in the order of the sources.
        sample: what `sample_sources` has found.
        limit: the most records of a source that are used.
    """
    found = np.zeros(len(sources), np.int64)
    records, stored = sample
    numbered = enumerate(sources)
    number, source = -1, None
    for unit in units:
        while source is None or source.path != unit.source:
            number, source = next(numbered)
        if unit.records is not None:
            found[number] = max(found[number], unit.start.record_index + unit.records)
        else:
            about = round(source.fingerprint["size"] * records / stored) if stored else 1
            found[number] = max(1, about if limit is None else min(about, limit))
    return found


class ScoreProgress:
    """Shows the records done, the total as far as it is known, and the time left. A context manager."""

    def __init__(
        self,
        job: Job,
        units: Sequence[Unit],
        options: ReadOptions,
        *,
        limit: int | None,
        folder: str,
        samples: bool,
    ) -> None:
        """Sets it up; `samples` is False if `expect` will be told what `sample_sources` returns."""
        self._job, self._units, self._options, self._limit = job, units, options, limit
        self._folder, self._samples = folder, samples
        self._stopped = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._numbers = {prefix: number for number, prefix in enumerate(job.prefixes)}
        self._whole = np.zeros(len(job.sources), bool)
        self._records = np.zeros(len(job.sources), np.int64)
        self._counted: set[str] = set()  # parts of sources that are not whole
        self._sample: tuple[int, int] | None = None
        self._expected: npt.NDArray[np.int64] | None = None
        self._exact = np.zeros(len(job.sources), bool)
        for unit in units:
            self._exact[self._numbers[unit.prefix]] = unit.records is not None
        self._done, self._guessed = 0, True
        self._total: int | None = None

    def __enter__(self) -> ScoreProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(None if error is None else _LAST_LOOK_SECONDS)
        if error is None:
            self._numbers.clear()  # publishing needs the memory

    def expect(self, sample: tuple[int, int]) -> None:
        """Takes what `sample_sources` has found."""
        self._sample = sample

    def describe(self) -> str:
        """Returns the current progress as text, such as `500 of about 2,000 records are done`."""
        self._look()
        if self._total is None:
            return f"{self._done:,} records are done"
        return f"{self._done:,} of {'about ' if self._guessed else ''}{self._total:,} records are done"

    def _watch(self) -> None:
        self._look()
        first, started = self._done, time.monotonic()
        with ProgressReporter("scoring", total=None, unit="records", done=first) as progress:
            with suppress(JobFailure):
                if self._samples:
                    self._sample = sample_sources(sources_to_sample(self._units), self._options)
            pause, ended = 0.0, False
            while not ended:
                ended = self._stopped.wait(pause)
                looking = time.monotonic()
                self._look()
                now = time.monotonic()
                speed = (self._done - first) / (now - started)
                progress.update(done=self._done, total=self._total, note=f"{speed:,.1f} records/s" if speed else "")
                pause = min(max(_POLL_SECONDS, 10 * (now - looking)), _MOST_POLL_SECONDS)

    def _look(self) -> None:
        """Counts what is done from the folder's parts, and updates the total."""
        with self._looking:
            # Errors of the network, perhaps; the job reports a lasting failure.
            with suppress(OSError, UserError, JobFailure):
                self._count(finished_parts(self._folder))
            self._done = int(self._records.sum())
            if self._expected is None and self._sample is not None:
                self._expected = estimate_records(self._job.sources, self._units, self._sample, limit=self._limit)
            if self._expected is None:
                return
            expected = np.maximum(self._records, self._expected)
            self._total = int(np.where(self._whole, self._records, expected).sum())
            self._guessed = not (self._exact | self._whole).all()

    def _count(self, names: Collection[str]) -> None:
        """Reads the counts of the parts that are new. What a source has that is whole is known for good."""
        numbers = {}
        for name in names:
            number = self._numbers.get(prefix_of(name) or "")
            if number is not None and not self._whole[number]:
                numbers[name] = number
        new = [name for name in numbers if name not in self._counted]
        read = map_files(
            lambda name: read_part_counts(f"{self._folder}/{name}.parquet").records,
            new,
            local=objects.is_local(self._folder),
        )
        for name, records in zip(new, read, strict=True):
            self._records[numbers[name]] += records
            self._counted.add(name)
        for prefix, finished in finished_chunks(numbers).items():
            self._whole[self._numbers[prefix]] = finished.whole
        self._counted = {name for name in self._counted if name in numbers and not self._whole[numbers[name]]}
