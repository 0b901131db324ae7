"""The formats that corpora come in, by name. The command line and the settings import this, so it imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

SourceFormat = Literal["jsonl", "medline", "pubmed_rct", "csv", "tsv", "parquet"]
"""A format that `sepline` reads; `reader.py` says which parser reads it."""

Quoting = Literal["csv", "none"]
"""How fields of CSV and TSV are quoted: with `"`, which is doubled inside, or not at all."""

FORMATS: tuple[SourceFormat, ...] = get_args(SourceFormat)
QUOTINGS: tuple[Quoting, ...] = get_args(Quoting)
