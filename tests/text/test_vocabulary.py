"""Vocabularies: ids, the special tokens that they must have, and how `vocab.txt` is read."""

from __future__ import annotations

import hashlib

import pytest

from model.errors import UserError
from model.text.vocabulary import Vocabulary, has_no_capitals

PIECES = ("a", "[PAD]", "b", "[UNK]", "[CLS]", "##c", "[SEP]")


def test_a_piece_stands_at_its_id() -> None:
    vocabulary = Vocabulary(PIECES, lower_case=True)
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id) == (1, 3, 4, 6)
    assert vocabulary.special_ids == {"[PAD]": 1, "[UNK]": 3, "[CLS]": 4, "[SEP]": 6}
    with_mask = Vocabulary((*PIECES, "[MASK]", "[unused]"), lower_case=True)
    assert with_mask.special_ids == {"[PAD]": 1, "[UNK]": 3, "[CLS]": 4, "[SEP]": 6, "[MASK]": 7}


@pytest.mark.parametrize("missing", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_every_special_token_is_needed(missing: str) -> None:
    pieces = tuple(piece for piece in PIECES if piece != missing)
    with pytest.raises(UserError) as caught:
        Vocabulary(pieces, lower_case=True)
    assert str(caught.value).startswith(f"the encoder's vocabulary has no {missing}; ")


def test_all_missing_tokens_are_named() -> None:
    with pytest.raises(UserError, match=r"has no \[PAD\], \[SEP\];"):
        Vocabulary(("[CLS]", "[UNK]"), lower_case=True)


def test_text_and_back() -> None:
    text = "a\n[PAD]\nb\n[UNK]\n[CLS]\n##c\n[SEP]\n"
    assert Vocabulary(PIECES, lower_case=True).text == text
    for given in (text, text.removesuffix("\n")):
        assert Vocabulary.from_text(given, lower_case=False) == Vocabulary(PIECES, lower_case=False)
    assert Vocabulary.from_text(f"{text}\n", lower_case=True).pieces == (*PIECES, "")  # ids count every line


def test_the_pieces_tell_the_casing_where_nothing_else_does() -> None:
    text = Vocabulary(PIECES, lower_case=True).text
    assert Vocabulary.from_text(text, lower_case=None).lower_case is True
    assert Vocabulary.from_text(f"{text}Z\n", lower_case=None).lower_case is False
    assert Vocabulary.from_text(f"{text}Z\n", lower_case=True).lower_case is True
    assert Vocabulary.from_text(text, lower_case=False).lower_case is False
    # Capitals in special tokens and inside of pieces say nothing.
    assert has_no_capitals(("[PAD]", "DNA", "##A", "\u00c4", "a"))
    assert not has_no_capitals(("a", "A"))


def test_the_fingerprint_is_of_pieces_order_and_casing() -> None:
    content = "a\n[PAD]\nb\n[UNK]\n[CLS]\n##c\n[SEP]\nlower_case=True"
    vocabulary = Vocabulary(PIECES, lower_case=True)
    assert vocabulary.fingerprint == hashlib.sha256(content.encode()).hexdigest()
    others = (Vocabulary(PIECES, lower_case=False), Vocabulary(PIECES[::-1], lower_case=True))
    assert len({vocabulary.fingerprint, *(other.fingerprint for other in others)}) == 3
