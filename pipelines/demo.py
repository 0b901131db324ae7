"""Two demos on real MEDLINE records, by the commands that a user would type.

One goes from labelled abstracts to predictions. The other retrains three times, on records that arrive in two
deliveries.
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import yaml

from model.encoders.downloads import fetch
from model.errors import UserError
from pipelines.retraining.workspace import EXIT_CODES, Outcome

T = TypeVar("T")

_QUERY = (
    'import duckdb; duckdb.read_parquet("{parts}").aggregate("label, count(*) AS sentences, '
    'round(avg(probability), 3) AS confidence", "label").order("sentences DESC").show()'
)
_DELIVERY_RECORDS = 3000
_RECORD_BEGIN, _RECORD_END = b"<PubmedArticle>", b"</PubmedArticle>"


def run_demo(output: str, *, full: bool) -> None:
    """Runs preprocess, train, evaluate and score, and shows a few of the predictions.

    Everything is written under `output`; a second run continues from what is finished there.

    Args:
        output: the folder.
        full: True for all structured abstracts, all layers and all unlabelled abstracts; False for a size that takes
            about a quarter of an hour on two cores.

    Raises:
        UserError: a download or a verb failed.
    """
    folder = Path(output) / ("full" if full else "quick")
    records, run, scored = folder / "records", folder / "run", folder / "scored"
    with _total_time():
        sample = _fetch_sample()
        labelled, unlabelled = str(sample / "pubmed21n1298.xml.gz"), str(sample / "pubmed20n0014.xml.gz")

        size = [] if full else ["--set", "data.sample=0.15"]
        _verb(
            "Structured abstracts, labelled by their own section headings, become training records"
            + ("" if full else ", about one in seven of them"),
            ["preprocess", "--input", labelled, "--output", str(records), *size],
        )
        size = ["--set", "training.epochs=2"] + ([] if full else ["--set", "encoder.layers=4"])
        _verb(
            "The encoder learns to label each sentence: " + ("2 epochs" if full else "its first 4 layers, 2 epochs"),
            ["train", "--data", str(records), "--output", str(run), *size],
        )
        bundle = str(run / "bundle")
        _verb(
            "Test abstracts that it has never seen, compared with two baselines",
            ["evaluate", "--model", bundle, "--data", str(records)],
        )
        inputs = [labelled, unlabelled] if full else [labelled]
        size = [] if full else ["--limit", "1500"]
        _verb(
            "Unlabelled abstracts, plain text, are split into sentences and labelled",
            ["score", "--model", bundle, "--input", *inputs, "--output", str(scored), "--unlabelled-only", *size],
        )
        _show_result(scored)


def run_retrain_demo(output: str) -> None:
    """Shows three calls: a first model is published, nothing is new, and new data arrive; each with its decision table.

    Everything is written under `OUTPUT/retrain-demo`; a second demo starts from scratch.

    Args:
        output: the folder.

    Raises:
        UserError: a download or a retraining failed.
    """
    folder = Path(output) / "retrain-demo"
    if (folder / "retrain.yaml").exists():
        shutil.rmtree(folder)
    accepted = [EXIT_CODES[outcome] for outcome in (Outcome.PUBLISHED, Outcome.KEPT, Outcome.NOTHING_NEW)]
    with _total_time():
        sample = _fetch_sample() / "pubmed21n1298.xml.gz"
        config = _write_config(folder)
        print(f"the settings are in {config}")
        for what, deliveries in (
            ("A first delivery of records: there is no champion yet, so only the absolute gates count", 1),
            ("The same call again: nothing has changed", 1),
            ("A second delivery: the new model has to be no worse than the champion on the same documents", 2),
        ):
            for number in range(deliveries):
                _write_delivery(sample, folder / "medline", number)
            code = _verb(what, ["retrain", "--config", str(config), "--explain"], accepted=accepted)
            print(f"exit code {code}", flush=True)
        _verb("What is in the registry now", ["models", "list", str(folder / "registry" / "medline")])


def _fetch_sample() -> Path:
    """Downloads the encoder and the MEDLINE sample, and returns the sample's folder."""

    def fetch_both() -> Path:
        fetch("minilm-l6")
        return fetch("medline-sample")

    return _timed("Fetching the encoder and the MEDLINE sample (about 150 MB, once)", fetch_both)


