"""An encoder's wordpieces and special tokens. No TensorFlow: drivers read it too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from model.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """An encoder's wordpieces and how its tokenizer was set.

    Attributes:
        pieces: the wordpieces; a piece's position is its id.
        lower_case: True for uncased encoders, which also lose their accents.
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
    def text(self) -> str:
        """The pieces as a `vocab.txt`, one a line."""
        return "".join(f"{piece}\n" for piece in self.pieces)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the pieces in order and of the casing."""
        return hashlib.sha256(f"{self.text}lower_case={self.lower_case}".encode()).hexdigest()

    @classmethod
    def from_text(cls, text: str, *, lower_case: bool) -> Vocabulary:
        """Returns the vocabulary of a `vocab.txt`.

        Raises:
            UserError: a special token is missing.
        """
        return cls(tuple(text.removesuffix("\n").split("\n")), lower_case=lower_case)
