"""Measures how many documents per second model/text/windowing.py plans and encodes, on one core.

    python benchmarks/windows.py [--max-tokens N] [--context N] [--id-column NAME] [--text-column NAME] [PATH...]

Lengths are those of the corpora's sentences; without paths they are synthetic, about 12 sentences of about 34
wordpieces per document. The reference is a loop over the same documents that only adds up their lengths: ratios to it,
from the same run, can be compared between machines. Each figure is the best of several rounds, taken in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from model.config import EncoderSettings, WindowSettings
from model.text.windowing import encode_windows, plan_windows

ROUNDS = 5
BATCH_DOCUMENTS = 200


def synthetic_lengths(count: int) -> list[list[int]]:
    """Returns sentence lengths of made-up abstracts, the same each time: on average 12 sentences of 34 wordpieces."""
    draw = np.random.default_rng(1)
    sentences = 1 + draw.poisson(11, count)
    lengths = np.maximum(1, np.rint(draw.lognormal(np.log(34) - 0.125, 0.5, sentences.sum()))).astype(int)
    return [part.tolist() for part in np.split(lengths, np.cumsum(sentences)[:-1])]


def corpus_lengths(paths: Sequence[str], count: int, id_column: str, text_column: str) -> list[list[int]]:
    """Returns sentence lengths of the first documents of corpora, in MiniLM's wordpieces."""
    return list(islice(_corpus_lengths(paths, id_column, text_column), count))


def _corpus_lengths(paths: Sequence[str], id_column: str, text_column: str) -> Iterator[list[int]]:
    import tensorflow as tf

    from model.encoders.encoder import open_encoder
    from model.records import Document
    from model.text.tokenization import Tokenizer
    from pipelines.corpora.options import ReadOptions
    from pipelines.corpora.sentences import SentenceSplitter, split_document
    from pipelines.corpora.sources import match_sources, read_source

    tokenizer, splitter = Tokenizer(open_encoder(EncoderSettings()).vocabulary), SentenceSplitter()
    options = ReadOptions(id_column=id_column, text_column=text_column)
    records = (record for source in match_sources(paths) for record in read_source(source.path, options))
    outcomes = (split_document(record, splitter) for record in records if isinstance(record, Document))
    documents = (outcome.sentences for outcome in outcomes if isinstance(outcome, Document))
    while batch := list(islice(documents, BATCH_DOCUMENTS)):
        flat = tf.constant([sentence for sentences in batch for sentence in sentences], tf.string)
        lengths = iter(tokenizer.tokenize(flat).row_lengths().numpy().tolist())
        yield from (list(islice(lengths, len(sentences))) for sentences in batch)


def add_up(documents: Sequence[list[int]]) -> None:
    for lengths in documents:
        sum(lengths)


def best_seconds(jobs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Returns the fewest processor seconds that each job took, over rounds in which every job runs once."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            best[name] = min(best[name], time.process_time() - started)
    return best


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--documents", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--context", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--id-column", default="doc_id")
    parser.add_argument("--text-column", default="text")
    arguments = parser.parse_args(argv)
    settings = WindowSettings(max_tokens=arguments.max_tokens, context=arguments.context)
    if arguments.paths:
        lengths = corpus_lengths(arguments.paths, arguments.documents, arguments.id_column, arguments.text_column)
    else:
        lengths = synthetic_lengths(arguments.documents)
    over = [document for document in lengths if sum(document) + len(document) + 1 > settings.max_tokens]
    ids = [[np.full(length, 7, np.int32) for length in document] for document in lengths]
    sentences = sum(map(len, lengths))
    wordpieces = sum(map(sum, lengths))
    windows = sum(len(plan_windows(document, settings)) for document in lengths)
    print(
        f"{len(lengths):,} documents of {sentences / len(lengths):.1f} sentences of {wordpieces / sentences:.1f} "
        f"wordpieces; {len(over) / len(lengths):.1%} over {settings.max_tokens}; {windows:,} windows"
    )

    def plan(documents: Sequence[list[int]]) -> None:
        for document in documents:
            plan_windows(document, settings)

    def encode() -> None:
        for document in ids:
            encode_windows(document, settings, cls_id=101, sep_id=102)

    best = best_seconds(
        {
            "adding up": lambda: add_up(lengths),
            "plan_windows": lambda: plan(lengths),
            "plan_windows, those over the budget alone": lambda: plan(over),
            "encode_windows": encode,
        }
    )
    reference = best["adding up"] / len(lengths)
    for name, seconds in best.items():
        documents = len(over) if "alone" in name else len(lengths)
        if documents:
            rate, ratio = documents / seconds, seconds / documents / reference
            print(f"{name}: {rate:,.0f} documents/s, {ratio:,.1f} times the reference's time per document")


if __name__ == "__main__":
    main()