def _show_result(scored: Path) -> None:
    import pyarrow.parquet as pq

    from pipelines.terminal import show_predictions

    _heading("A look at the result")
    part = min(scored.glob("part-*.parquet"))
    table = pq.read_table(part, partitioning=None)
    labels = json.loads(table.schema.metadata[b"sepline.labels"])
    rows = table.to_pylist()
    chosen = list(dict.fromkeys(row["doc_id"] for row in rows))[:3]
    show_predictions([row for row in rows if row["doc_id"] in chosen], labels=labels)
    parts = scored / "part-*.parquet"
    query = _QUERY.format(parts=parts)
    print(f"\nThe predictions are Parquet, one row per sentence: {parts}")
    print("A query over all of them, to paste into a shell:\n")
    print(f"  {sys.executable} -c {shlex.quote(query)}\n", flush=True)
    subprocess.run([sys.executable, "-c", query], check=True)


def _write_config(folder: Path) -> Path:
    """Writes settings small enough for two cores and returns their file."""
    settings = {
        "retrain": {
            "name": "medline",
            "registry": str(folder / "registry"),
            "workspace": str(folder / "work"),
            "input": [str(folder / "medline" / "*.xml.gz")],
        },
        "encoder": {"layers": 2},
        "data": {"revisions": "latest", "sample": 0.3, "splits": {"train": 0.65, "dev": 0.1, "test": 0.25}},
        "training": {"epochs": 2, "batch_tokens": 4096, "learning_rate": 5e-4},
        # The vocabulary of two hundred documents differs from that of the next two hundred.
        "checks": {"min_new_documents": 50, "max_vocabulary_drift": 0.2},
        "gates": {
            "min_accuracy": 0.55,
            "min_label_f1": None,
            "margin": 0.03,
            "margin_macro_f1": 0.06,
            "slice_pattern": "delivery-\\d",
            "max_calibration_error": 0.2,
        },
        "lock": {"take_over_stale": True},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "retrain.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return file


def _write_delivery(sample: Path, folder: Path, number: int) -> None:
    """Writes some of the sample's records as a file of their own, as if it had just arrived."""
    file = folder / f"delivery-{number + 1}.xml.gz"
    if file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{file.name}.writing"
    first = number * _DELIVERY_RECORDS
    with open(fresh, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
        stream.write(b"<?xml version='1.0' encoding='utf-8'?>\n<PubmedArticleSet>\n")
        for record in islice(_records(sample), first, first + _DELIVERY_RECORDS):
            stream.write(record + b"\n")
        stream.write(b"</PubmedArticleSet>\n")
    fresh.rename(file)


def _records(sample: Path) -> Iterator[bytes]:
    """Yields the bytes of every article of a MEDLINE file."""
    with gzip.open(sample, "rb") as stream:
        rest = b""
        while block := stream.read(1 << 20):
            *whole, rest = (rest + block).split(_RECORD_END)
            for record in whole:
                yield record[record.index(_RECORD_BEGIN) :] + _RECORD_END


def _verb(what: str, arguments: list[str], *, accepted: Collection[int] = (0,)) -> int:
    """Shows the command, runs it in a process of its own, as a user would, and returns its exit code.

    Raises:
        UserError: the exit code is not among the accepted ones.
    """

    def run() -> int:
        print(f"$ sepline {shlex.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=False).returncode
        if code not in accepted:
            raise UserError(f"`sepline {arguments[0]}` ended with exit code {code}; its message is above")
        return code

    return _timed(what, run)


@contextmanager
def _total_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"\nAll done in {_duration(time.monotonic() - started)}.")


def _timed(what: str, step: Callable[[], T]) -> T:
    """Prints what the step does and how long it took, and returns its result."""
    _heading(what)
    started = time.monotonic()
    result = step()
    print(f"({_duration(time.monotonic() - started)})", flush=True)
    return result


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
