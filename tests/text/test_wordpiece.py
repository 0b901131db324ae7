"""The tokenizer without TensorFlow: the ids are those of the TensorFlow graph."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import PROJECT, TINY_VOCABULARY
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model.text.tokenization import Tokenizer
from model.text.vocabulary import Vocabulary
from model.text.wordpiece import WordPiece

GREEK = (
    "\u03bf",
    "\u03c3",
    "\u03c2",
    "##\u03bf",
    "##\u03c3",
    "##\u03c2",
    "\u03b1",
    "##\u03b1",
    "\u1100",
    "##\u1161",
    "##\u1100",
)
VOCABULARY = (*TINY_VOCABULARY, *GREEK, "\U0002b820", "A", "B", "##C")
# Small and capital sigma, letters with accents apart and composed, Hangul, which is decomposed into three letters,
# ideographs of both kinds, what is dropped (control, format and private characters) and what is a space.
CHARACTERS = (
    "abcABC .,-()[]\t\n\x0b\x1c\u00a0\u2003\u200b\u00ad"
    "\u03a3\u03c3\u039f\u03bf\u03b1\uac00\ud55c\u0301\u0308\u0130\u00df"
    "\u1e9e\u6c49\U0002b820\U0002b900\U0002b930\U00020000\u00e9\u00c9\U0001f600\ufb01\ufffd\ue000\u1f82\u212b\U00010400"
)
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=160) | st.builds(
    str.__mul__, st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=3), st.integers(1, 120)
)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizers(request: pytest.FixtureRequest) -> tuple[Tokenizer, WordPiece]:
    vocabulary = Vocabulary(VOCABULARY, lower_case=request.param)
    return Tokenizer(vocabulary), WordPiece(vocabulary)


@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_text_has_the_ids_of_the_graph(tokenizers: tuple[Tokenizer, WordPiece], texts: list[str]) -> None:
    graph, wordpiece = tokenizers
    assert [ids.tolist() for ids in wordpiece.ids(texts)] == [ids.tolist() for ids in graph.ids(texts)]


@pytest.mark.parametrize(
    "text",
    [
        "\u039f\u03a3",
        "\u03a3\ue000\u0391",
        "\u03b1" * 60,
        "\ud55c" * 12,
        "a\U0002b820b",
        "x" * 101,
        "[SEP] [CLS]",
        "",
        "##s ab",
    ],
)
def test_odd_texts_have_the_ids_of_the_graph(tokenizers: tuple[Tokenizer, WordPiece], text: str) -> None:
    graph, wordpiece = tokenizers
    (ids,) = wordpiece.ids([text])
    assert ids.tolist() == graph.ids([text])[0].tolist()
    assert ids.dtype == "int32"


def test_outliers_are_masked_as_in_the_graph() -> None:
    vocabulary = Vocabulary(VOCABULARY, lower_case=True)
    texts = ["a" * 10, "was a trial", "a " * 299 + "a", "a " * 300, "\u00e9" * 10]
    masked = WordPiece(vocabulary, mask_outliers=True).ids(texts)
    assert [ids.tolist() for ids in masked] == [
        ids.tolist() for ids in Tokenizer(vocabulary, mask_outliers=True).ids(texts)
    ]
    assert masked[0].tolist() == masked[3].tolist() != masked[1].tolist()


def test_no_tensorflow_is_loaded() -> None:
    program = (
        "import sys; from model.text.vocabulary import Vocabulary; from model.text.wordpiece import WordPiece\n"
        "pieces = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', '##b')\n"
        "print(WordPiece(Vocabulary(pieces, lower_case=True)).ids(['Ab x'])[0].tolist(), 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("[4, 5, 1] False\n", 0), result.stderr
