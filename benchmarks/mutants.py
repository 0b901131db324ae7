"""How many small mistakes the tests of the pure modules would find: mutation testing over a sample.

    python benchmarks/mutants.py [--seed N] [--mutants N] [--jobs N] [--table FILE] [--module PATH...]

Each mutant is one change of one module (benchmarks/mutations.py says which), made in a copy of the project. The
module's tests run against it: it is killed if one fails, and survives if none does. The sample is drawn by hashes of
the mutants and the seed, so most of it stays the same when the code changes elsewhere. The table gets one line per
mutant; a repeated run continues where it stopped, and a mutant runs again when its module or its tests have changed. At
the end, the figures by module and the mutants that survived are printed. docs/mutation-testing.md has the latest ones.

benchmarks/mutants.yaml names the modules and their tests, and the mutants that change nothing, with reasons.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml
from mutant_workers import KILLED, PROJECT, SURVIVED, TIMEOUT, Outcome, Worker
from mutations import Mutant, Mutations

EQUIVALENT = "equivalent"
_SETTINGS = yaml.safe_load((PROJECT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8"))
_SECONDS, _TIMES = 10, 5  # the limit of processor time: seconds, plus a multiple of the tests' usual time


class Table:
    """The outcomes of mutants, a JSON line each; of lines with the same key the last one holds."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def add(self, mutant: Mutant, outcome: Outcome, version: str) -> None:
        """Writes the line of a mutant."""
        row = {"key": mutant.key, "version": version, **vars(mutant), **vars(outcome)}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            self.rows[mutant.key] = row
            file.write(json.dumps(row) + "\n")

    def version(self, mutant: Mutant) -> str | None:
        """Returns the version of module and tests that a mutant's line is about; None where there is no line."""
        row = self.rows.get(mutant.key)
        return row["version"] if row else None

    def killers(self, module: str) -> list[str]:
        """Returns the tests that have killed mutants of a module, the most successful ones first."""
        with self._lock:
            kills = Counter(row["test"] for row in self.rows.values() if row["module"] == module and row["test"])
        return [test for test, _ in kills.most_common()]


def choose(modules: Iterable[str], *, seed: int, number: int) -> tuple[Counter[str], list[tuple[Mutant, str]]]:
    """Returns how many mutants each module has, and a sample of all of them with their sources."""
    mutations = {module: Mutations(PROJECT, module) for module in modules}
    places = Counter({module: len(of_module.mutants) for module, of_module in mutations.items()})
    mutants = [mutant for of_module in mutations.values() for mutant in of_module.mutants]
    mutants.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).hexdigest())
    sources = ((mutant, mutations[mutant.module].source(mutant)) for mutant in mutants)
    return places, list(islice((one for one in sources if _compiles(one[1])), number))


def run_mutants(chosen: Sequence[tuple[Mutant, str]], table: Table, *, jobs: int) -> None:
    """Runs the mutants that the table lacks, several at a time, and shows how far it is."""
    versions = {module: _version(module) for module in {mutant.module for mutant, _ in chosen}}
    missing = [one for one in chosen if table.version(one[0]) != versions[one[0].module]]
    if not missing:
        return
    with ExitStack() as stack:
        first = stack.enter_context(Worker())
        limits = {}
        for module in sorted({mutant.module for mutant, _ in missing}):
            usual = first.run(_tests(module), skipped=_SETTINGS["skipped"])
            if usual.verdict != SURVIVED:
                sys.exit(f"without any change of {module}, its tests fail: {usual.test}")
            limits[module] = _SECONDS + _TIMES * usual.seconds
            print(f"{module}: {usual.seconds} s of tests", flush=True)
        workers: SimpleQueue[Worker] = SimpleQueue()
        for worker in (first, *(stack.enter_context(Worker(first.path)) for _ in range(jobs - 1))):
            workers.put(worker)

        def run(mutant: Mutant, source: str) -> None:
            worker, module = workers.get(), mutant.module
            outcome = worker.run_mutant(
                module,
                source,
                _tests(module),
                skipped=_SETTINGS["skipped"],
                first=table.killers(module),
                limit=limits[module],
            )
            workers.put(worker)
            table.add(mutant, outcome, versions[module])

        with ThreadPoolExecutor(jobs) as pool:
            begin = time.monotonic()
            for done, _ in enumerate(pool.map(lambda one: run(*one), missing), 1):
                if not done % 20:
                    print(f"{done} of {len(missing)} mutants, {time.monotonic() - begin:.0f} s", flush=True)


def show(places: Counter[str], chosen: Sequence[tuple[Mutant, str]], table: Table) -> None:
    """Prints the figures by module, and the mutants that survived."""
    reasons = _SETTINGS["equivalent"]
    counts: dict[str, Counter[str]] = {module: Counter() for module in places}
    survivors = []
    for mutant, _ in chosen:
        verdict = table.rows[mutant.key]["verdict"]
        if verdict == SURVIVED and mutant.key in reasons:
            verdict = EQUIVALENT
        elif mutant.key in reasons:
            print(f"{mutant.key} is listed as equivalent, and a test fails: {table.rows[mutant.key]['test']}")
        counts[mutant.module][verdict] += 1
        if verdict == SURVIVED:
            survivors.append(mutant)
    print("| module | possible | made | killed | of these timeouts | surviving | equivalent |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    total = sum(counts.values(), Counter())
    for module, of_module in (*counts.items(), ("all", total)):
        timeouts = of_module[TIMEOUT]
        figures = (of_module[KILLED] + timeouts, timeouts, of_module[SURVIVED], of_module[EQUIVALENT])
        possible = places[module] if module in places else places.total()
        print(f"| `{module}` | {' | '.join(map(str, (possible, of_module.total(), *figures)))} |")
    killed = total[KILLED] + total[TIMEOUT]
    print(f"\n{killed / total.total():.1%} killed, {total[EQUIVALENT] / total.total():.1%} equivalent")
    for mutant in survivors:
        print(f"\n{mutant.key} {mutant.module}:{mutant.line} {mutant.place}\n- {mutant.before}\n+ {mutant.after}")


def main() -> None:
    """Makes the sample, runs what the table lacks of it, and prints the figures."""
    modules = list(_SETTINGS["tests"])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", type=int, default=400, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--table", type=Path, default=PROJECT / "build" / "mutants.jsonl", metavar="FILE")
    parser.add_argument("--module", nargs="+", choices=modules, default=modules, metavar="PATH")
    options = parser.parse_args()
    places, chosen = choose(modules, seed=options.seed, number=options.mutants)
    chosen = [one for one in chosen if one[0].module in options.module]
    table = Table(options.table)
    run_mutants(chosen, table, jobs=options.jobs)
    show(Counter({module: places[module] for module in options.module}), chosen, table)


def _tests(module: str) -> list[str]:
    return [f"tests/{file}" for file in _SETTINGS["tests"][module]]


def _version(module: str) -> str:
    """Returns a hash of what the outcomes of a module's mutants depend on: the module and its tests."""
    files = (module, *_tests(module), "tests/conftest.py")
    return hashlib.sha256(b"\0".join((PROJECT / file).read_bytes() for file in files)).hexdigest()[:12]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


if __name__ == "__main__":
    main()
