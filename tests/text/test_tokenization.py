"""Wordpiece ids, literally and against Hugging Face's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf
from conftest import TINY_VOCABULARY, real_data, write_checkpoint
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model.config import EncoderSettings
from model.encoders.encoder import open_encoder
from model.errors import UserError
from model.text.tokenization import Tokenizer, is_outlier
from model.text.vocabulary import Vocabulary

NINE_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "drug", "work", "##s", ".")
PAD, UNK, CLS, SEP, THE, DRUG, WORK, S, STOP = range(9)

ODD_TEXTS = (
    "",
    " ",
    "\t\r\n",
    "Tabs\tand\nlines\r\nand\u00a0hard\u2003spaces\u2028too\u2029.",
    "zero\u200bwidth\u200djoiner\ufeff and soft\u00adhyphen",
    "nul\x00, bell\x07, escape\x1b, delete\x7f, next line\x85",
    "replacement \ufffd character",
    "private \ue000 use",
    "naïve café Ångström façade",
    "nai\u0308ve cafe\u0301",
    "ﬁne ﬂow ½ ㎎ m² µg ℃ №",
    "Straße ΑΒΓ αβγ İstanbul ıI",
    "汉字 and 漢字mixed日本語ひらがなカタカナ 한국어",
    "עברית العربية हिन्दी ไทย",
    "emoji 😀👩‍🔬 x",
    "ＦＵＬＬ width",
    "p<0.05; 95%-CI [1.2–3.4] (n=30) ± 2 ≥ 7 × 10⁻³",
    "don't can’t “quoted” ‘single’ — dash…",
    "$5 ^ ` ~ | + = < >",
    "a_b a-b a/b a\\b #tag @who",
    "supercalifragilisticexpialidocious" * 2,
    "x" * 99,
    "x" * 101,
    "[CLS] [SEP] [PAD] [UNK] [MASK]",
    "[sep][SEP]text[SEP]",
    "##s ## #",
    "...!!!???",
    "\U0001d400\U0001d401 mathematical",
    "\u0301 leading accent",
    "nonspacing\u0488 enclosing\u20dd",
)


def tokenize(vocabulary: Vocabulary, texts: list[str]) -> list[list[int]]:
    return list(Tokenizer(vocabulary).tokenize(tf.constant(texts, tf.string)).to_list())


def reference(vocabulary: Vocabulary, texts: list[str]) -> list[list[int]]:
    """Ids by Hugging Face, which must be told that text never holds special tokens."""
    from tokenizers.implementations import BertWordPieceTokenizer

    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    tokenizer = BertWordPieceTokenizer(vocab=ids, lowercase=vocabulary.lower_case)
    tokenizer._tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def different(vocabulary: Vocabulary, texts: list[str]) -> list[str]:
    pairs = zip(texts, tokenize(vocabulary, texts), reference(vocabulary, texts), strict=True)
    return [text for text, ours, theirs in pairs if ours != theirs]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The drug works.", [THE, DRUG, WORK, S, STOP]),
        ("DRUGS", [DRUG, S]),
        ("drùg", [DRUG]),
        ("the  \t drug\n", [THE, DRUG]),
        ("the drugx", [THE, UNK]),
        ("", []),
        (" \u200b", []),
        (".the.", [STOP, THE, STOP]),
        ("the\rdrug\tthe\ndrug", [THE, DRUG, THE, DRUG]),
        ("the\x0bdrug", [UNK]),  # other control characters go without a trace
    ],
)
def test_literal_ids(text: str, ids: list[int]) -> None:
    assert tokenize(Vocabulary(NINE_WORDS, lower_case=True), [text]) == [ids]


@pytest.mark.parametrize(
    ("text", "ids"),
    [("The drug", [UNK, DRUG]), ("the DRUG", [THE, UNK]), ("drùg", [UNK]), ("the\u00a0drug", [THE, DRUG])],
)
def test_cased_literal_ids(text: str, ids: list[int]) -> None:
    assert tokenize(Vocabulary(NINE_WORDS, lower_case=False), [text]) == [ids]


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("text", ["[SEP]", "the [SEP] drug", "[CLS][PAD][SEP]", "[MASK]", "[sep]"])
def test_text_never_becomes_a_special_token(text: str, lower_case: bool) -> None:
    vocabulary = Vocabulary(TINY_VOCABULARY, lower_case=lower_case)
    (ids,) = tokenize(vocabulary, [text])
    assert ids
    assert not {vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, TINY_VOCABULARY.index("[MASK]")} & set(ids)
    assert [TINY_VOCABULARY[i] for i in ids].count("[") == text.count("[")


@pytest.mark.parametrize("lower_case", [True, False])
def test_odd_texts_as_hugging_face_with_the_tiny_vocabulary(lower_case: bool) -> None:
    assert different(Vocabulary(TINY_VOCABULARY, lower_case=lower_case), list(ODD_TEXTS)) == []


def test_known_differences_from_hugging_face() -> None:
    """What the module's docstring says still differs; if this fails, the docstring is out of date."""
    letters = (*NINE_WORDS, "σ", "##σ", "ς", "##ς", "ο", "##ο", "é", "##é")
    final_sigma = "ΟΣ"
    long_in_bytes = "é" * 60  # 60 characters, 120 bytes
    assert different(Vocabulary(letters, lower_case=True), [final_sigma]) == [final_sigma]
    assert different(Vocabulary(letters, lower_case=False), [long_in_bytes]) == [long_in_bytes]


