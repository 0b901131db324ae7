"""An encoder's wordpieces and special tokens. Needs no TensorFlow, since drivers use it too."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from model.errors import UserError

MOST_BYTES_PER_WORD = 100
"""A longer word is `[UNK]`."""
OUTLIERS = (10, 600)
"""A sentence of at most so many characters, or of at least so many, is masked if outliers are."""
PLACEHOLDER = "BADSENTENCE"
"""What the paper's code puts in the place of an outlier."""


@dataclass(frozen=True)
class Vocabulary:
    """An encoder's wordpieces and casing.

    Attributes:
        pieces: the wordpieces; a piece's position is its id.
        lower_case: True for uncased encoders, whose text is also stripped of accents.
    """

    pieces: tuple[str, ...]
    lower_case: bool

    def __post_init__(self) -> None:
        missing = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in self.pieces]
        if missing:
            raise UserError(f"the encoder's vocabulary has no {', '.join(missing)}; sepline needs a BERT vocabulary")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self.pieces)}

    @property
    def pad_id(self) -> int:
        return self._ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        return self._ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        return self._ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        return self._ids["[SEP]"]

    @property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens that the vocabulary has."""
        return {
            piece: self._ids[piece] for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if piece in self._ids
        }

    @property
    def text(self) -> str:
        """The pieces as a `vocab.txt`, one per line."""
        return "".join(f"{piece}\n" for piece in self.pieces)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the pieces, in order, and the casing."""
        return hashlib.sha256(f"{self.text}lower_case={self.lower_case}".encode()).hexdigest()

    @classmethod
    def from_text(cls, text: str, *, lower_case: bool | None) -> Vocabulary:
        """Returns the vocabulary of a `vocab.txt`.

        Args:
            text: the content of the file.
            lower_case: None to infer the casing from the pieces, if the encoder does not state it.

        Raises:
            UserError: a special token is missing.
        """
        pieces = tuple(text.removesuffix("\n").split("\n"))
        return cls(pieces, lower_case=has_no_capitals(pieces) if lower_case is None else lower_case)


def has_no_capitals(pieces: Sequence[str]) -> bool:
    """Returns True if no single capital letter is a wordpiece, as in vocabularies of lower-cased text.

    A cased vocabulary needs them to spell unknown words.
    """
    return not set(string.ascii_uppercase) & set(pieces)
