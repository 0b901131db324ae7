"""WordPiece in the TensorFlow graph, with the encoder's own vocabulary.

The ids are those of Hugging Face's BERT tokenizer. Its normalization is written in graph operations, since the one of
tf.text (NFKC case folding) differs in about one sentence in seven hundred. What still differs: final sigma in capitals,
and words of over 100 bytes but at most 100 characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from model.text.vocabulary import MOST_BYTES_PER_WORD, OUTLIERS, PLACEHOLDER, Vocabulary


class Tokenizer(tf.Module):
    """Turns sentences into wordpiece ids; part of both the tf.Transform graph and the bundle.

    Text that spells a special token, such as "[SEP]", is tokenized like any other text.
    """

    def __init__(self, vocabulary: Vocabulary, *, mask_outliers: bool = False) -> None:
        """Builds the tokenizer of a vocabulary; `mask_outliers` as in `config.DataSettings`."""
        super().__init__(name="tokenizer")
        self.vocabulary = vocabulary
        self._mask_outliers = mask_outliers
        self._tokenizer = tf_text.FastBertTokenizer(
            token_out_type=tf.int32,
            fast_wordpiece_model_buffer=_constant(
                tf_text.build_fast_wordpiece_model(
                    list(vocabulary.pieces), MOST_BYTES_PER_WORD, "##", "[UNK]", False, False
                )
            ),
            # Without lower-casing: _normalize does it in the way of the encoder's pretraining.
            fast_bert_normalizer_model_buffer=_constant(tf_text.build_fast_bert_normalizer_model(False)),
        )

    def tokenize(self, sentences: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of string `[sentences]`, int32 `[sentences, (tokens)]`, without special tokens."""
        if self._mask_outliers:
            sentences = tf.where(is_outlier(sentences), PLACEHOLDER, sentences)
        return self._tokenizer.tokenize(_normalize(sentences, lower_case=self.vocabulary.lower_case))

    def ids(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each sentence, int32 `[tokens]`."""
        tokens = self.tokenize(tf.constant(sentences, tf.string))
        return np.split(tokens.values.numpy(), tokens.row_limits().numpy()[:-1])


def _constant(model: bytes) -> tf.Tensor:
    """Returns a model of tf.text as a tensor.

    tf.text would first make a list of its bytes, on which tracing a graph spends most of its time.
    """
    return tf.constant(np.frombuffer(model, np.uint8))


def is_outlier(sentences: tf.Tensor) -> tf.Tensor:
    """Returns bool `[sentences]`: True for `OUTLIERS` (fragments, and text left unsplit)."""
    length = tf.strings.length(sentences, unit="UTF8_CHAR")
    return (length <= OUTLIERS[0]) | (length >= OUTLIERS[1])


def _normalize(sentences: tf.Tensor, *, lower_case: bool) -> tf.Tensor:
    """Returns cleaned text, for uncased encoders lower-cased and without accents, as by BERT's own basic tokenizer."""
    text = tf.strings.regex_replace(sentences, r"[\t\r\n\p{Zs}\p{Zl}\p{Zp}]", " ")
    text = tf.strings.regex_replace(text, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
    if lower_case:
        text = tf_text.normalize_utf8(text, "NFD")
        text = tf.strings.regex_replace(text, r"\p{Mn}", "")
        text = tf.strings.lower(text, encoding="utf-8")
    return text
