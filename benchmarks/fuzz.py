"""Reads odd and damaged files of all formats and compressions, and counts what goes wrong. The goal: nothing.

    python benchmarks/fuzz.py [--minutes N] [--cases N] [--seed N] [--table FILE] [--case N]

Each case (`fuzz_cases.py`) is read as a whole, again, and in units as workers share them; its documents are split into
sentences, and tables are made of them and of the rejects. It fails if it

- crashes: an exception, a signal, or more memory than the limit;
- hangs: no answer within the limit of time;
- loses records: other than one document or reject for each record, where their number is known, or a gap in numbers;
- differs: a second reading, or the units in any order, give other records or other parts than the first reading.

The table has a line for each format and compression, and the number of the next case, so that a repeated run goes on
where it stopped. Each failure gets a line of its own, and its file is kept beside the table. `--case N` runs one case
in this process and shows its traceback. The exit code is 1 if any case has failed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fuzz_cases import COMPRESSIONS, Case, kind_of, make_case

from model.records import Document, Reject
from model.schema import document_schema, reject_schema
from pipelines.corpora.chunks import Chunk, Finished, cut_source, finished_chunks, part_prefix, read_chunks
from pipelines.corpora.formats import FORMATS
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import read_source

_SECONDS = 30  # for a case
_MEMORY = 2 << 30  # above what the process has at its beginning
_SAVE_SECONDS = 10
_SPLITTER = SentenceSplitter()
_COUNTS = ("cases", "records", "documents", "crashes", "hangs", "unaccounted", "differing")
_FAILURES = {"crash": "crashes", "hang": "hangs", "unaccounted": "unaccounted", "differs": "differing"}


class Failure(Exception):
    """Why a case has failed: its kind, one of `_FAILURES`, and what was seen."""


def check_case(case: Case, folder: Path) -> tuple[int, int]:
    """Returns the records and the documents of a case.

    Raises:
        Failure: records are lost, or readings differ.
    """
    path = folder / case.name
    path.write_bytes(case.content)
    source, options = str(path), case.options
    whole = list(read_source(source, options))
    if [item.record_index for item in whole] != list(range(len(whole))):
        raise Failure("unaccounted", f"numbers {[item.record_index for item in whole][:50]}")
    if case.records is not None and len(whole) != case.records:
        raise Failure("unaccounted", f"{len(whole)} items for {case.records} records")
    if list(read_source(source, options)) != whole:
        raise Failure("differs", "a second reading gives other records")
    prefix, limit = part_prefix(source), case.limit
    units = cut_source(source, prefix, options, size=case.size, limit=limit, finished=Finished(set()))
    shuffled = random.Random(len(units)).sample(units, len(units))
    read = (read_chunks(unit, options, size=case.size, limit=limit) for unit in shuffled)
    chunks: list[Chunk] = sorted(chain.from_iterable(read), key=lambda chunk: (chunk.index, chunk.piece))
    items = [item for chunk in chunks for item in chunk.items]
    if items != whole[:limit]:
        place = next((i for i, (one, other) in enumerate(zip(items, whole, strict=False)) if one != other), len(items))
        raise Failure(
            "differs", f"units give {len(items)} records for {len(whole[:limit])}; the first other is {place}"
        )
    names = [chunk.name for chunk in chunks]
    (finished,) = finished_chunks(names).values()
    if len(set(names)) != len(names) or not finished.whole or names[-1].count("-last") != 1:
        raise Failure("differs", f"parts {names[:20]}")
    documents = [item for item in whole if isinstance(item, Document)]
    _check_stored(documents, [item for item in whole if isinstance(item, Reject)], options)
    return len(whole), len(documents)


def _check_stored(documents: Sequence[Document], rejects: Sequence[Reject], options: ReadOptions) -> None:
    """Splits the documents and makes the tables that jobs store, which have to hold whatever was read."""
    split = [split_document(document, _SPLITTER, max_sentences=options.max_sentences) for document in documents]
    tables: list[tuple[pa.Schema, list[Any]]] = [
        (document_schema(), [item for item in split if isinstance(item, Document)]),
        (reject_schema({}), [*rejects, *(item for item in split if isinstance(item, Reject))]),
    ]
    for schema, items in tables:
        columns: dict[str, list[Any]] = {name: [getattr(item, name) for item in items] for name in schema.names}
        if "reason" in columns:
            columns["reason"] = [str(reason) for reason in columns["reason"]]
        pa.Table.from_pydict(columns, schema=schema)
    for item in tables[0][1]:
        given = next(document for document in documents if document.record_index == item.record_index)
        text = "".join(item.sentences) if given.sentences == () else ""
        if text and "".join(text.split()) != "".join("".join(section.text for section in given.sections).split()):
            raise Failure("differs", f"the sentences of record {item.record_index} are not its text")
        if not all(math.isfinite(number) for row in item.features or () for number in np.array(row, np.float32)):
            raise Failure("differs", f"a feature of record {item.record_index} is not finite")


def _serve(connection: Connection, seed: int, first: int) -> None:
    """Runs cases from a number on, and sends the outcome of each. Runs in a process of its own."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    with tempfile.TemporaryDirectory() as scratch:
        for number in count(first):
            try:
                outcome: tuple[str, Any] = "done", check_case(make_case(number, seed), Path(scratch))
            except Failure as failure:
                outcome = failure.args[0], failure.args[1]
            except BaseException as error:  # whatever it is, it should not have been raised
                outcome = "crash", f"{type(error).__name__}: {error}"[:500]
            connection.send((number, *outcome))


