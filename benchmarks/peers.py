"""Measures sepline against scripts for Hugging Face's libraries and PyTorch: `make bench`.

    python benchmarks/peers.py                                          # the long form, hours; see benchmarks/README.md
    python benchmarks/peers.py --documents 100 --rounds 1               # a short form, to try it
    python benchmarks/peers.py --measures score training --predictors tensorflow-f32

Every figure is of real commands in processes of their own, measured from outside, in rounds in which each command runs
once, so that a ratio compares neighbours in time. The table, FOLDER/runs.jsonl, has a line for each run that is done,
and those are not done again; another --documents or --model needs another --folder. The report is printed, and written
to FOLDER/report.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peer_inputs import Inputs
from peer_jobs import Job, Peers, Sizes, missing
from peer_report import Table, report
from processes import CommandError, run

MEASURES = ("score", "workers", "training", "preprocessing", "flat")
PREDICTORS = ("tensorflow-f32", "openvino-f32", "openvino-bf16", "openvino-int8")


def measure(jobs: list[Job], rounds: int, folder: Path, runs: list[dict[str, Any]]) -> None:
    """Runs what is not in the table yet, and adds it there."""
    for number in range(rounds):
        for job in jobs if number % 2 == 0 else reversed(jobs):
            if Table(runs).has(job.measure, job.who, job.size, number):
                continue
            output = folder / "output"
            _remove(output)
            name = f"round {number + 1} of {rounds}: {job.measure}, {job.who}, {job.size:,} documents"
            load = os.getloadavg()[0]
            try:
                usage, figures = job.run(output)
            except CommandError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{name}: {usage.seconds:.1f} s", file=sys.stderr, flush=True)
            line = {
                **{"measure": job.measure, "who": job.who, "size": job.size, "round": number, "load": round(load, 2)},
                **{"seconds": usage.seconds, "cpu_seconds": usage.cpu_seconds, "peak_mib": usage.peak_mib, **figures},
            }
            runs.append(line)
            with open(folder / "runs.jsonl", "a", encoding="utf-8") as table:
                table.write(json.dumps(line) + "\n")
            if job.measure == "score" and job.size > 1:
                kept = folder / "labels" / job.who
                _remove(kept)
                kept.parent.mkdir(exist_ok=True)
                output.rename(kept)


def describe(options: argparse.Namespace) -> str:
    """Returns the date, the machine, the versions and the command."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processors = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = processors[0] if processors else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    ours = ", ".join(f"{name} {found}" for name in ("sepline", "tensorflow", "openvino") if (found := _version(name)))
    names = ["torch", "transformers", "datasets"]
    script = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    theirs = run([options.peer_python, "-c", script]).output.strip()
    return (
        f"{datetime.date.today()}; {processor}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {ours}; {theirs}; rounds: {options.rounds}.\n"
        f"`python {shlex.join(sys.argv)}`\n"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000, metavar="N", help="abstracts to score (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES[:-1], metavar="NAME")
    parser.add_argument("--predictors", nargs="+", default=PREDICTORS, metavar="NAME", help=" ".join(PREDICTORS))
    parser.add_argument("--flat", type=int, nargs=2, default=(2000, 20_000), metavar="N", help="the sizes of `flat`")
    parser.add_argument("--model", metavar="BUNDLE", help="all layers of minilm-l6; by default one is trained")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), metavar="DIR")
    parser.add_argument("--peer-python", default="build/bench/venv/bin/python", metavar="PATH", help="it has PyTorch")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    n = options.documents
    inputs = Inputs(folder, options.model, training=min(1000, 2 * n))
    lacking = {name: missing(name, inputs, folder / "trial") for name in options.predictors}
    for name, reason in lacking.items():
        if reason:
            print(f"left out: {name}: {reason}", file=sys.stderr, flush=True)
    peers = Peers(
        inputs=inputs,
        python=options.peer_python,
        predictors=tuple(name for name, reason in lacking.items() if not reason),
        sizes=Sizes(score=n, training=max(1, 3 * n // 10), preprocessing=(2 * n, 12 * n), flat=tuple(options.flat)),
    )
    table = folder / "runs.jsonl"
    runs = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()] if table.exists() else []
    for name in options.measures:
        measure(peers.jobs(name), options.rounds, folder, runs)
    text = f"{describe(options)}\n{report(runs, folder / 'labels')}"
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
