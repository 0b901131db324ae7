"""How many small mistakes the tests of the pure modules would find: mutation testing over a sample.

    python benchmarks/mutants.py [--seed N] [--mutants N] [--jobs N] [--table FILE] [--module PATH...]

Each mutant is one change of one module (benchmarks/mutations.py says which), made in a copy of the project. The
module's tests run against it: it is killed if one fails, and survives if none does. The sample is drawn by hashes of
the mutants and the seed, so most of it stays the same when the code changes elsewhere. The table takes a line a mutant;
a repeated run goes on where it stopped, and a mutant runs again when its module or its tests have changed. At the end,
the figures by module and the mutants that survived are printed. docs/mutation-testing.md has the latest ones.

Mutants in benchmarks/equivalent_mutants.yaml change nothing that could be tested; each has the reason beside it.
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

TESTS = {
    "model/classifier/crf.py": ["classifier/test_crf.py"],
    "model/evaluation/baselines.py": ["evaluation/test_baselines.py"],
    "model/evaluation/bootstrap.py": ["evaluation/test_bootstrap.py"],
    "model/evaluation/calibration.py": ["evaluation/test_calibration.py"],
    "model/evaluation/metrics.py": ["evaluation/test_evaluate.py"],
    "model/evaluation/score_metrics.py": ["evaluation/test_score_metrics.py"],
    "model/text/tokenization.py": ["text/test_tokenization.py"],
    "model/text/vocabulary.py": ["text/test_vocabulary.py", "text/test_tokenization.py"],
    "model/text/windowing.py": ["text/test_windowing.py"],
    "pipelines/corpora/checks.py": ["corpora/test_checks.py", "corpora/test_reader.py"],
    "pipelines/corpora/chunks.py": ["corpora/test_chunks.py"],
    "pipelines/corpora/jsonl.py": [
        "corpora/test_reject_messages.py",
        "corpora/test_reader.py",
        "corpora/test_chunks.py",
    ],
    "pipelines/corpora/labels.py": ["corpora/test_labels.py"],
    "pipelines/corpora/lines.py": [
        "corpora/test_reject_messages.py",
        "corpora/test_reader.py",
        "corpora/test_chunks.py",
    ],
    "pipelines/corpora/medline.py": ["corpora/test_medline.py", "corpora/test_reject_messages.py"],
    "pipelines/corpora/pubmed_rct.py": ["corpora/test_reject_messages.py", "corpora/test_reader.py"],
    "pipelines/corpora/reader.py": [
        "corpora/test_reject_messages.py",
        "corpora/test_reader.py",
        "corpora/test_chunks.py",
    ],
    "pipelines/corpora/sentences.py": ["corpora/test_sentences.py"],
    "pipelines/corpora/tables.py": [
        "corpora/test_reject_messages.py",
        "corpora/test_tables.py",
        "corpora/test_chunks.py",
    ],
    "pipelines/preprocessing/duplicates.py": ["preprocessing/test_duplicates.py"],
    "pipelines/retraining/data_checks.py": ["retraining/test_data_checks.py", "retraining/test_gates.py"],
    "pipelines/retraining/drift.py": ["retraining/test_drift.py", "retraining/test_gates.py"],
    "pipelines/retraining/gates.py": ["retraining/test_gates.py"],
    "pipelines/retraining/verdicts.py": ["retraining/test_gates.py"],
    "pipelines/scoring/predictions.py": ["scoring/test_predictions.py"],
    "pipelines/storage/parquet.py": ["storage/test_parquet.py"],
}
"""The modules, and under tests/ the files that test each; only such as train nothing and run no job."""
SKIPPED = (
    "test_a_long_compressed_file_is_streamed",
    "test_memory_stays_constant",
    "test_hostile_text_takes_seconds_at_most",
)
"""Tests of time and memory, which take longest."""
EQUIVALENT = "equivalent"
_EQUIVALENT_LIST = PROJECT / "benchmarks" / "equivalent_mutants.yaml"
_SECONDS, _TIMES = 10, 5  # of processor time that a mutant's tests may take: so many, and so many times the usual


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
            usual = first.run(_tests(module), skipped=SKIPPED)
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
                skipped=SKIPPED,
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
    reasons = yaml.safe_load(_EQUIVALENT_LIST.read_text(encoding="utf-8")) or {}
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", type=int, default=400, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--table", type=Path, default=PROJECT / "build" / "mutants.jsonl", metavar="FILE")
    parser.add_argument("--module", nargs="+", choices=TESTS, default=list(TESTS), metavar="PATH")
    options = parser.parse_args()
    places, chosen = choose(TESTS, seed=options.seed, number=options.mutants)
    chosen = [one for one in chosen if one[0].module in options.module]
    table = Table(options.table)
    run_mutants(chosen, table, jobs=options.jobs)
    show(Counter({module: places[module] for module in options.module}), chosen, table)


def _tests(module: str) -> list[str]:
    return [f"tests/{file}" for file in TESTS[module]]


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
