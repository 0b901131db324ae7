"""The progress of a scoring job, counted from its finished parts, so that it works the same on every runner."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from model.errors import JobFailure, UserError
from model.progress import ProgressReporter
from pipelines.corpora.chunks import Unit, finished_chunks, prefix_of
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import FingerprintedSource, sample_records
from pipelines.scoring.counts import PartCountsReader
from pipelines.scoring.scored_folder import Job, finished_parts

_POLL_SECONDS = 0.5
_MOST_POLL_SECONDS = 30.0  # if listing the folder takes long, for example over a network
_LAST_LOOK_SECONDS = 5.0  # after a failure, which may be the store's
_SAMPLED_FILES = 5


def estimate_records(
    sources: Sequence[FingerprintedSource], units: Sequence[Unit], options: ReadOptions, *, limit: int | None = None
) -> dict[str, int]:
    """Returns the estimated number of records of each source with units, by path.

    It is exact if the units know their records. For other files it is estimated from the beginnings of a few files.
    """
    known: dict[str, int] = {}
    for unit in units:
        if unit.records is not None:
            known[unit.source] = max(known.get(unit.source, 0), unit.start.record_index + unit.records)
    sizes = {source.path: source.fingerprint["size"] for source in sources}
    unknown = [unit.source for unit in units if unit.records is None]
    step = -(-len(unknown) // _SAMPLED_FILES) or 1
    sampled = [sample_records(path, options) for path in unknown[::step]]
    records, stored = (sum(column) for column in zip(*sampled, strict=True)) if sampled else (0, 0)
    for path in unknown:
        about = round(sizes[path] * records / stored) if stored else 1
        known[path] = max(1, about if limit is None else min(about, limit))
    return known


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
        counts: PartCountsReader,
        estimates: bool,
    ) -> None:
        """Sets it up; `estimates` is False if `expect` will be told what `estimate_records` returns."""
        self._job, self._units, self._options, self._limit = job, units, options, limit
        self._folder, self._counts = folder, counts
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._prefixes = job.prefixes()
        self._exact = {unit.source for unit in units if unit.records is not None}
        self._estimates = estimates
        self._expected: dict[str, int] | None = None
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

    def expect(self, records: dict[str, int]) -> None:
        """Takes the number of records of each source with units, by path."""
        self._expected = records

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
                if self._estimates:
                    self._expected = estimate_records(self._job.sources, self._units, self._options, limit=self._limit)
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
        try:
            names = finished_parts(self._folder)
            counts = self._counts.read(names)
        except (
            OSError,
            UserError,
            JobFailure,
        ):  # the network, perhaps; the job reports a lasting failure
            return
        records: Counter[str] = Counter()
        for name in names:
            records[prefix_of(name) or ""] += counts[name].records
        self._done = records.total()
        if self._expected is None:
            return
        finished = finished_chunks(names)
        total, self._guessed = 0, False
        for path, prefix in self._prefixes.items():
            if prefix in finished and finished[prefix].whole:
                total += records[prefix]
            else:
                total += max(records[prefix], self._expected.get(path, 1))
                self._guessed = self._guessed or path not in self._exact
        self._total = total
