"""Breaks jobs off, or makes their system calls fail, and counts what a repeated command makes of it.

    python benchmarks/faults.py kill --cases 300 --table build/faults/kill.jsonl
    python benchmarks/faults.py fail --cases 300 --verb score --verb preprocess
    python benchmarks/faults.py summary

`kill` ends a job by SIGKILL at one of its system calls. `fail` lets one or several neighbouring calls on its
files fail with EIO, ENOSPC or EMFILE. Where: an undisturbed run is traced, and the calls are drawn evenly over its
course, half of them from those that touch the job's own files. Then the same command is repeated until its
exit code is 0, and its result is compared with that of a job that was never disturbed (`fault_jobs.py`).

Each case is a line of the table, and a repeated command of this script continues after the last one. It needs Linux
and strace. A case is drawn by its number and the seed; the same call may be another one when the code has changed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fault_jobs import VERBS, FaultJob, make_jobs
from support.warm_jobs import Job, WarmJobs

CALLS = (
    *("openat", "read", "pread64", "write", "pwrite64", "writev", "sendfile", "copy_file_range", "close"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "rmdir", "unlink", "unlinkat", "ftruncate"),
    *("flock", "getdents64"),
)
FAILURES = {  # what a bad disk, a full disk and a limit of open files answer
    "EIO": ("openat", "read", "pread64", "write", "pwrite64", "writev", "fsync", "fdatasync", "rename", "close"),
    "ENOSPC": ("openat", "write", "pwrite64", "writev", "fsync", "rename", "mkdir", "ftruncate"),
    "EMFILE": ("openat",),
}
REPEATS = 3
SECONDS = 900.0  # after which a job that neither ends nor fails counts as hanging
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)")


@dataclass(frozen=True)
class Call:
    """A system call of an undisturbed run.

    Attributes:
        name: such as `write`.
        number: its place among the calls of this name in its thread, from 1.
        place: its place in the run, from 0 to 1.
        own: whether it touches a file of the job's output.
    """

    name: str
    number: int
    place: float
    own: bool


@dataclass(frozen=True)
class Case:
    """One disturbed job.

    Attributes:
        number: of the case in its campaign; decides what is drawn.
        verb: of the job.
        fault: SIGKILL, or the error.
        call, at: the system call, and which of this name in its thread.
        times: how many neighbouring calls fail.
        place: where the call was in the undisturbed run, from 0 to 1.
    """

    number: int
    verb: str
    fault: str
    call: str
    at: int
    times: int
    place: float

    @property
    def injection(self) -> str:
        """What strace is told."""
        what = "signal=SIGKILL" if self.fault == "SIGKILL" else f"error={self.fault}"
        when = str(self.at) if self.times == 1 else f"{self.at}..{self.at + self.times - 1}"
        return f"inject={self.call}:{what}:when={when}"


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        hit: whether the fault happened.
        code: the exit code of the disturbed job; None if it had to be killed because it hung.
        said: the last line that it printed.
        traceback: whether it showed one.
        repeats: commands until the exit code was 0; None if it never was.
        same: whether the result is that of an undisturbed job.
        differs: names of what is different.
    """

    hit: bool
    code: int | None
    said: str
    traceback: bool
    repeats: int | None
    same: bool
    differs: Sequence[str]

    @property
    def verdict(self) -> str:
        """In one word."""
        if self.code == 0 and not self.same:
            return "SILENT"
        if self.code is None:
            return "HUNG" if self.same else "HUNG, THEN OTHER"
        if self.repeats is None:
            return "STUCK"
        return "same" if self.same else "OTHER"


def traced(job: FaultJob, warm: WarmJobs, folder: Path) -> list[Call]:
    """Returns the calls of an undisturbed run, the first of each name and number, in the order of the run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out, trace = folder / "out", folder / "trace.txt"
    code = _run(warm, job.command(out), ["-y", "-e", f"trace={','.join(CALLS)}", "-o", str(trace)])
    if code != 0 or job.digest(out) != job.whole:
        raise SystemExit(f"an undisturbed {job.verb} under strace ended with {code}, or with another result")
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, int], Call] = {}
    for index, line in enumerate(lines):
        if match := _LINE.match(line):
            key = match["thread"], match["call"]
            counts[key] += 1
            name, number = match["call"], counts[key]
            call = Call(name, number, index / len(lines), str(out) in match["rest"])
            # The fault hits the first thread that comes so far.
            first.setdefault((name, number), call)
    return list(first.values())


def drawn(number: int, seed: int, fault: str, verbs: Sequence[str], calls: dict[str, list[Call]]) -> Case:
    """Returns a case of a campaign of `kill` or `fail`."""
    draw = random.Random(f"{seed}/{fault}/{number}")
    verb = verbs[number % len(verbs)]
    candidates, times = calls[verb], 1
    if fault == "kill":
        fault = "SIGKILL"
    else:
        fault = draw.choice(list(FAILURES))
        candidates = [call for call in candidates if call.name in FAILURES[fault]]
        times = draw.choice((1, 1, 3, 60_000))  # a moment, a while, for ever
    if draw.random() < 0.5:
        candidates = [call for call in candidates if call.own] or candidates
    place = draw.random()
    call = min(candidates, key=lambda call: abs(call.place - place))
    return Case(number, verb, fault, call.name, call.number, times, round(call.place, 4))


def run_case(case: Case, job: FaultJob, warm: WarmJobs, folder: Path) -> Result:
    """Runs the disturbed job, and repeats it undisturbed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out, trace = folder / "out", folder / "trace.txt"
    arguments = job.command(out)
    printed = warm.errors.stat().st_size
    code = _run(warm, arguments, ["-e", f"trace={case.call}", "-e", case.injection, "-o", str(trace)])
    with open(warm.errors, encoding="utf-8", errors="replace") as errors:
        errors.seek(printed)
        text = errors.read()
    seen = trace.read_text(encoding="utf-8", errors="replace")
    hit = "(INJECTED)" in seen or "killed by SIGKILL" in seen or code == -9
    said = text.strip().splitlines()[-1][:300] if text.strip() else ""
    repeats = 0
    end = code
    while end != 0 and repeats < REPEATS:
        repeats += 1
        end = _run(warm, arguments, None)
    differs: list[str] = []
    if end == 0:
        got = job.digest(out)
        differs = sorted(name for name in got | job.whole if got.get(name) != job.whole.get(name))
    result = Result(
        hit,
        code,
        said,
        "Traceback" in text,
        repeats if end == 0 else None,
        end == 0 and not differs,
        differs[:5],
    )
    shutil.rmtree(folder)
    return result