class Table:
    """The counts of all cases so far, in a file."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if found.get("seed", seed) != seed:
            sys.exit(f"{path}: has cases of seed {found['seed']}; name another --table")
        self.seed, self.next, self.seconds = seed, found.get("next", 0), found.get("seconds", 0.0)
        self.failures: list[dict[str, Any]] = found.get("failures", [])
        self._counts = {name: Counter(counts) for name, counts in found.get("counts", {}).items()}

    def add(self, number: int, kind: str, seen: Any) -> None:
        """Counts the outcome of a case."""
        counts = self._counts.setdefault(" ".join(kind_of(number)), Counter())
        counts["cases"] += 1
        self.next = number + 1
        if kind == "done":
            counts["records"] += seen[0]
            counts["documents"] += seen[1]
            return
        counts[_FAILURES[kind]] += 1
        case = make_case(number, self.seed)
        self.failures.append(
            {"case": number, "format": case.format, "name": case.name, "kind": kind, "seen": str(seen)}
        )
        self._path.with_name(f"{self._path.stem}-{number}-{case.name}").write_bytes(case.content)

    def save(self) -> None:
        """Writes the file."""
        content = {"seed": self.seed, "next": self.next, "seconds": self.seconds, "failures": self.failures}
        self._path.write_text(json.dumps({**content, "counts": self._counts}, indent=1), encoding="utf-8")

    def show(self) -> None:
        """Prints the counts and the failures."""
        print(f"{'':20}" + "".join(f"{name:>12}" for name in _COUNTS))
        rows = [f"{format} {compression}" for format in FORMATS for compression in COMPRESSIONS]
        total = sum(self._counts.values(), Counter())
        for name, counts in [*((row, self._counts[row]) for row in rows if row in self._counts), ("all", total)]:
            print(f"{name:20}" + "".join(f"{counts[column]:12,}" for column in _COUNTS))
        for failure in self.failures:
            print("case {case} ({format}, {name}): {kind}: {seen}".format(**failure))
        print(f"{self.seconds / 60:.1f} minutes, seed {self.seed}")


def run(table: Table, *, seconds: float, cases: int | None) -> None:
    """Runs cases until the time is over, or as many as are asked for."""
    context = multiprocessing.get_context("fork")
    end, started, saved = time.monotonic() + seconds, time.monotonic(), 0.0
    before, stop = table.seconds, None if cases is None else table.next + cases
    while time.monotonic() < end and table.next != stop:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, table.seed, table.next), daemon=True)
        process.start()
        theirs.close()
        while time.monotonic() < end and table.next != stop:
            if not ours.poll(_SECONDS):
                table.add(table.next, "hang", f"more than {_SECONDS} s")
                break
            try:
                table.add(*ours.recv())
            except EOFError:
                process.join()
                table.add(table.next, "crash", f"the process ended with {process.exitcode}")
                break
            table.seconds = before + time.monotonic() - started
            if time.monotonic() - saved > _SAVE_SECONDS:
                table.save()
                saved = time.monotonic()
        process.kill()
        process.join()
        ours.close()
    table.save()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the campaign, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long (default: 10)")
    parser.add_argument("--cases", type=int, metavar="N", help="stop after this many cases")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the cases (default: 1)")
    parser.add_argument("--table", type=Path, default=Path("build/fuzz.json"), metavar="FILE")
    parser.add_argument("--case", type=int, metavar="N", help="run only this case, here")
    arguments = parser.parse_args(argv)
    if arguments.case is not None:
        case = make_case(arguments.case, arguments.seed)
        print(
            f"{case.format} {case.compression} {case.name}: {len(case.content)} bytes, size {case.size}, {case.options}"
        )
        with tempfile.TemporaryDirectory() as scratch:
            print(check_case(case, Path(scratch)))
        return 0
    arguments.table.parent.mkdir(parents=True, exist_ok=True)
    table = Table(arguments.table, arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:  # what is loaded late is loaded once, before the processes fork
        (Path(scratch) / "a.jsonl").write_bytes(b"{}")
        list(read_source(f"{scratch}/a.jsonl", make_case(0, 0).options))
    run(table, seconds=60 * arguments.minutes, cases=arguments.cases)
    table.show()
    return int(bool(table.failures))


if __name__ == "__main__":
    sys.exit(main())
