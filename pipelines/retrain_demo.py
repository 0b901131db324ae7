"""Three scheduled retrainings on MEDLINE records that arrive in two deliveries, by the verb that cron would call."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from pipelines.demo import FETCHING, duration, timed, verb
from pipelines.retraining.workspace import EXIT_CODES, Outcome

_RECORDS = 3000
_BEGIN, _END = b"<PubmedArticle>", b"</PubmedArticle>"


def run_retrain_demo(output: str) -> None:
    """Shows a first model published, a call with nothing new, and one with new data, each with its decision table.

    Everything lies under `OUTPUT/retrain-demo`; a second demo begins anew.

    Args:
        output: the folder.

    Raises:
        UserError: a download or a retraining failed.
    """
    folder = Path(output) / "retrain-demo"
    if (folder / "retrain.yaml").exists():
        shutil.rmtree(folder)
    started = time.monotonic()
    sample = timed(*FETCHING) / "pubmed21n1298.xml.gz"
    config = write_config(folder)
    print(f"the settings are in {config}")
    for what, deliveries in (
        ("A first delivery of records: there is no champion yet, so only the absolute gates count", 1),
        ("The same call again: nothing has changed", 1),
        ("A second delivery: the new model has to be no worse than the champion on the same documents", 2),
    ):
        for number in range(deliveries):
            write_delivery(sample, folder / "medline", number)
        outcomes = [EXIT_CODES[outcome] for outcome in (Outcome.PUBLISHED, Outcome.KEPT, Outcome.NOTHING_NEW)]
        code = verb(what, ["retrain", "--config", str(config), "--explain"], accepted=outcomes)
        print(f"exit code {code}", flush=True)
    verb("What is in the registry now", ["models", "list", str(folder / "registry" / "medline")])
    print(f"\nAll done in {duration(time.monotonic() - started)}.")


def write_config(folder: Path) -> Path:
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
        # Two hundred documents don't hold the vocabulary of the next two hundred.
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


def write_delivery(sample: Path, folder: Path, number: int) -> Path:
    """Writes a run of the sample's records as a file of its own, as if it had just arrived, and returns it."""
    file = folder / f"delivery-{number + 1}.xml.gz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{file.name}.writing"
        with open(fresh, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
            stream.write(b"<?xml version='1.0' encoding='utf-8'?>\n<PubmedArticleSet>\n")
            for index, record in enumerate(_records(sample)):
                if index >= (number + 1) * _RECORDS:
                    break
                if index >= number * _RECORDS:
                    stream.write(record + b"\n")
            stream.write(b"</PubmedArticleSet>\n")
        fresh.rename(file)
    return file


def _records(sample: Path) -> Iterator[bytes]:
    """Yields the bytes of every article of a MEDLINE file."""
    with gzip.open(sample, "rb") as stream:
        rest = b""
        while block := stream.read(1 << 20):
            *whole, rest = (rest + block).split(_END)
            for record in whole:
                yield record[record.index(_BEGIN) :] + _END
