"""Label maps: they map the labels and headings of corpora to the labels that a model learns."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from model.errors import UserError


def normalize_label(raw: str) -> str:
    """Returns a label as it is learned: composed characters (NFC), single spaces, none around it."""
    return unicodedata.normalize("NFC", " ".join(raw.split()))


def normalize_heading(raw: str) -> str:
    """Returns a label or heading in the form of the maps' keys: casefolded, single spaces, no colon at the end."""
    return " ".join(raw.split()).rstrip(" :").casefold()


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A fixed list of target labels, and the raw labels and headings that map to them.

    Attributes:
        labels: the target labels, in their fixed order. Each also maps to itself.
        targets: from a normalized raw label or heading to its target label.
    """

    labels: tuple[str, ...]
    targets: Mapping[str, str]

    def find(self, raw: str | None) -> str | None:
        """Returns the target label of a raw label or heading, or None if it is not in the map."""
        return None if raw is None else self.targets.get(normalize_heading(raw))

    @classmethod
    def load(cls, path: str) -> LabelMap:
        """Returns the map in a YAML file.

        Raises:
            UserError: the file cannot be read, or is not a label map.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the label map {path}: {error}") from error
        return cls.parse(text, path)

    @classmethod
    def medline(cls) -> LabelMap:
        """Returns the map for MEDLINE section headings that comes with sepline."""
        return cls.load(str(Path(__file__).with_name("medline_labels.yaml")))

    @classmethod
    def parse(cls, text: str, origin: str) -> LabelMap:
        """Returns the map written in `text`; `origin` names it in messages.

        Raises:
            UserError: `text` is not YAML or not a label map.
        """
        try:
            settings = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"label map {origin} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict) or not set(settings) <= {"labels", "map"} or "labels" not in settings:
            raise UserError(f"label map {origin} must have the keys 'labels' and 'map' and no others")
        labels, entries = settings["labels"], settings.get("map") or {}
        if not isinstance(labels, list) or not labels or not all(isinstance(x, str) and x.strip() for x in labels):
            raise UserError(f"label map {origin}: 'labels' must be a list of names; quote names like 'no' or '1'")
        if not isinstance(entries, dict):
            raise UserError(f"label map {origin}: 'map' must hold lines of the form 'raw heading: target label'")
        targets: dict[str, str] = {}
        for raw, target in [*((label, label) for label in labels), *entries.items()]:
            if not isinstance(raw, str):
                raise UserError(f"label map {origin}: the heading {raw!r} in 'map' is not text; put it in quotes")
            if target not in labels:
                raise UserError(f"label map {origin}: {raw!r} maps to {target!r}, which is not in 'labels': {labels}")
            if targets.setdefault(normalize_heading(raw), target) != target:
                raise UserError(f"label map {origin}: {raw!r} is mapped twice, to different labels; keep one of them")
        if len(set(labels)) < len(labels):
            raise UserError(f"label map {origin}: 'labels' names a label twice; keep one of them")
        return cls(tuple(labels), targets)
