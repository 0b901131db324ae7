"""Where model.tokenization.Tokenizer and Hugging Face's `tokenizers` give different ids, and how often.

    python benchmarks/tokenizer_agreement.py [--id-column NAME] [--text-column NAME] PATH...

The odd texts below are always compared; with paths, also every sentence of those corpora.
"""

from __future__ import annotations

import argparse
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import tensorflow as tf
from tokenizers.implementations import BertWordPieceTokenizer

from model.config import EncoderSettings
from model.encoder import load_vocabulary
from model.records import Document
from model.tokenization import Tokenizer
from model.vocabulary import Vocabulary
from pipelines.corpora import ReadOptions
from pipelines.sentences import SentenceSplitter, split_document
from pipelines.sources import match_sources, read_source

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
    "Hebrew, Arabic, Devanagari, Thai": "\u05e2\u05d1\u05e8\u05d9\u05ea \u0639\u0631\u0628\u064a \u0939\u093f \u0e44\u0e17\u0e22",
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
    "punctuation": "p<0.05; [1.2\u20133.4] (n=30) \u00b1 2 \u2265 7 \u00d7 10 \u201cq\u201d \u2018s\u2019 \u2026 \u2014 $5 ^ ` ~ | +",
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
class Kind:
    """One kind of difference: how many sentences have it, and the first of them."""

    count: int = 0
    example: str = ""


@dataclass
class Agreement:
    """What was compared.

    Attributes:
        sentences, wordpieces: compared; wordpieces as Hugging Face counts them.
        different: sentences with other ids.
        kinds: the differences by kind.
        seconds: processor seconds of each tokenizer.
    """

    sentences: int = 0
    wordpieces: int = 0
    different: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)


def compare(batches: Iterable[Sequence[str]], vocabulary: Vocabulary) -> Agreement:
    """Returns where the two tokenizers differ on batches of sentences."""
    ours, theirs = Tokenizer(vocabulary), reference(vocabulary)
    agreement = Agreement()
    for sentences in batches:
        started = time.process_time()
        found = ours.tokenize(tf.constant(sentences, tf.string))
        agreement.seconds["sepline"] += time.process_time() - started
        started = time.process_time()
        encodings = theirs.encode_batch(list(sentences), add_special_tokens=False)
        agreement.seconds["tokenizers"] += time.process_time() - started
        for sentence, ids, encoding in zip(sentences, found.to_list(), encodings, strict=True):
            agreement.sentences += 1
            agreement.wordpieces += len(encoding.ids)
            if ids != encoding.ids:
                agreement.different += 1
                place, name = kind_of_difference(sentence, ids, encoding)
                kind = agreement.kinds.setdefault(
                    name, Kind(example=excerpt(sentence, place, ids, encoding, vocabulary))
                )
                kind.count += 1
    return agreement


def reference(vocabulary: Vocabulary) -> BertWordPieceTokenizer:
    """Returns Hugging Face's tokenizer, told that text never holds special tokens."""
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    tokenizer = BertWordPieceTokenizer(vocab=ids, lowercase=vocabulary.lower_case)
    tokenizer._tokenizer.encode_special_tokens = True
    return tokenizer
