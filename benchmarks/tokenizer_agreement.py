"""Finds where model.text.tokenization.Tokenizer and Hugging Face's `tokenizers` give different ids, how often, and why.

    python benchmarks/tokenizer_agreement.py [--every-character] [--id-column NAME] [--text-column NAME] PATH...

The odd texts below are always compared; with paths, also every sentence of those corpora; with --every-character, also
every Unicode character between two letters. A difference counts as explained only if the tokenizers agree after its
cause is removed from the word; the others are printed as unexplained.
"""

from __future__ import annotations

import argparse
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import tensorflow as tf
from tokenizers.implementations import BertWordPieceTokenizer

from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
from model.records import Document
from model.text.tokenization import Tokenizer
from model.text.vocabulary import Vocabulary
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter, split_document
from pipelines.corpora.sources import match_sources, read_source

BATCH = 2000

ODD_TEXTS = {
    "composed accents": "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u1ec7 \u01d6",
    "decomposed accents": "nai\u0308ve cafe\u0301 A\u030angstro\u0308m e\u0323\u0302 u\u0308\u0304",
    "a combining accent alone": "\u0301 x \u0301\u0301",
    "Greek in small letters, final sigma": "\u03bf\u03b4\u03cc\u03c2 \u03b1\u03b2\u03b3",
    "Greek in capitals, final sigma": "\u039f\u0394\u039f\u03a3 \u0391\u0392\u0393",
    "Greek in capitals, sigma before punctuation": "\u039f\u0394\u039f\u03a3. \u039f\u0394\u039f\u03a3, \u03a3",
    "sigma as a symbol": "1\u03a3 \u03a3x \u2211 \u03c3=2",
    "CJK": "\u6c49\u5b57 and \u6f22\u5b57mixed\u65e5\u672c\u8a9e\u3072\u3089\u304c\u306a\u30ab\u30bf\u30ab\u30ca",
    "CJK beyond the basic plane": "\U00020000x\U0002a6df \U0002b740 \U0002f800",
    "Hangul": "\ud55c\uad6d\uc5b4 \uac00",
    "Hebrew, Arabic": "\u05e2\u05d1\u05e8\u05d9\u05ea \u0639\u0631\u0628\u064a \u0650",
    "Devanagari, Thai": "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "emoji": "x \U0001f600\U0001f468\u200d\U0001f52c \u2764\ufe0f \U0001f1ea\U0001f1fa",
    "zero-width characters": "a\u200bb\u200cc\u200dd\u2060e\ufefff",
    "control characters": "a\x00b\x07c\x1bd\x7fe\x85f",
    "tab, line feed, carriage return": "a\tb\nc\r\nd\x0be\x0cf",
    "soft hyphen": "hy\u00adphen \u00ad",
    "spaces": "a\u00a0b\u2003c\u2009d\u202fe\u3000f\u1680g",
    "line and paragraph separators": "a\u2028b\u2029c",
    "ligatures": "\ufb01ne \ufb02ow \ufb03x \u0132 \u0153",
    "word of 100 characters": "x" * 100,
    "word of 101 characters": "x" * 101,
    "word over 100 bytes, under 100 characters": "\u03b1" * 60,
    "word over 100 bytes that is in the vocabulary by pieces": "\u0430\u0431" * 30,
    "word over 100 characters before accents go": "e\u0301" * 60,
    "text that spells special tokens": "[SEP] [CLS] [PAD] [UNK] [MASK] [sep] a[SEP]b",
    "text that spells continuations": "##s ## # ##ing",
    "sharp s": "Stra\u00dfe \u1e9e",
    "micro sign and mu": "5 \u00b5g 5 \u03bcg",
    "superscripts, fractions, units": "m\u00b2 10\u207b\u00b3 \u00bd \u2103 \u338e \u2116 \u2082",
    "fullwidth": "\uff26\uff35\uff2c\uff2c \uff11\uff12 \uff08\uff09",
    "dotted and dotless i": "\u0130stanbul \u0131I i\u0307",
    "astral letters": "\U0001d400\U0001d401 \U0001d6fc \U00010400 \U0001e900",
    "astral letters with case": "\U00010400\U00010428 \U0001e900\U0001e922",
    "signs": "p<0.05; [1.2\u20133.4] (n=30) \u00b1 2 \u2265 7 \u00d7 10 $5 ^ ` ~ | +",
    "quotation marks and dashes": "\u201cq\u201d \u2018s\u2019 don't can\u2019t \u2026 \u2014",
    "punctuation beyond ASCII": "\u00a7 \u00b6 \u2030 \u3001\u3002 \u00bfque? \u00a1no! \u2022",
    "private use and unassigned": "a\ue000b \U000f0000 \u0378 \U000e0fff",
    "replacement character": "a\ufffdb",
    "variation selectors and tags": "a\ufe0eb \U000e0041",
    "enclosing marks": "a\u0488b 1\u20e3 a\u20dd",
    "bidirectional marks": "\u200eab\u200f \u202ax\u202c \u2066y\u2069",
    "nothing": "",
    "only what is dropped": " \u200b\u00ad\x00 ",
}


@dataclass
class Difference:
    """One kind of difference: how many texts have it, and the first of them."""

    count: int = 0
    example: str = ""


