"""What `fetch` would download, in a small form: an encoder of a few narrow layers, and a few hundred MEDLINE records.

A cache that holds them lets a command run as it stands, with nothing about sizes in it.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from conftest import CUES, TINY_SHAPE, write_checkpoint

from model.encoders.downloads import DOWNLOADS

LABELLED, UNLABELLED = range(300), range(300, 340)
"""The numbers, and PMIDs, of the records with section headings and of those without."""


def write_downloads(cache: Path, *, layers: int) -> None:
    """Fills a folder for `$SEPLINE_CACHE`: `minilm-l6` is a tiny encoder, and each MEDLINE file has few records."""
    shape = {**TINY_SHAPE, "num_hidden_layers": layers, "max_position_embeddings": 512}
    folders = {name: cache / f"{name}-{download.sha256[:12]}" for name, download in DOWNLOADS.items()}
    write_checkpoint(folders["minilm-l6"], shape=shape)
    for file in DOWNLOADS["medline-sample"].files:
        write_medline(folders["medline-sample"] / file, labelled=LABELLED, unlabelled=UNLABELLED)


def write_medline(file: Path, *, labelled: Iterable[int], unlabelled: Iterable[int] = ()) -> None:
    """Writes compressed MEDLINE XML: abstracts of five sentences in four sections, and of two in none."""
    records = [_record(number, "".join(_section(label, number) for label in CUES)) for number in labelled]
    records += [
        _record(number, f"<AbstractText>We found level {number}. We conclude.</AbstractText>") for number in unlabelled
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f"<?xml version='1.0'?>\n<PubmedArticleSet>\n{''.join(records)}</PubmedArticleSet>\n"
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def _record(number: int, abstract: str) -> str:
    return (
        f"<PubmedArticle><MedlineCitation><PMID Version='1'>{number}</PMID><Article>"
        f"<Abstract>{abstract}</Abstract></Article></MedlineCitation></PubmedArticle>\n"
    )


def _section(label: str, number: int) -> str:
    cue = CUES[label][number % 3].capitalize()
    more = f" The {cue.lower()} effect." if label == "results" else ""
    heading = f"Label='{label.upper()}' NlmCategory='{label.upper()}'"
    return f"<AbstractText {heading}>{cue} in group {number} of the trial.{more}</AbstractText>"
