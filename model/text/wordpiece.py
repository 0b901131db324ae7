"""WordPiece without TensorFlow, by Hugging Face's `tokenizers`; the same ids as `tokenization.Tokenizer`.

What `tokenizers` itself cuts otherwise (docs/tokenization.md) is cut here as in TensorFlow's graph: a capital sigma at
the end of a word, words of over 100 bytes, and ideographs from U+2B820 to U+2B91F. What is left are characters that are
newer than its tables; no wordpiece has one of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.extras import import_extra
from model.text.vocabulary import MOST_BYTES_PER_WORD, OUTLIERS, PLACEHOLDER, Vocabulary

_SIGMA = "\u03a3"
_IDEOGRAPHS = re.compile("([\U0002b820-\U0002b91f])")
# A word of over 100 bytes has over 11 characters: decomposed, those of Hangul have nine bytes and the others fewer.
_LONG = re.compile(r"[^\t\r\n \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{12,}")


class WordPiece:
    """Turns sentences into wordpiece ids. Text that spells a special token is tokenized like any other text."""

    def __init__(self, vocabulary: Vocabulary, *, mask_outliers: bool = False) -> None:
        """Builds the tokenizer of a vocabulary; `mask_outliers` as in `config.DataSettings`.

        Raises:
            UserError: the package `tokenizers` is missing.
        """
        tokenizers = import_extra("tokenizers", extra="fast", purpose="the predictor openvino")
        self._lower_case, self._unknown = vocabulary.lower_case, vocabulary.unk_id
        self._mask_outliers = mask_outliers
        ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
        model = tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=MOST_BYTES_PER_WORD)
        self._tokenizer: Any = tokenizers.Tokenizer(model)
        self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=vocabulary.lower_case
        )
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()

    def ids(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each sentence, int32 `[tokens]`, without special tokens."""
        if self._mask_outliers:
            sentences = [PLACEHOLDER if _is_outlier(sentence) else sentence for sentence in sentences]
        texts = [sentence if sentence.isascii() else self._prepare(sentence) for sentence in sentences]
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            np.array(self._by_word(text) if _has_long_word(text) else encoding.ids, np.int32)
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def _prepare(self, text: str) -> str:
        if self._lower_case and _SIGMA in text:
            kept = [one for one in unicodedata.normalize("NFD", text) if not _is_dropped(one)]
            text = "".join(kept).lower()  # by the rules of Greek, as TensorFlow does
        return _IDEOGRAPHS.sub(r" \1 ", text)

    def _by_word(self, text: str) -> list[int]:
        """Returns the ids of a text, with [UNK] for words of too many bytes."""
        words = self._tokenizer.pre_tokenizer.pre_tokenize_str(self._tokenizer.normalizer.normalize_str(text))
        found: list[int] = []
        for word, _ in words:
            if len(word.encode("utf-8")) > MOST_BYTES_PER_WORD:
                found.append(self._unknown)
            else:
                found += [token.id for token in self._tokenizer.model.tokenize(word)]
        return found


def _is_outlier(sentence: str) -> bool:
    return len(sentence) <= OUTLIERS[0] or len(sentence) >= OUTLIERS[1]


def _has_long_word(text: str) -> bool:
    """Returns True if a word might have over 100 bytes but not over 100 characters."""
    return not text.isascii() and _LONG.search(text) is not None


def _is_dropped(character: str) -> bool:
    """Returns True for what BERT's normalization drops: control characters, and accents once they are apart."""
    if character in "\t\r\n":
        return False
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Mn")
