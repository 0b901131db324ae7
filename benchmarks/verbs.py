"""Times a verb as a whole process: wall time, peak memory, and for scoring documents/s and padding.

    python benchmarks/verbs.py preprocess --input FILE.xml.gz
    python benchmarks/verbs.py score --input FILE.xml.gz --model BUNDLE --limit 2000 --limit 10000

Each --limit is one run. Scoring is compared with a bare loop over the same windows, in the same run of this script: the
difference is Beam, parsing, sentence splitting, tokenization and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(arguments: list[str]) -> tuple[float, float, str]:
    """Returns wall seconds, peak memory in MiB and standard output of `sepline ARGUMENTS`."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        output = run.stdout.read()
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise SystemExit(f"sepline {arguments[0]} ended with exit code {run.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, output


def preprocess(inputs: list[str], scratch: Path) -> None:
    seconds, peak, _ = timed(["preprocess", "--input", *inputs, "--output", str(scratch / "records")])
    counts = json.loads((scratch / "records" / "stats.json").read_text(encoding="utf-8"))["counts"]
    documents = sum(counts["documents"].values())
    print(
        f"preprocess: {counts['records']:,} records, {documents:,} documents in {seconds:.1f} s: "
        f"{counts['records'] / seconds:,.0f} records/s, {documents / seconds:,.0f} documents/s, peak {peak:,.0f} MiB"
    )


def score(inputs: list[str], model: str, limit: int | None, scratch: Path) -> None:
    out = scratch / f"scored-{limit}"
    flags = [] if limit is None else ["--limit", str(limit)]
    command = ["score", "--model", model, "--input", *inputs, "--output", str(out), "--json", *flags]
    seconds, peak, output = timed(command)
    counts = json.loads(output)["counts"]
    print(
        f"score: {counts['records']:,} records, {counts['scored']:,} documents, {counts['sentences']:,} sentences in "
        f"{seconds:.1f} s: {counts['scored'] / seconds:,.1f} documents/s, {counts['tokens'] / seconds:,.0f} tokens/s, "
        f"padded/real {counts['padded_tokens'] / counts['tokens']:.3f}, peak {peak:,.0f} MiB"
    )
    bare = bare_seconds(out, model)
    print(f"  the bare loop over the same windows: {bare:.1f} s; the job took {seconds / bare:.2f} times as long")


def bare_seconds(scored: Path, model: str) -> float:
    """Returns the seconds that the predictor alone takes for the windows of a scored folder, part by part."""
    import numpy as np
    import pyarrow.parquet as pq

    from model.bundles.bundle import load_bundle
    from model.inference.predictor import Predictor
    from model.text.tokenization import Tokenizer
    from model.text.windowing import encode_windows

    bundle = load_bundle(model)
    predictor, tokenizer, vocabulary = Predictor.load(bundle), Tokenizer(bundle.vocabulary), bundle.vocabulary
    total = 0.0
    for part in sorted(scored.glob("part-*.parquet")):
        rows = pq.read_table(part, columns=["sentence", "record_index"], partitioning=None).to_pydict()
        documents: dict[int, list[np.ndarray]] = {}
        for index, ids in zip(rows["record_index"], tokenizer.tokenize(rows["sentence"]).to_list(), strict=True):
            documents.setdefault(index, []).append(np.array(ids, np.int32))
        windows = [
            window
            for ids in documents.values()
            for window in encode_windows(ids, bundle.window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id)
        ]
        started = time.perf_counter()
        predictor.run(windows)
        total += time.perf_counter() - started
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("preprocess", "score"))
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.verb == "preprocess":
            preprocess(options.input, Path(folder))
        else:
            for limit in options.limit or [None]:
                score(options.input, options.model, limit, Path(folder))


if __name__ == "__main__":
    main()