@pytest.fixture(scope="module")
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary(TINY_VOCABULARY, lower_case=True))


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=6))
@hypothesis_settings(max_examples=50, deadline=None)
def test_any_text_tokenizes_by_itself(tiny_tokenizer: Tokenizer, texts: list[str]) -> None:
    """A sentence's ids depend on no neighbour in the batch, and none is a special token."""
    together = tiny_tokenizer.tokenize(tf.constant(texts)).to_list()
    assert together == [tiny_tokenizer.tokenize(tf.constant([text])).to_list()[0] for text in texts]
    vocabulary = tiny_tokenizer.vocabulary
    assert not {vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id} & {i for ids in together for i in ids}


def test_odd_texts_as_hugging_face(minilm: Path) -> None:
    assert different(open_encoder(EncoderSettings(handle=str(minilm))).vocabulary, list(ODD_TEXTS)) == []


def test_real_sentences_as_hugging_face(minilm: Path) -> None:
    lines = real_data("csabstruct/train.jsonl").read_text(encoding="utf-8").splitlines()
    computing = [sentence for line in lines[:150] for sentence in json.loads(line)["sentences"]]
    trials = [
        line.split("\t", 1)[1]
        for line in real_data("pubmed_20k_rct/dev.txt").read_text(encoding="utf-8").splitlines()[:1500]
        if "\t" in line
    ]
    sentences = computing + trials
    assert len(sentences) > 2000
    assert different(open_encoder(EncoderSettings(handle=str(minilm))).vocabulary, sentences) == []


