"""How corpora are read: the settings that every parser shares."""

from __future__ import annotations

from dataclasses import dataclass, fields

from model.errors import UserError
from pipelines.corpora.formats import FORMATS, QUOTINGS, Quoting, SourceFormat
from pipelines.corpora.labels import LabelMap


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What to read from a source and where to stop.

    Attributes:
        format: of every source; None to detect it from each file's name and content.
        id_column, text_column, sentences_column, labels_column: the columns of tables and the keys of JSON lines.
        quoting: of CSV and TSV: `csv` for fields in double quotes, `none` if a quote is an ordinary character; None
            for `csv` in CSV and `none` in TSV.
        label_map: renames labels; None keeps the labels of JSON lines, PubMed-RCT and tables as they are, and reads
            MEDLINE headings with the map that comes with sepline.
        deletions: True to read the deletions listed in a MEDLINE update file, each as a reject with its own reason.
        max_record_bytes: the longest line, table row or XML record, in bytes.
        max_sentences: the largest number of sentences in a document.
        max_sentence_chars: the longest given sentence, in characters.
        max_text_chars: the longest text that is split into sentences, in characters.

    Raises:
        UserError: a format or quoting that is unknown, a column without a name, or a limit below 1.
    """

    format: SourceFormat | None = None
    id_column: str = "doc_id"
    text_column: str = "text"
    sentences_column: str = "sentences"
    labels_column: str = "labels"
    quoting: Quoting | None = None
    label_map: LabelMap | None = None
    deletions: bool = False
    max_record_bytes: int = 16 * 1024 * 1024
    max_sentences: int = 10_000
    max_sentence_chars: int = 100_000
    max_text_chars: int = 200_000

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise UserError(f"format is {self.format!r}; use one of {', '.join(FORMATS)}")
        if self.quoting is not None and self.quoting not in QUOTINGS:
            raise UserError(f"quoting is {self.quoting!r}; use one of {', '.join(QUOTINGS)}")
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_column") and not value:
                raise UserError(f"{name} is empty; name a column")
            if name.startswith("max_") and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
