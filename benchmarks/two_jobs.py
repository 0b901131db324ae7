"""Runs two scoring jobs on one folder at once, and counts rows that are missing or doubled. The goal: none.

    python benchmarks/two_jobs.py --model BUNDLE --input FILE ... --output FOLDER [--rounds N] [--seed N]
        [--without-locks] [--table FILE] [-- FLAGS FOR THE STORE]

A round starts the same command twice, the second after a moment at random, in a fresh folder below FOLDER, which may be
on a store. It repeats the command until it ends well. Whenever `_SUCCESS` is there, the table has to have the rows of
a job that ran alone, each once; with `--without-locks`, strace makes `flock` fail as on a share that has no locks.

The table has a line for each round that is done, and those are not done again. The exit code is 1 if a round failed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.storage import objects

_REPEATS = 3
_NO_LOCKS = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")


def rows(folder: str) -> Counter[tuple[str, int]]:
    """Returns how often each sentence is in the table, as readers of the whole folder see it."""
    found: Counter[tuple[str, int]] = Counter()
    for name in objects.list_names(folder):
        if name.startswith("part-"):
            table = pq.read_table(pa.BufferReader(objects.read_bytes(f"{folder}/{name}")))
            found.update(zip(table["doc_id"].to_pylist(), table["sentence_index"].to_pylist(), strict=True))
    return found


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_round(command: Sequence[str], folder: str, wait: float, alone: Counter[tuple[str, int]]) -> dict[str, object]:
    """Returns the exit codes of both jobs and of repeats, and the rows missing and doubled under `_SUCCESS`."""
    first = start(command)
    time.sleep(wait)
    second = start(command)
    codes = [first.wait(), second.wait()]
    missing = doubled = checks = 0
    for _ in range(_REPEATS):
        if "_SUCCESS" in objects.list_names(folder):
            there = rows(folder)
            missing += (alone - there).total()
            doubled += (there - alone).total()
            checks += 1
            break
        codes.append(start(command).wait())
    return {"codes": codes, "wait": round(wait, 2), "checks": checks, "missing": missing, "doubled": doubled}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="BUNDLE")
    parser.add_argument("--input", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--without-locks", action="store_true")
    parser.add_argument("--table", type=Path, default=Path("build/two_jobs.json"), metavar="FILE")
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    FileSystems.set_options(PipelineOptions(options.flags))
    kind = f"{options.output}{' without locks' if options.without_locks else ''}"
    table: dict[str, dict[str, dict[str, object]]] = {}
    if options.table.exists():
        table = json.loads(options.table.read_text(encoding="utf-8"))
    done = table.setdefault(kind, {})

    def command(folder: str) -> list[str]:
        prefix = _NO_LOCKS if options.without_locks else ()
        score = ["score", "--model", options.model, "--input", *options.input, "--output", folder]
        program = [*prefix, sys.executable, "-m", "pipelines.cli", *score, "--chunk-records", "4", "--workers", "1"]
        return [*program, *(["--", *options.flags] if options.flags else [])]

    started = time.monotonic()
    if start(command(f"{options.output}/alone")).wait():
        raise SystemExit("the job that runs alone fails")
    seconds, alone = time.monotonic() - started, rows(f"{options.output}/alone")
    for number in range(options.rounds):
        if str(number) in done:
            continue
        folder = f"{options.output}/round-{number}"
        if objects.list_names(folder):
            raise SystemExit(f"{folder}: remove it, an interrupted round has left it")
        wait = random.Random(f"{options.seed}/{number}").uniform(0, seconds / 2)
        done[str(number)] = run_round(command(folder), folder, wait, alone)
        print(f"{kind}: round {number}: {done[str(number)]}", flush=True)
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    bad = [number for number, found in done.items() if found["missing"] or found["doubled"] or not found["checks"]]
    print(f"{kind}: {len(done)} rounds, {len(bad)} with rows missing or doubled, or never finished")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
