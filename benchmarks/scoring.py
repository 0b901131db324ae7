"""Measures what scoring costs apart from the model: overhead, memory, resuming, and the effect of threads.

    python benchmarks/scoring.py overhead --model BUNDLE --input FILE.csv --text-column abstract
    python benchmarks/scoring.py memory --model TINY_BUNDLE --input FILE.csv ... --records 2000 --records 20000
    python benchmarks/scoring.py resume --model TINY_BUNDLE --input FILE.csv ... --records 10000 --parts 1000
    python benchmarks/scoring.py threads --model BUNDLE --input FILE.csv ...

`overhead` scores in this process and subtracts the model's forward pass from the wall time of the job; loading is
reported separately. `memory` repeats the inputs up to each number of records and scores each in a process of its own.
`resume` times a process that finds everything done, and one that finds all but the last part done. `threads` compares
the bytes of the probabilities at several numbers of threads, each in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verbs import timed


def documents(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yields ids and texts of the inputs, repeated without end under new ids."""
    turn = 0
    while True:
        for path in options.input:
            with open(path, encoding="utf-8", newline="") as stream:
                for number, row in enumerate(csv.DictReader(stream)):
                    if row[options.text_column].strip():
                        yield f"{turn}-{Path(path).stem}-{number}", row[options.text_column]
        turn += 1


def write_corpus(options: argparse.Namespace, records: int, folder: Path) -> Path:
    path = folder / f"{records}.jsonl"
    with open(path, "w", encoding="utf-8") as stream:
        for (doc_id, text), _ in zip(documents(options), range(records), strict=False):
            stream.write(json.dumps({"doc_id": doc_id, "text": text}) + "\n")
    return path


def run(arguments: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Returns wall seconds, peak memory in MiB and the manifest of `sepline score`."""
    seconds, peak, output = timed(["score", *arguments, "--json"])
    return seconds, peak, json.loads(output)


def overhead(options: argparse.Namespace, folder: Path) -> None:
    """Prints the share of the pipeline's wall time that is not the model's forward pass."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from model.inference.predictor import Predictor
    from pipelines.corpora.options import ReadOptions
    from pipelines.scoring.score import score
    from pipelines.scoring.settings import ScoreSettings

    spent = {"forward": 0.0, "load": 0.0}
    load = Predictor.load

    def timed_load(*arguments: Any, **keywords: Any) -> Predictor:
        started = time.perf_counter()
        predictor = load(*arguments, **keywords)
        forward = predictor._classify

        def timed_forward(arrays: Any) -> Any:
            started = time.perf_counter()
            try:
                return forward(arrays)
            finally:
                spent["forward"] += time.perf_counter() - started

        predictor._classify = timed_forward
        spent["load"] += time.perf_counter() - started
        return predictor

    Predictor.load = timed_load  # type: ignore[method-assign]
    corpus = write_corpus(options, options.records[0], folder)
    started = time.perf_counter()
    manifest = score(
        options.model,
        [str(corpus)],
        str(folder / "out"),
        settings=ScoreSettings(),
        options=ReadOptions(),
        beam_options=PipelineOptions(["--runner=FnApiRunner"]),
        workers=1,
    )
    seconds = time.perf_counter() - started
    scoring = seconds - spent["load"]
    counts = manifest["counts"]
    written = sum(part.stat().st_size for part in (folder / "out").glob("part-*"))
    print(
        f"{counts['records']:,} records, {counts['tokens']:,} tokens: {seconds:.1f} s, {spent['load']:.1f} of them "
        f"loading the model; of the other {scoring:.1f} s, {spent['forward']:.1f} s are the forward pass: "
        f"{100 * (1 - spent['forward'] / scoring):.1f} % are not"
    )
    print(
        f"{written / counts['sentences']:.1f} bytes a row, {written / corpus.stat().st_size:.2f} of the input's bytes "
        f"({counts['sentences']:,} rows)"
    )


def memory(options: argparse.Namespace, folder: Path) -> None:
    for records in options.records:
        corpus = write_corpus(options, records, folder)
        arguments = ["--model", options.model, "--input", str(corpus), "--output", str(folder / f"out-{records}")]
        seconds, peak, manifest = run([*arguments, "--workers", "1"])
        print(f"{manifest['counts']['records']:,} records: peak {peak:,.0f} MiB, {seconds:.1f} s", flush=True)


def resume(options: argparse.Namespace, folder: Path) -> None:
    (records,) = options.records
    corpus = write_corpus(options, records, folder)
    out = folder / "out"
    chunk = ["--chunk-records", str(records // options.parts)]
    arguments = ["--model", options.model, "--input", str(corpus), "--output", str(out), *chunk]
    seconds, _, _ = run(arguments)
    print(f"{len(list(out.glob('part-*'))):,} parts: scored in {seconds:.1f} s", flush=True)
    seconds, _, _ = run(arguments)
    print(f"found finished in {seconds:.1f} s", flush=True)
    (out / "_SUCCESS").unlink()
    seconds, _, _ = run(arguments)
    print(f"all parts there, counted and published in {seconds:.1f} s", flush=True)
    max(out.glob("part-*")).unlink()
    seconds, _, _ = run(arguments)
    print(f"one part missing: done in {seconds:.1f} s", flush=True)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import pipelines.scoring.score"], check=True, capture_output=True
    )
    print(f"importing alone: {time.perf_counter() - started:.1f} s")


def threads(options: argparse.Namespace, folder: Path) -> None:
    corpus = write_corpus(options, options.records[0], folder)
    for count in (1, 2, 4, 16):
        out = folder / f"out-{count}"
        limits = f"import tensorflow as tf; tf.config.threading.set_intra_op_parallelism_threads({count})"
        arguments = ["score", "--model", options.model, "--input", str(corpus), "--output", str(out), "--workers", "1"]
        code = f"{limits}; from pipelines.cli import main; main({arguments!r})"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
        digest = hashlib.sha256(b"".join(part.read_bytes() for part in sorted(out.glob("part-*"))))
        print(f"{count} threads: {digest.hexdigest()[:16]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"overhead": overhead, "memory": memory, "resume": resume, "threads": threads}
    parser.add_argument("measure", choices=measures)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", nargs="+", required=True, help="CSV files")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--records", type=int, action="append")
    parser.add_argument("--parts", type=int, default=1000)
    options = parser.parse_args()
    options.records = options.records or [500]
    with tempfile.TemporaryDirectory() as folder:
        measures[options.measure](options, Path(folder))


if __name__ == "__main__":
    main()