@dataclass
class Agreement:
    """What was compared.

    Attributes:
        texts, wordpieces: compared; wordpieces as Hugging Face counts them.
        different: texts with other ids.
        kinds: the differences by kind.
        seconds: processor seconds, sepline's and Hugging Face's.
    """

    texts: int = 0
    wordpieces: int = 0
    different: int = 0
    kinds: dict[str, Difference] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)


class Comparison:
    """Both tokenizers of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._pieces = vocabulary.pieces
        self._ours = Tokenizer(vocabulary)
        ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
        self._theirs = BertWordPieceTokenizer(vocab=ids, lowercase=vocabulary.lower_case)
        self._theirs._tokenizer.encode_special_tokens = True  # text never holds special tokens

    def run(self, texts: Iterable[str]) -> Agreement:
        """Returns where the two differ."""
        agreement = Agreement()
        for batch in batches(texts):
            started = time.process_time()
            ours = self._ours.tokenize(tf.constant(batch, tf.string))
            between = time.process_time()
            theirs = self._theirs.encode_batch(batch, add_special_tokens=False)
            ended = time.process_time()
            before = agreement.seconds
            agreement.seconds = (before[0] + between - started, before[1] + ended - between)
            for text, ids, encoding in zip(batch, ours.to_list(), theirs, strict=True):
                agreement.texts += 1
                agreement.wordpieces += len(encoding.ids)
                if ids != encoding.ids:
                    agreement.different += 1
                    self._explain(text, agreement)
        return agreement

    def _explain(self, text: str, agreement: Agreement) -> None:
        words = [word for word in text.split() if not self._agree(word)]
        for word in words or [text]:
            difference = agreement.kinds.setdefault(self._kind(word), Difference())
            difference.count += 1
            if not difference.example:
                ours, theirs = self._both(word)
                pieces = " ".join(self._pieces[index] for index in ours)
                difference.example = f"{word[:40]!a}: {pieces[:60]} | {' '.join(theirs)[:60]}"

    def _kind(self, word: str) -> str:
        if "\u03a3" in word and self._agree(word.replace("\u03a3", "\u03c3")):
            return "capital sigma at the end of a word"
        if len(word.encode()) > 100 and self._agree(word[:25]):
            return "word over 100 bytes but not over 100 characters"
        odd = sorted({char for char in word if not self._agree(f"a{char}b")})
        if odd and self._agree("".join(char for char in word if char not in odd)):
            char = odd[0]
            if "\U0002b820" <= char < "\U0002b920":
                return "ideograph from U+2B820 to U+2B91F"
            return f"character that the two put into different classes ({unicodedata.category(char)})"
        return "unexplained"

    def _agree(self, text: str) -> bool:
        ours, theirs = self._both(text)
        return [self._pieces[index] for index in ours] == theirs

    def _both(self, text: str) -> tuple[list[int], list[str]]:
        (ours,) = self._ours.tokenize(tf.constant([text], tf.string)).to_list()
        return ours, self._theirs.encode(text, add_special_tokens=False).tokens


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def sentences(paths: Sequence[str], options: ReadOptions) -> Iterator[str]:
    """Yields every sentence of the corpora, as a run would read it."""
    splitter = SentenceSplitter()
    for source in match_sources(paths):
        for record in read_source(source.path, options):
            document = split_document(record, splitter) if isinstance(record, Document) else record
            if isinstance(document, Document):
                yield from document.sentences


def every_character() -> Iterator[str]:
    """Yields every character that UTF-8 can hold, between two letters."""
    return (f"a{chr(code)}b" for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)


def show(title: str, agreement: Agreement) -> None:
    share = agreement.different / max(agreement.texts, 1)
    print(f"{title}: {agreement.texts:,} texts, {agreement.wordpieces:,} wordpieces; ", end="")
    print(f"{agreement.different:,} texts differ ({share:.4%})")
    for kind, difference in sorted(agreement.kinds.items(), key=lambda item: -item[1].count):
        print(f"  {difference.count:,} words: {kind}\n    {difference.example}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--encoder", default="minilm-l6", metavar="HANDLE", help="default: minilm-l6")
    parser.add_argument("--cased", action="store_true", help="as for a cased encoder")
    parser.add_argument("--every-character", action="store_true")
    parser.add_argument("--id-column", default="doc_id")
    parser.add_argument("--text-column", default="text")
    arguments = parser.parse_args(argv)
    vocabulary = open_encoder(EncoderSettings(handle=arguments.encoder)).vocabulary
    if arguments.cased:
        vocabulary = Vocabulary(vocabulary.pieces, lower_case=False)
    comparison = Comparison(vocabulary)
    show("odd texts", comparison.run(ODD_TEXTS.values()))
    if arguments.every_character:
        show("every character", comparison.run(every_character()))
    if arguments.paths:
        options = ReadOptions(id_column=arguments.id_column, text_column=arguments.text_column)
        agreement = comparison.run(sentences(arguments.paths, options))
        show("sentences of corpora", agreement)
        if not agreement.texts:
            raise SystemExit("no document of these corpora can be read; see sepline inspect")
        ours, theirs = (agreement.texts / seconds for seconds in agreement.seconds)
        print(f"  sentences per CPU second: sepline {ours:,.0f}, tokenizers {theirs:,.0f}; {ours / theirs:.1f} times")


if __name__ == "__main__":
    main()
