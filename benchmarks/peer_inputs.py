"""The inputs of `peers.py`, made once in a folder: real abstracts, training records, a bundle, and what peers read."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from processes import run

from model.encoders.downloads import fetch
from model.records import Document

_STRUCTURED = 6353  # abstracts of the file
_LABELS = ("BACKGROUND", "OBJECTIVE", "METHODS", "RESULTS", "CONCLUSIONS")
SEPLINE = [sys.executable, "-m", "pipelines.cli"]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Inputs:
    """Where everything is; what is missing is made when it is asked for.

    Attributes:
        folder: of all that is made.
        given_bundle: the bundle to measure; None for one that is trained.
        training: how many structured abstracts that one is trained and tested on.
    """

    folder: Path
    given_bundle: str | None
    training: int

    def abstracts(self, documents: int) -> Path:
        """Returns JSON lines of unlabelled abstracts, `doc_id` and `text`."""

        def write(path: Path) -> None:
            with open(path, "w", encoding="utf-8") as stream:
                for doc_id, document in islice(_numbered(), documents):
                    text = " ".join(section.text for section in document.sections)
                    stream.write(json.dumps({"doc_id": doc_id, "text": text}) + "\n")

        return self._made(f"abstracts-{documents}.jsonl", write)

    def labelled(self, documents: int) -> Path:
        """Returns JSON lines of labelled abstracts, `doc_id`, `sentences` and `labels`.

        Sentences whose author gave no label have one by their place; how fast they are read doesn't depend on it.
        """
        from pipelines.corpora.sentences import SentenceSplitter

        def write(path: Path) -> None:
            splitter = SentenceSplitter()
            with open(path, "w", encoding="utf-8") as stream:
                for doc_id, document in islice(_numbered(), documents):
                    pairs = [
                        (sentence, section.label)
                        for section in document.sections
                        for sentence in splitter.split(section.text)
                    ]
                    labels = [
                        label or _LABELS[place * len(_LABELS) // len(pairs)] for place, (_, label) in enumerate(pairs)
                    ]
                    record = {"doc_id": doc_id, "sentences": [sentence for sentence, _ in pairs], "labels": labels}
                    stream.write(json.dumps(record) + "\n")

        return self._made(f"labelled-{documents}.jsonl", write)

    def records(self, documents: int) -> Path:
        """Returns training records of labelled abstracts, all in the train split."""

        def write(path: Path) -> None:
            split = ["--train", str(self.labelled(documents))]
            run([*SEPLINE, "preprocess", *split, "--output", str(path)])

        return self._made(f"records-{documents}", write)

    def windows(self, documents: int) -> Path:
        """Returns the windows of these records as arrays."""
        records = self.records(documents)
        return self._made(f"windows-{documents}.npz", lambda path: _export("windows", str(records), path))

    def bundle(self) -> str:
        """Returns the bundle that is measured: all layers of MiniLM-L6, fine-tuned a little on structured abstracts."""
        if self.given_bundle:
            return self.given_bundle

        def write(path: Path) -> None:
            sample = str(fetch("medline-sample") / "pubmed21n1298.xml.gz")
            share = ["--set", f"data.sample={self.training / _STRUCTURED:.3f}"]
            run([*SEPLINE, "preprocess", "--input", sample, "--output", f"{path}/records", *share])
            epochs = ["--set", "training.epochs=1"]
            run([*SEPLINE, "train", "--data", f"{path}/records", "--output", f"{path}/run", *epochs])

        return str(self._made("model", write) / "run" / "bundle")

    def bundle_for(self, predictor: str) -> str:
        """Returns the bundle that a predictor such as `openvino-int8` is measured with: for int8, one made from it.

        Raises:
            CommandError: it can't be made.
        """
        if not predictor.endswith("int8"):
            return self.bundle()
        bundle = self.bundle()
        records = self.records(self.training) if self.given_bundle else Path(bundle).parent.parent / "records"

        def write(path: Path) -> None:
            run([*SEPLINE, "optimize", bundle, "--int8", "--data", str(records), "--output", str(path)])

        return str(self._made("model-int8", write))

    def checkpoint(self) -> Path:
        """Returns the bundle as a Hugging Face checkpoint."""
        return self._made("checkpoint", lambda path: _export("checkpoint", self.bundle(), path))

    def encoder(self) -> Path:
        """Returns the folder of the encoder that trainings start from."""
        return fetch("minilm-l6")

    def _made(self, name: str, write: Callable[[Path], None]) -> Path:
        path = self.folder / "inputs" / name
        if not path.exists():
            fresh = path.with_name(f".writing-{name}")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.unlink(missing_ok=True) if fresh.is_file() else None
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"making {path}", file=sys.stderr, flush=True)
            write(fresh)
            fresh.rename(path)
        return path


def _numbered() -> Iterator[tuple[str, Document]]:
    """Yields the abstracts of the MEDLINE sample, unstructured and structured ones in turn, again and again."""
    from pipelines.corpora.options import ReadOptions
    from pipelines.corpora.sources import read_source

    folder = fetch("medline-sample")
    for turn in count():
        files = [read_source(str(path), ReadOptions()) for path in sorted(folder.glob("*.xml.gz"))]
        for number, records in enumerate(zip(*files, strict=False)):
            for place, document in enumerate(records):
                if isinstance(document, Document) and document.sections:
                    yield f"{turn}-{number}-{place}", document


def _export(what: str, source: str, target: Path) -> None:
    written = target.with_suffix(".npz") if what == "windows" else target
    run([sys.executable, str(Path(__file__).with_name("peer_exports.py")), what, source, str(written)])
    written.rename(target)
