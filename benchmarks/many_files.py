"""Times what the driver of a scoring job does with many small files, and measures the memory that it takes.

    python benchmarks/many_files.py [--files 20000 200000] [--table FILE] [--folder DIR] [--at s3://BUCKET -- FLAGS]

Makes that many files of one record, and plays a job over them without a model: it lists and fingerprints the files,
claims a folder, plans the units, hands them to Beam and shares them out among workers, lists a part for each file,
counts what is done by them, claims the folder again, as a repeat does, publishes it, and claims it when it is finished.
Each size runs in a process of its own. The table has a line for each size that is done, and those are not done again.
Prints for each step the seconds, those of all cores (which other work on the machine changes less) and the peak of the
memory above that of the start, the slopes between the smallest and the largest size, and what a million files would
take by them.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import pickle
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from model.bundles.bundle import Bundle
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources, match_sources
from pipelines.scoring.counts import PartCounts, count_metadata
from pipelines.scoring.pipeline import create_units
from pipelines.scoring.progress import ScoreProgress
from pipelines.scoring.score import plan_units
from pipelines.scoring.scored_folder import Job, claim_scored_folder, finished_parts, publish
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.storage import objects
from pipelines.storage.parallel import map_files

MILLION = 1_000_000
_ALL = "all"
_FOLDER_FILES = 1000
Steps = dict[str, tuple[float, float, float]]
"""Seconds, those of all cores, and how far the peak of memory lies above the start at its end, in MiB, by step."""


def write_all(contents: Iterator[tuple[str, bytes]]) -> None:
    """Writes objects without syncing local ones: what they hold is of no worth."""

    def write(item: tuple[str, bytes]) -> None:
        path, content = item
        if objects.is_local(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)
        else:
            objects.write_bytes(path, content)

    for _ in map_files(write, contents, local=False):
        pass


def peak() -> float:
    """Returns the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def part_bytes() -> bytes:
    """Returns a part of one record."""
    metadata = count_metadata(PartCounts(records=1, scored=1, sentences=1, windows=1))
    schema = pa.schema([pa.field("doc_id", pa.string())], metadata=metadata)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"doc_id": ["a"]}, schema=schema), buffer)
    return buffer.getvalue()


def run(files: int, place: str, flags: list[str], result: Any) -> None:
    """Plays the job, and sends the figures of its steps."""
    FileSystems.set_options(PipelineOptions(flags))
    inputs, output = f"{place}/in", f"{place}/out"
    steps: Steps = {}
    start = peak()  # Python, TensorFlow and Beam

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started, busy = time.perf_counter(), time.process_time()
        yield
        steps[name] = (time.perf_counter() - started, time.process_time() - busy, peak() - start)
        seconds, of_cores, memory = steps[name]
        print(f"{files:>9,} files: {name}: {seconds:.1f} s, {of_cores:.1f} s of cores, {memory:,.0f} MiB", flush=True)

    write_all(
        (
            f"{inputs}/{number // _FOLDER_FILES:04}/{number}.jsonl",
            json.dumps({"doc_id": str(number), "text": "A sentence."}).encode() + b"\n",
        )
        for number in range(files)
    )
    options, settings = ReadOptions(), ScoreSettings()
    context = ScoringContext(cast(Bundle, None), output, settings, options)
    with step("list the files"):
        assert len(match_sources([f"{inputs}/**"])) == files
    with step("list and fingerprint"):
        sources = fingerprint_sources([f"{inputs}/**"])
    job = Job(identity={"bundle": "none"}, sources=sources, versions={})
    with step("claim"):
        claim = claim_scored_folder(output, job)
    with step("plan"):
        units, failures = plan_units(job, claim.finished, context)
    assert len(units) == files
    assert not failures
    with step("hand to Beam"):
        create_units(units)
    with step("supply a worker"):
        for unit in units:
            pickle.dumps(unit)
    progress = ScoreProgress(job, units, options, limit=None, folder=output, samples=False)
    del units
    part = part_bytes()
    write_all((f"{output}/{prefix}-000000-last.parquet", part) for prefix in job.prefixes)
    with step("list the parts"):
        assert len(finished_parts(output)) == files
    with step("look at the progress"):
        assert progress.describe() == f"{files:,} records are done"
    del progress
    with step("claim at a repeat"):
        assert all(each.whole for each in claim_scored_folder(output, job).finished)
    with step("publish"):
        publish(output, job, {})
    with step("claim when finished"):
        assert claim_scored_folder(output, job).complete
    result.send(steps)


def measure(files: int, place: str, flags: list[str]) -> Steps:
    """Returns the figures of a job over so many files, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(files, place, flags, sender))
    process.start()
    sender.close()
    try:
        found: Steps = receiver.recv()
    except EOFError:
        raise SystemExit(f"the process for {files} files failed") from None
    process.join()
    return found


def report(table: dict[int, Steps]) -> None:
    """Prints the figures, and the slopes between the smallest and the largest size."""
    least, most = min(table), max(table)
    sizes = sorted(table)
    print(" | ".join(["step", *(f"{size:,} files: s, s of cores, MiB" for size in sizes), "a file", "a million"]))
    for name in [*table[least], _ALL]:
        cells = ["{:.1f}, {:.1f}, {:,.0f}".format(*_figures(table[size], name)) for size in sizes]
        low, high = _figures(table[least], name), _figures(table[most], name)
        slopes = [(above - below) / max(1, most - least) for below, above in zip(low, high, strict=True)]
        seconds, of_cores, memory = (
            below + slope * (MILLION - least) for below, slope in zip(low, slopes, strict=True)
        )
        a_file = f"{slopes[0] * 1e6:.0f} us, {slopes[1] * 1e6:.0f} us, {slopes[2] * 1024:.2f} KiB"
        print(" | ".join([name, *cells, a_file, f"{seconds:,.0f} s, {of_cores:,.0f} s, {memory:,.0f} MiB"]))


def _figures(steps: Steps, name: str) -> tuple[float, float, float]:
    """Returns the figures of a step, or of all together."""
    if name != _ALL:
        return steps[name]
    seconds, of_cores, memory = zip(*steps.values(), strict=True)
    return sum(seconds), sum(of_cores), max(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[20_000, 200_000], metavar="N")
    parser.add_argument("--table", type=Path, default=Path("build/many_files.json"), metavar="FILE")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the files (default: a temporary folder)")
    parser.add_argument("--at", metavar="URL", help="a store instead; what follows -- are Beam's flags for it")
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    table: dict[int, Steps] = {}
    if options.table.exists():
        table = {int(size): steps for size, steps in json.loads(options.table.read_text(encoding="utf-8")).items()}
    for files in options.files:
        if files in table:
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            table[files] = measure(files, f"{options.at}/{files}" if options.at else scratch, options.flags)
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    report(table)


if __name__ == "__main__":
    main()
