"""Which small changes (mutations) a module can have. The changes are mutmut's; which places count is said here.

A change is left out where it can't change what the module does, or only the wording of a message:

- types (annotations, `Literal`), decorators, `TYPE_CHECKING` blocks, the type in `cast`, docstrings;
- text of several words, which people read and no program;
- `strict=` of `zip`, which states what holds anyway, and the case of an encoding's name;
- the arguments of `len` and `isinstance` as a whole, where every change is a `TypeError`.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

_WORDING = re.compile(r"[a-z'] [a-z]")
_WHOLE_CALLS = m.Call(m.Name("len") | m.Name("isinstance") | m.Name("cast"))
_TYPE = m.Annotation() | m.Subscript(m.Name("Literal"))
_LEFT_OUT = _TYPE | m.Decorator() | m.If(test=m.Name("TYPE_CHECKING"))


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: its path from the project's root.
        place: the function or class that the change is in; empty at the top of the module.
        line: of the change, in the module as it is.
        before, after: the code that changes.
        count: how many such changes of the same code there are before it in the same place.
    """

    module: str
    place: str
    line: int
    before: str
    after: str
    count: int

    @property
    def key(self) -> str:
        """A name for the mutant; it stays the same as long as its place keeps its name and has this code."""
        parts = (self.module, self.place, self.before, self.after, str(self.count))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


class Mutations:
    """All mutants of one module."""

    def __init__(self, root: Path, module: str) -> None:
        """Reads the module.

        Args:
            root: the project's root.
            module: the module's path from there.
        """
        collector = _Collector()
        self._module = MetadataWrapper(cst.parse_module((root / module).read_text(encoding="utf-8"))).visit(collector)
        self._changes: dict[str, tuple[cst.CSTNode, cst.CSTNode]] = {}
        self.mutants: list[Mutant] = []
        seen: Counter[tuple[str, str, str]] = Counter()
        for place, line, node, changed in collector.found:
            before, after = (self._module.code_for_node(one).strip() for one in (node, changed))
            mutant = Mutant(module, place, line, before, after, seen[place, before, after])
            seen[place, before, after] += 1
            self._changes[mutant.key] = node, changed
            self.mutants.append(mutant)

    def source(self, mutant: Mutant) -> str:
        """Returns the module's text with the change."""
        node, changed = self._changes[mutant.key]
        changed_module = self._module.deep_replace(node, changed)
        assert isinstance(changed_module, cst.Module)
        return changed_module.code


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, cst.CSTNode, cst.CSTNode]] = []
        self._names: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, _LEFT_OUT) or _is_strict(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._names.append(node.name.value)
        for changed in _changes(node):
            position = self.get_metadata(PositionProvider, node, None)
            self.found.append((".".join(self._names), position.start.line if position else 0, node, changed))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._names.pop()


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if m.matches(node, _WHOLE_CALLS):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from (changed for changed in operator(node) if _matters(node, changed))


def _matters(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    if isinstance(node, cst.SimpleString) and isinstance(changed, cst.SimpleString):
        return not _WORDING.search(node.value) and _encoding(node.raw_value) != _encoding(changed.raw_value)
    if isinstance(node, cst.Call) and isinstance(changed, cst.Call):
        return all(arg in changed.args for arg in node.args if _is_strict(arg))
    return True


def _is_strict(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict"


def _encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return name
