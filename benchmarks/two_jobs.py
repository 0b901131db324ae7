"""Runs two scoring jobs on one folder at once, and counts rows that are missing or doubled. The goal: none.

    python benchmarks/two_jobs.py [--place PLACE ...] [--rounds N] [--seed N] [--folder DIR]

The places: `locks`, a local folder, where the second job is refused; `no-locks`, one where strace makes `flock` fail as
on a share without locks; `s3`, a store that this script starts (it needs Go). A round starts a command, and the same
command again once a random number of parts is there, in a fresh folder. In every third round the first is killed then.
The command is repeated until it ends well. Whenever `_SUCCESS` is there, the table has to have the rows of a job that
ran alone, each once.

The table, a line for each round in DIR/two_jobs.jsonl, tells whether both jobs wrote parts. Rounds that are in it are
not run again. The exit code is 1 if a round failed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from fault_jobs import make_jobs, write_documents
from support.engine_servers import free_port
from support.object_store import serving
from support.warm_jobs import WarmJobs

from pipelines.storage import objects

_PLACES = ("locks", "no-locks", "s3")
_NO_LOCKS = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
_DOCUMENTS, _CHUNK = 300, 3
_REPEATS = 3


@dataclass(frozen=True)
class Place:
    """Where the jobs of a campaign run.

    Attributes:
        folder: in which each round makes its own; on this machine or a store.
        flags: with which Beam reaches it.
        first, second: processes that start the two jobs.
        command: of a job, without its output and flags.
    """

    folder: str
    flags: Sequence[str]
    first: WarmJobs
    second: WarmJobs
    command: Sequence[str]

    def arguments(self, folder: str) -> list[str]:
        return [*self.command, "--output", folder, *(["--", *self.flags] if self.flags else [])]


def part_names(folder: str) -> list[str]:
    return sorted(name for name in objects.list_names(folder) if name.startswith("part-"))


def rows(folder: str) -> Counter[tuple[str, int]]:
    """Returns how often each sentence is in the table, as readers of the whole folder see it."""
    found: Counter[tuple[str, int]] = Counter()
    for name in part_names(folder):
        table = pq.read_table(pa.BufferReader(objects.read_bytes(f"{folder}/{name}")))
        found.update(zip(table["doc_id"].to_pylist(), table["sentence_index"].to_pylist(), strict=True))
    return found


def run_round(place: Place, folder: str, draw: random.Random, alone: Counter[tuple[str, int]]) -> dict[str, Any]:
    """Returns what became of a round: exit codes, how many parts each moment had, rows missing and doubled."""
    arguments, kills = place.arguments(folder), draw.random() < 1 / 3
    wanted = draw.randrange(_DOCUMENTS // _CHUNK // 2)
    first = place.first.start(arguments)
    while len(part_names(folder)) < wanted and not first.has_ended():
        time.sleep(0.01)
    second, begun = place.second.start(arguments), len(part_names(folder))
    if kills:
        while len(part_names(folder)) < begun + 5 and not first.has_ended():
            time.sleep(0.01)
        codes = [first.kill(), second.wait()]
    else:
        while not (first.has_ended() or second.has_ended()):
            time.sleep(0.01)
        codes = [first.wait(), second.wait()]
    for _ in range(_REPEATS):
        if "_SUCCESS" in objects.list_names(folder):
            break
        codes.append(place.first.run(arguments))
    finished = "_SUCCESS" in objects.list_names(folder)
    there = rows(folder)
    return {
        "codes": codes,
        "parts_at_second": begun,
        "first_killed": kills,
        "finished": finished,
        "missing": (alone - there).total() if finished else 0,
        "doubled": (there - alone).total() if finished else 0,
    }


@contextmanager
def opened(name: str, own: Path) -> Iterator[Place]:
    """Makes the data, and starts what a place needs."""
    own.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder, flags = str(own / "out"), []
        if name == "s3":
            store = stack.enter_context(serving(own, free_port()))
            folder, flags = "s3://sepline/out", store.flags
        FileSystems.set_options(PipelineOptions(flags))
        warm = []
        for number in range(2):
            logs = own / f"jobs-{number}"
            logs.mkdir(exist_ok=True)
            warm.append(stack.enter_context(WarmJobs(logs, prefix=_NO_LOCKS if name == "no-locks" else ())))
        make_jobs(own, warm[0], [])
        corpus = write_documents(own / "corpus", _DOCUMENTS)
        command = ["score", "--model", str(own / "data" / "run" / "bundle"), "--input", str(corpus)]
        command += ["--chunk-records", str(_CHUNK), "--workers", "1"]
        yield Place(folder, flags, first=warm[0], second=warm[1], command=command)


def run_campaign(name: str, options: argparse.Namespace, table: Path) -> None:
    """Runs the rounds of a place that the table does not have yet."""
    done = {line["round"] for line in _lines(table) if (line["place"], line["seed"]) == (name, options.seed)}
    left = [number for number in range(options.rounds) if number not in done]
    if not left:
        return
    with opened(name, options.folder / f"two-{name}") as place:
        remove(f"{place.folder}/alone")
        if place.first.run(place.arguments(f"{place.folder}/alone")):
            raise SystemExit(f"the job that runs alone fails: {place.first.errors.read_text(encoding='utf-8')[-2000:]}")
        alone = rows(f"{place.folder}/alone")
        assert alone.total() == len(alone) > _DOCUMENTS
        for number in left:
            folder = f"{place.folder}/round-{number}"
            remove(folder)
            found = run_round(place, folder, random.Random(f"{options.seed}/{number}"), alone)
            remove(folder)
            with open(table, "a", encoding="utf-8") as file:
                file.write(json.dumps({"place": name, "seed": options.seed, "round": number, **found}) + "\n")
            print(f"{name}: round {number}: {found}", flush=True)


def remove(folder: str) -> None:
    if "://" in folder:
        objects.remove([f"{folder}/{name}" for name in objects.list_tree(folder)])
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _lines(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()] if table.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", action="append", choices=_PLACES, help="may be repeated; default: all")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="for each place (default: 10)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("build/faults"), metavar="DIR")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.folder = options.folder.resolve()
    table = options.folder / "two_jobs.jsonl"
    places = options.place or list(_PLACES)
    for name in places:
        run_campaign(name, options, table)
    bad = 0
    for name in places:
        lines = [line for line in _lines(table) if line["place"] == name]
        wrong = [line for line in lines if line["missing"] or line["doubled"] or not line["finished"]]
        print(f"{name}: {len(lines)} rounds, {len(wrong)} with rows missing or doubled, or not finished")
        bad += len(wrong)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
