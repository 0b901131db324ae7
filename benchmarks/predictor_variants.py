"""Trains a small model of each variant, and compares the predictors on dev: the table in docs/predictors.md.

    python benchmarks/predictor_variants.py CSABSTRUCT [--abstracts 300] [--epochs 2] [--folder build/variants]

CSABSTRUCT is a folder with train.jsonl and dev.jsonl as published. Features and scores are made of what is in them. For
every variant, predictor and precision the table has the dev labels that differ from TensorFlow's, the largest
difference of a probability or score, accuracy (for scores, the mean squared error), the calibration error, and whether
one and two threads give the same bytes. A repeated command goes on after the last variant that is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from model.bundles.bundle import load_bundle
from model.bundles.training_data import open_training_data
from model.evaluation.calibration import expected_calibration_error
from model.evaluation.held_out import DocumentClassifier, HeldOut, read_held_out
from model.inference.kinds import PredictorChoice
from model.threads import limit_threads

VARIANTS: dict[str, tuple[str, list[str]]] = {  # what the records need, and the settings
    "`[SEP]` head, labels": ("labels", []),
    "with a CRF": ("labels", ["model.crf=true"]),
    "`[CLS]` head": ("labels", ["model.head=cls"]),
    "`[CLS]` head with a CRF": ("labels", ["model.head=cls", "model.crf=true"]),
    "mixed layers": ("labels", ["encoder.mix_layers=true"]),
    "scores": ("scores", []),
    "additional features": ("features", []),
}
RECORDS = {"labels": [], "scores": ["data.target=scores"], "features": ["data.features=2"]}
THREADS = (1, 2)


def choices(folder: Path) -> list[PredictorChoice]:
    """Returns the predictors and precisions that run a bundle on this machine, TensorFlow first."""
    bundle = load_bundle(folder)
    found = [PredictorChoice()]
    if bundle.openvino is not None:
        precisions = PredictorChoice("openvino").kind().examine(bundle)
        found += [PredictorChoice("openvino", precision) for precision in precisions]
    return found


def predict(bundle: Path, records: Path, choice: PredictorChoice) -> tuple[HeldOut, np.ndarray]:
    """Returns the documents of dev, and probabilities `[sentences, labels]` or scores `[sentences]`."""
    held_out = read_held_out(open_training_data(str(records)), "dev")
    outputs = DocumentClassifier(load_bundle(bundle), choice).run(held_out)
    return held_out, outputs["scores" if "scores" in outputs else "probabilities"]


def write_corpus(published: Path, folder: Path, abstracts: int) -> None:
    """Writes train and dev with features, the place in the abstract and the length, and scores, 1 for results."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, most in (("train", abstracts), ("dev", None)):
        lines = (published / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:most]
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for number, record in enumerate(map(json.loads, lines)):
                sentences, labels = record["sentences"], record["labels"]
                features = [[place / len(sentences), len(sentence.split())] for place, sentence in enumerate(sentences)]
                scores = [float(label == "result") for label in labels]
                described = {"abstract_id": f"{split}-{number}", "sentences": sentences, "labels": labels}
                file.write(json.dumps({**described, "features": features, "scores": scores}) + "\n")


def sepline(*arguments: str) -> None:
    """Runs a command; ends with its exit code if it fails."""
    code = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import run; run()", *arguments], check=False
    ).returncode
    if code:
        raise SystemExit(code)


def make(variant: str, folder: Path, epochs: int) -> tuple[Path, Path]:
    """Makes records and bundle of a variant where they are not made yet, and returns both."""
    needs, settings = VARIANTS[variant]
    records, run = folder / needs, folder / hashlib.sha256(variant.encode()).hexdigest()[:8]
    corpus = folder / "corpus"
    flags = [flag for setting in RECORDS[needs] for flag in ("--set", setting)]
    splits = ["--train", str(corpus / "train.jsonl"), "--dev", str(corpus / "dev.jsonl")]
    sepline("preprocess", *splits, "--output", str(records), *flags)
    flags = [flag for setting in [f"training.epochs={epochs}", *settings] for flag in ("--set", setting)]
    sepline("train", "--data", str(records), "--output", str(run), *flags)
    return run / "bundle", records


def compare(variant: str, bundle: Path, records: Path) -> list[dict[str, Any]]:
    """Returns a row for each predictor and precision."""
    rows, reference = [], np.zeros(0)
    for choice in choices(bundle):
        held_out, values = predict(bundle, records, choice)
        if choice == PredictorChoice():
            reference = values
        row: dict[str, Any] = {"variant": variant, "predictor": choice.name, "precision": choice.precision}
        row["largest_difference"] = float(np.abs(values - reference).max())
        if values.ndim == 2:
            true = held_out.labelled(load_bundle(bundle).labels).targets
            found = values.argmax(axis=1)
            row["sentences"] = len(found)
            row["differing"] = int(np.count_nonzero(found != reference.argmax(axis=1)))
            row["quality"] = float((found == true).mean())
            row["calibration_error"] = expected_calibration_error(values.max(axis=1), found == true)
        else:
            row["sentences"] = len(values)
            row["quality"] = float(np.square(values - held_out.scored().targets).mean())
        command = [sys.executable, __file__, "--digest", str(bundle), str(records), choice.name, choice.precision]
        digests = {
            subprocess.run([*command, str(threads)], check=True, capture_output=True, text=True).stdout
            for threads in THREADS
        }
        row["same_bytes"] = len(digests) == 1
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    print("| variant | predictor | other labels | largest difference | accuracy, or MSE | calibration error | bytes |")
    print("|---|---|---:|---:|---:|---:|---|")
    for row in rows:
        differing = f"{row['differing']} of {row['sentences']}" if "differing" in row else ""
        error = f"{row['calibration_error']:.4f}" if "calibration_error" in row else ""
        print(
            f"| {row['variant']} | {row['predictor']} {row['precision']} | {differing} "
            f"| {row['largest_difference']:.1e} | {row['quality']:.4f} | {error} "
            f"| {'the same' if row['same_bytes'] else 'OTHERS'} |"
        )


def main() -> int:
    if sys.argv[1:2] == ["--digest"]:
        bundle, records, name, precision, threads = sys.argv[2:]
        limit_threads(int(threads))
        _, values = predict(Path(bundle), Path(records), PredictorChoice(name, precision))
        print(hashlib.sha256(values.tobytes()).hexdigest())
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, metavar="CSABSTRUCT")
    parser.add_argument("--abstracts", type=int, default=300, metavar="N", help="of train")
    parser.add_argument("--epochs", type=int, default=2, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("build/variants"), metavar="DIR")
    options = parser.parse_args()
    table = options.folder / "variants.jsonl"
    if not table.exists():
        shutil.rmtree(options.folder, ignore_errors=True)
        write_corpus(options.corpus, options.folder / "corpus", options.abstracts)
        table.touch()
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    for variant in VARIANTS:
        if any(row["variant"] == variant for row in rows):
            continue
        found = compare(variant, *make(variant, options.folder, options.epochs))
        with open(table, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        rows += found
    show(rows)
    return 0 if all(row["same_bytes"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
