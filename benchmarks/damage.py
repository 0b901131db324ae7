"""Damages finished folders at random, and counts what `sepline verify` finds. The goal: everything.

    python benchmarks/damage.py [--cases N] [--seed N] [--table FILE] [--repeat COMMAND] FOLDER ...

Each FOLDER is a scored folder, records, a bundle or a model's folder in a registry, such as those that `make demo` and
`make retrain-demo` leave in build. A case copies one, damages the copy in one way of `DAMAGES`, and verifies it. With
`--repeat 'score --model BUNDLE --input FILES --output OUTPUT'`, the command that made the scored folders, it is run
again on each damaged scored folder, with the copy as OUTPUT; the folder is healed if it has its old bytes again.

The table has a line for each folder and damage, and the number of the next case, so that a repeated run goes on where
it stopped. What was not found is printed, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from model.errors import JobFailure, UserError
from pipelines.cli import main as sepline
from pipelines.inspection.verify import verify

OUTPUT = "OUTPUT"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}


def flip_bit(folder: Path, draw: random.Random) -> str:
    file = draw.choice([path for path in files_of(folder) if path.stat().st_size])
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    replace(file, bytes(content))
    return f"{file.name}, byte {place}"


def delete(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files_of(folder))
    file.unlink()
    return file.name


def truncate(folder: Path, draw: random.Random) -> str:
    file = draw.choice([path for path in files_of(folder) if path.stat().st_size])
    content = file.read_bytes()
    size = draw.choice([0, draw.randrange(len(content))])
    replace(file, content[:size])
    return f"{file.name}, to {size} bytes"


def swap(folder: Path, draw: random.Random) -> str:
    first, second = draw.sample(files_of(folder), 2)
    one, other = first.read_bytes(), second.read_bytes()
    replace(first, other)
    replace(second, one)
    return f"{first.name}, {second.name}"


def add(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files_of(folder))
    copy = file.with_name(f"{file.stem}-{draw.randrange(10)}{file.suffix}")
    shutil.copy(file, copy)
    return copy.name


def replace(file: Path, content: bytes) -> None:
    file.unlink()  # files of a registry are read-only
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "bit flipped": flip_bit,
    "file deleted": delete,
    "file truncated": truncate,
    "files swapped": swap,
    "file added": add,
}


def found_by_verify(folder: Path) -> bool:
    try:
        return bool(verify(str(folder)).problems)
    except (UserError, JobFailure):
        return True  # the command says so, and its exit code is not 0


def healed_by(command: list[str], folder: Path, whole: dict[str, bytes]) -> bool:
    arguments = [str(folder) if argument == OUTPUT else argument for argument in command]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sepline(arguments)
    return contents(folder) == whole


def run_case(folder: Path, number: int, seed: int, command: list[str]) -> tuple[str, str, bool, bool | None]:
    """Returns the damage of a case, what was hit, whether it was found, and whether a repeat heals it, if asked."""
    draw = random.Random(f"{seed}/{folder}/{number}")
    damage = list(DAMAGES)[number % len(DAMAGES)]
    whole = contents(folder)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.name
        hit = ""
        while not hit or contents(copy) == whole:  # two files may be equal
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            hit = DAMAGES[damage](copy, draw)
        found = found_by_verify(copy)
        healed = healed_by(command, copy, whole) if command and (folder / "_job.json").exists() else None
    return damage, hit, found, healed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="for each folder (default: 100)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--table", type=Path, default=Path("build/damage.json"), metavar="FILE")
    parser.add_argument("--repeat", default="", metavar="COMMAND", help=f"with {OUTPUT} for the folder")
    options = parser.parse_args()
    command = shlex.split(options.repeat)
    table: dict[str, dict[str, int]] = {}
    if options.table.exists():
        table = json.loads(options.table.read_text(encoding="utf-8"))
    missed = 0
    for folder in options.folders:
        if problems := verify(str(folder)).problems:
            raise SystemExit(f"{folder}: is damaged already: {problems[0]}")
        done = table.setdefault(str(folder), {"next": 0})
        for number in range(done["next"], options.cases):
            damage, hit, found, healed = run_case(folder, number, options.seed, command)
            counts = Counter({f"{damage}: cases": 1, f"{damage}: found": int(found)})
            if healed is not None:
                counts[f"{damage}: healed"] = int(healed)
            for name, count in counts.items():
                done[name] = done.get(name, 0) + count
            done["next"] = number + 1
            if not found:
                print(f"{folder}, case {number}: {damage} ({hit}): not found", flush=True)
            if healed is False:
                print(f"{folder}, case {number}: {damage} ({hit}): not healed", flush=True)
            options.table.parent.mkdir(parents=True, exist_ok=True)
            options.table.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        for damage in DAMAGES:
            cases, seen = done.get(f"{damage}: cases", 0), done.get(f"{damage}: found", 0)
            healed_too = f", {done[f'{damage}: healed']} healed" if f"{damage}: healed" in done else ""
            print(f"{folder}: {damage}: {seen} of {cases} found{healed_too}")
            missed += cases - seen
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
