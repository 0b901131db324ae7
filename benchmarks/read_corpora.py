"""Measures how fast corpora are read, and in how much memory.

python benchmarks/read_corpora.py [--id-column NAME] [--text-column NAME] [--split] PATH...
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence

from model.records import Document
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import match_sources, read_source


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each file: records, documents and rejects, records/s, and peak memory so far in MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--id-column", default="doc_id")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--split", action="store_true", help="split the text into sentences, too")
    arguments = parser.parse_args(argv)
    options = ReadOptions(id_column=arguments.id_column, text_column=arguments.text_column)
    splitter = SentenceSplitter()
    splitter.spans("This loads the model.")
    for source in match_sources(arguments.paths):  # this imports Beam, which takes seconds
        counts: Counter[str] = Counter()
        start = time.perf_counter()
        for item in read_source(source.path, options):
            outcome = split_document(item, splitter) if arguments.split and isinstance(item, Document) else item
            counts["documents" if isinstance(outcome, Document) else outcome.reason.value] += 1
        seconds = time.perf_counter() - start
        print(
            f"{source.path}: {counts.total()} records {dict(counts)},"
            f" {counts.total() / seconds:,.0f} records/s, peak {_peak_memory():,.0f} MiB"
        )


def _peak_memory() -> float:
    kibibytes = 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kibibytes / 1024


if __name__ == "__main__":
    main()
