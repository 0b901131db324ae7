"""PubMed-RCT text: `###id`, then lines of `LABEL<tab>sentence`, then a blank line. NICTA-PIBOSO has this format, too.

Format: Dernoncourt and Lee, IJCNLP 2017, arXiv 1710.06071.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from model.records import MAX_EXCERPT_BYTES, Reason
from pipelines.corpora.checks import Problem, RawRecord
from pipelines.corpora.lines import Line, bounded_lines
from pipelines.corpora.options import ReadOptions


class _Abstract:
    """The lines of one abstract, collected until it ends; if it cannot be used, they are dropped."""

    def __init__(self, first: Line, options: ReadOptions) -> None:
        self._options = options
        self._beginning = first.data[:MAX_EXCERPT_BYTES].decode("utf-8", "replace")
        self._problem: Problem | None = None
        self._bytes = 0
        self._doc_id: str | None = None
        self._labels: list[str] = []
        self._sentences: list[str] = []
        self.add(first)

    def add(self, line: Line) -> None:
        """Adds a line to this abstract."""
        self._bytes += len(line.data)
        if self._problem is not None:
            return
        if line.too_long or self._bytes > self._options.max_record_bytes:
            self._fail(Reason.TOO_LARGE, f"line {line.number}: longer than {self._options.max_record_bytes} bytes")
        elif len(self._sentences) == self._options.max_sentences:
            message = f"line {line.number}: more than {self._options.max_sentences} sentences"
            self._fail(Reason.TOO_LARGE, message)
        else:
            self._parse(line)

    def finish(self) -> RawRecord | Problem:
        """Returns the abstract, or why there is none."""
        if self._problem is not None:
            return self._problem
        return RawRecord(
            lambda: self._beginning, doc_id=self._doc_id, sentences=self._sentences, labels=self._labels or None
        )

    def _parse(self, line: Line) -> None:
        try:
            text = line.data.decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail(Reason.INVALID_ENCODING, f"line {line.number} is not UTF-8 at byte {error.start}")
            return
        if text.startswith("###"):
            self._doc_id = text.removeprefix("###")
            return
        label, tab, sentence = text.partition("\t")
        if not tab:
            self._fail(Reason.BROKEN_RECORD, f"line {line.number} has no tab between a label and a sentence")
            return
        self._labels.append(label)
        self._sentences.append(sentence)

    def _fail(self, reason: Reason, message: str) -> None:
        self._problem = Problem(reason, message, self._beginning)
        self._labels.clear()
        self._sentences.clear()


def read_pubmed_rct(stream: BinaryIO, options: ReadOptions) -> Iterator[RawRecord | Problem]:
    """Yields an item for every abstract: it begins with `###id`, or with any line after a blank one."""
    abstract: _Abstract | None = None
    for line in bounded_lines(stream, options.max_record_bytes):
        blank = not line.data.strip()
        if abstract is not None and (blank or line.data.startswith(b"###")):
            yield abstract.finish()
            abstract = None
        if blank:
            continue
        if abstract is None:
            abstract = _Abstract(line, options)
        else:
            abstract.add(line)
    if abstract is not None:
        yield abstract.finish()


def is_pubmed_rct(head: bytes) -> bool:
    """Returns True if a file begins with the id of an abstract."""
    return head.startswith(b"###")