def test_casing_comes_from_the_checkpoint(tmp_path: Path) -> None:
    uncased = write_checkpoint(tmp_path / "uncased")
    cased = write_checkpoint(tmp_path / "cased")
    (cased / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert open_encoder(EncoderSettings(handle=str(uncased))).vocabulary.lower_case is True
    assert open_encoder(EncoderSettings(handle=str(cased))).vocabulary.lower_case is False


def test_casing_and_pieces_make_the_fingerprint() -> None:
    fingerprints = {
        Vocabulary(NINE_WORDS, lower_case=True).fingerprint,
        Vocabulary(NINE_WORDS, lower_case=False).fingerprint,
        Vocabulary((*NINE_WORDS, "more"), lower_case=True).fingerprint,
        Vocabulary((*NINE_WORDS[:-2], ".", "##s"), lower_case=True).fingerprint,
    }
    assert len(fingerprints) == 4
    again = Vocabulary.from_text("\n".join(NINE_WORDS) + "\n", lower_case=True)
    assert again == Vocabulary(NINE_WORDS, lower_case=True)
    assert again.fingerprint in fingerprints


@pytest.mark.parametrize("missing", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_special_tokens_is_refused(missing: str) -> None:
    with pytest.raises(UserError, match=rf"no \{missing[:-1]}\]; sepline needs a BERT vocabulary"):
        Vocabulary(tuple(piece for piece in NINE_WORDS if piece != missing), lower_case=True)


def test_outliers_by_their_length_in_characters() -> None:
    """At most 10 or at least 600, whatever their bytes."""
    texts = ["", "x" * 10, "é" * 10, "x" * 11, "é" * 11, "x" * 599, "é" * 599, "x" * 600, "é" * 600]
    found = is_outlier(tf.constant(texts)).numpy().tolist()
    assert found == [True, True, True, False, False, False, False, True, True]


def test_masked_outliers_read_as_one_unknown_word() -> None:
    """The paper's code puts a word in their place; an uncased vocabulary may know its pieces."""
    pieces = (*NINE_WORDS, "badsentence", "BADSENTENCE")
    texts = tf.constant(["the drug", "the drugs the drug.", "the " * 150])
    plain = Tokenizer(Vocabulary(pieces, lower_case=True)).tokenize(texts).to_list()
    assert plain == [[THE, DRUG], [THE, DRUG, S, THE, DRUG, STOP], [THE] * 150]
    for lower_case, masked in ((True, len(NINE_WORDS)), (False, len(NINE_WORDS) + 1)):
        tokenizer = Tokenizer(Vocabulary(pieces, lower_case=lower_case), mask_outliers=True)
        assert tokenizer.tokenize(texts).to_list() == [[masked], [THE, DRUG, S, THE, DRUG, STOP], [masked]]


def test_words_of_over_100_bytes_are_unknown() -> None:
    vocabulary = Vocabulary((*NINE_WORDS, "x", "##x"), lower_case=True)
    assert tokenize(vocabulary, ["x" * 100, "x" * 101]) == [
        [len(NINE_WORDS), *[len(NINE_WORDS) + 1] * 99],
        [UNK],
    ]


@pytest.mark.parametrize("space", ["\t", "\r", "\n", "\u00a0", "\u2028", "\u2029", "\u3000"])
@pytest.mark.parametrize("lower_case", [True, False])
def test_every_kind_of_space_separates_words(space: str, lower_case: bool) -> None:
    assert tokenize(Vocabulary(NINE_WORDS, lower_case=lower_case), [f"the{space}drug"]) == [[THE, DRUG]]


@pytest.mark.parametrize("dropped", ["\x00", "\x85", "\u00ad", "\u200b", "\ue000", "\ufffd"])
@pytest.mark.parametrize("lower_case", [True, False])
def test_what_leaves_no_trace(dropped: str, lower_case: bool) -> None:
    assert tokenize(Vocabulary(NINE_WORDS, lower_case=lower_case), [f"dr{dropped}ug"]) == [[DRUG]]


def test_composed_and_decomposed_accents_are_the_same() -> None:
    letters = Vocabulary((*NINE_WORDS, "\u1100", "##\u1161"), lower_case=True)
    assert tokenize(letters, ["dr\u00f9g", "dru\u0300g", "DR\u00d9G"]) == [[DRUG]] * 3
    assert tokenize(letters, ["\uac00"]) == [[len(NINE_WORDS), len(NINE_WORDS) + 1]]  # Hangul comes apart, too


def test_ids_are_int32() -> None:
    ids = Tokenizer(Vocabulary(NINE_WORDS, lower_case=True)).tokenize(tf.constant(["the drug", ""]))
    assert ids.dtype == tf.int32
    assert ids.row_splits.numpy().tolist() == [0, 2, 2]
