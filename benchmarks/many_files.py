"""Times what the driver of a scoring job does with many small files, and measures the memory that it takes.

    python benchmarks/many_files.py [--files 20000 200000] [--table FILE] [--folder DIR] [--at s3://BUCKET -- FLAGS]

Makes that many files of one record, and plays a job over them without a model: it lists and fingerprints the files,
claims a folder, plans the units and hands them to Beam, lists a part for each file, claims the folder again, as a
repeat does, publishes it, and claims it when it is finished. Each size runs in a process of its own. The table has a
line for each size that is done, and those are not done again. Prints for each step the seconds and the memory above
that of the start, the slope between the smallest and the largest size, and what a million files would take by it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from pipelines.scoring.score import plan_units
from pipelines.scoring.scored_folder import Job, claim_scored_folder, finished_parts, publish
from pipelines.scoring.settings import ScoreSettings, ScoringContext
from pipelines.storage import objects

MILLION = 1_000_000
_THREADS = 16
_FOLDER_FILES = 1000
Steps = dict[str, tuple[float, float]]
"""Seconds, and how far the peak of memory lies above the start at its end, in MiB, by step."""


def write_all(contents: Iterator[tuple[str, bytes]]) -> None:
    """Writes objects without syncing local ones: what they hold is of no worth."""

    def write(item: tuple[str, bytes]) -> None:
        path, content = item
        if objects.is_local(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)
        else:
            objects.write_bytes(path, content)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(write, contents):
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
        started = time.perf_counter()
        yield
        steps[name] = (time.perf_counter() - started, peak() - start)
        print(f"{files:>9,} files: {name}: {steps[name][0]:.1f} s, {steps[name][1]:,.0f} MiB", flush=True)

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
    del units
    part = part_bytes()
    write_all((f"{output}/{prefix}-000000-last.parquet", part) for prefix in job.prefixes().values())
    with step("list the parts"):
        assert len(finished_parts(output)) == files
    with step("claim at a repeat"):
        assert all(each.whole for each in claim_scored_folder(output, job).finished.values())
    with step("publish"):
        publish(output, job, {"inputs": list(job.inputs)})
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

    def slope(low: float, high: float) -> float:
        return (high - low) / (most - least) if most > least else 0.0

    sizes = sorted(table)
    print(" | ".join(["step", *(f"{size:,} files: s, MiB" for size in sizes), "us a file", "KiB a file", "a million"]))
    for name in table[least]:
        (low, few), (high, many) = table[least][name], table[most][name]
        seconds, memory = slope(low, high), slope(few, many)
        cells = [f"{table[size][name][0]:.1f}, {table[size][name][1]:,.0f}" for size in sizes]
        million = f"{low + seconds * (MILLION - least):,.0f} s, {few + memory * (MILLION - least):,.0f} MiB"
        print(" | ".join([name, *cells, f"{seconds * 1e6:.0f}", f"{memory * 1024:.2f}", million]))


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