def _run(warm: WarmJobs, arguments: list[str], strace: list[str] | None) -> int | None:
    """Runs a command, under strace if it is given options, and returns its exit code; None if it hung."""
    if strace is None:
        return _end(warm.start(arguments))
    job, tracer = warm.start_traced(arguments, strace)
    code = _end(job)
    tracer.wait()
    return code


def _end(job: Job) -> int | None:
    deadline = time.monotonic() + SECONDS
    while not job.has_ended():
        if time.monotonic() > deadline:
            job.kill()
            return None
        time.sleep(0.05)
    return job.wait()


def run_campaign(options: argparse.Namespace) -> None:
    """Runs the cases that the table does not have yet."""
    table: Path = options.table or options.folder / f"{options.fault}.jsonl"
    table.parent.mkdir(parents=True, exist_ok=True)
    done = {line["number"] for line in _lines(table) if line["seed"] == options.seed}
    verbs = options.verb or list(VERBS)
    own = options.folder / "-".join([options.fault, str(options.seed), *(options.verb or [])])
    own.mkdir(parents=True, exist_ok=True)
    with WarmJobs(own) as warm, open(table, "a", encoding="utf-8") as file:
        jobs = make_jobs(own, warm, verbs)
        calls = {verb: traced(job, warm, own / "case") for verb, job in jobs.items()}
        for number in range(options.cases):
            if number in done:
                continue
            case = drawn(number, options.seed, options.fault, verbs, calls)
            started = time.monotonic()
            result = run_case(case, jobs[case.verb], warm, own / "case")
            seconds = round(time.monotonic() - started, 1)
            line = {"seed": options.seed, **asdict(case), **asdict(result), "verdict": result.verdict, "s": seconds}
            file.write(json.dumps(line) + "\n")
            file.flush()
            shown = f"{case.verb} {case.fault} at {case.call} {case.at} (of {case.place:.0%})"
            print(
                f"{number}: {shown}: {result.code}, {result.repeats} repeats, {result.verdict}; {seconds} s", flush=True
            )


def summarize(options: argparse.Namespace) -> bool:
    """Prints the figures of a table; returns whether all is as it should be."""
    bad = 0
    for table in [options.table] if options.table else sorted(options.folder.glob("*.jsonl")):
        lines = [line for line in _lines(table) if line["hit"]]
        print(f"{table.name}: {len(lines)} disturbed jobs")
        for verb in VERBS:
            of_verb = [line for line in lines if line["verb"] == verb]
            for fault in sorted({line["fault"] for line in of_verb}):
                verdicts = Counter(line["verdict"] for line in of_verb if line["fault"] == fault)
                codes = Counter(str(line["code"]) for line in of_verb if line["fault"] == fault)
                print(f"  {verb:10} {fault:8} {dict(verdicts)} exit codes {dict(codes)}")
        wrong = [line for line in lines if line["verdict"] != "same"]
        bad += len(wrong)
        for line in wrong:
            print(
                f"  {line['number']} {line['verb']} {line['fault']} {line['call']} {line['at']} x{line['times']}: "
                f"{line['verdict']} {line['differs']} {line['said'][:160]}"
            )
    return bad == 0


def _lines(table: Path) -> Iterator[dict[str, Any]]:
    if table.exists():
        yield from map(json.loads, table.read_text(encoding="utf-8").splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=("kill", "fail", "summary"))
    parser.add_argument("--verb", action="append", choices=VERBS, help="may be repeated; default: all four in turn")
    parser.add_argument("--cases", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("build/faults"), metavar="DIR")
    parser.add_argument("--table", type=Path, metavar="FILE", help="default: in the folder, by the fault")
    options = parser.parse_args()
    if options.fault != "summary":
        run_campaign(options)
    return 0 if summarize(options) else 1


if __name__ == "__main__":
    raise SystemExit(main())
