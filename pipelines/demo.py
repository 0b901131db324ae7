"""The whole workflow on real MEDLINE records, through the verbs that a user would type."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from model.encoders.downloads import fetch
from model.errors import UserError

T = TypeVar("T")

_QUERY = (
    'import duckdb; duckdb.read_parquet("{parts}").aggregate("label, count(*) AS sentences, '
    'round(avg(probability), 3) AS confidence", "label").order("sentences DESC").show()'
)


def run_demo(output: str, *, full: bool) -> None:
    """Runs preprocess, train, evaluate and score, and shows a few of the predictions.

    Everything lies under `output`; a second run finds what is finished there and goes on from it.

    Args:
        output: the folder.
        full: all structured abstracts, all layers and all unlabelled abstracts; otherwise a size for about a quarter
            of an hour on two cores.

    Raises:
        UserError: a download or a verb failed.
    """
    folder = Path(output) / ("full" if full else "quick")
    records, run, scored = folder / "records", folder / "run", folder / "scored"
    started = time.monotonic()
    sample = timed(*FETCHING)
    labelled, unlabelled = str(sample / "pubmed21n1298.xml.gz"), str(sample / "pubmed20n0014.xml.gz")

    size = [] if full else ["--set", "data.sample=0.15"]
    verb(
        "Structured abstracts, labelled by their own section headings, become training records"
        + ("" if full else ", about one in seven of them"),
        ["preprocess", "--input", labelled, "--output", str(records), *size],
    )
    size = ["--set", "training.epochs=2"] + ([] if full else ["--set", "encoder.layers=4"])
    verb(
        "The encoder learns to label each sentence: " + ("2 epochs" if full else "its first 4 layers, 2 epochs"),
        ["train", "--data", str(records), "--output", str(run), *size],
    )
    bundle = str(run / "bundle")
    verb(
        "Test abstracts that it has never seen, beside two baselines",
        ["evaluate", "--model", bundle, "--data", str(records)],
    )
    inputs = [labelled, unlabelled] if full else [labelled]
    size = [] if full else ["--limit", "1500"]
    verb(
        "Unlabelled abstracts, plain text, are split into sentences and labelled",
        ["score", "--model", bundle, "--input", *inputs, "--output", str(scored), "--unlabelled-only", *size],
    )
    _look(scored)
    print(f"\nAll done in {duration(time.monotonic() - started)}.")


def _look(scored: Path) -> None:
    import pyarrow.parquet as pq

    from pipelines.terminal import show_predictions

    heading("A look at the result")
    part = min(scored.glob("part-*.parquet"))
    table = pq.read_table(part, partitioning=None)
    labels = json.loads(table.schema.metadata[b"sepline.labels"])
    rows = table.to_pylist()
    chosen = list(dict.fromkeys(row["doc_id"] for row in rows))[:3]
    show_predictions([row for row in rows if row["doc_id"] in chosen], labels=labels)
    parts = scored / "part-*.parquet"
    query = _QUERY.format(parts=parts)
    print(f"\nThe predictions are Parquet, one row a sentence: {parts}")
    print("A query over all of them, to paste into a shell:\n")
    print(f"  {sys.executable} -c {shlex.quote(query)}\n", flush=True)
    subprocess.run([sys.executable, "-c", query], check=True)


def _fetch_all() -> Path:
    fetch("minilm-l6")
    return fetch("medline-sample")


FETCHING = ("Fetching the encoder and the MEDLINE sample (about 150 MB, once)", _fetch_all)


def verb(what: str, arguments: list[str], *, accepted: Collection[int] = (0,)) -> int:
    """Shows the command, runs it in a process of its own, as a user would, and returns its exit code.

    Raises:
        UserError: the exit code is not among the accepted ones.
    """

    def run() -> int:
        print(f"$ sepline {shlex.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=False).returncode
        if code not in accepted:
            raise UserError(f"`sepline {arguments[0]}` ended with exit code {code}; its message stands above")
        return code

    return timed(what, run)


def timed(what: str, step: Callable[[], T]) -> T:
    """Shows what is done and how long it took, and returns what came of it."""
    heading(what)
    started = time.monotonic()
    result = step()
    print(f"({duration(time.monotonic() - started)})", flush=True)
    return result


def heading(text: str) -> None:
    """Prints a heading between two steps."""
    print(f"\n== {text}", flush=True)


def duration(seconds: float) -> str:
    """Returns a time for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
