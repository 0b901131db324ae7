"""The plan: which room may import which, in one table.

Imports inside functions count; those for type checkers alone (`if TYPE_CHECKING:`) don't.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PROJECT

MAY_IMPORT = {
    "foundation": "",
    "text": "foundation",
    "encoders": "foundation text",
    "classifier": "foundation",
    "bundles": "foundation text",
    "inference": "foundation text classifier bundles",
    "evaluation": "foundation bundles inference",
    "optimization": "foundation bundles inference evaluation",
    "training": "foundation text encoders classifier bundles inference evaluation optimization",
    "storage": "foundation encoders bundles",
    "corpora": "foundation storage",
    "runners": "foundation storage",
    "preprocessing": "foundation text encoders bundles storage corpora runners",
    "scoring": "foundation bundles inference storage corpora runners",
    "retraining": "foundation bundles evaluation training corpora preprocessing",
    "inspection": "foundation text encoders bundles storage corpora preprocessing scoring",
    "terminal": "foundation inference evaluation retraining",
    "demo": "foundation encoders retraining terminal",
    "verbs": "foundation encoders bundles evaluation optimization training storage corpora runners preprocessing "
    "scoring retraining inspection terminal demo",
    "cli": "foundation inference corpora runners verbs",
    "flex_launcher": "foundation bundles runners scoring verbs cli",
}
"""For each room all rooms that it imports, the lowest first.

A room is a folder of `model` or `pipelines`, or a module of `pipelines` beside them. The modules of `model` beside its
folders are one room, the foundation.
"""

MOST_MODULES = 14


@dataclass(frozen=True)
class Import:
    """An import of one of our modules, or of a library, by one of our modules; `late` inside a function."""

    by: str
    of: str
    late: bool


def source_files(root: Path) -> dict[str, Path]:
    """Returns the files of both packages by their modules' names."""
    files = {}
    for package in ("model", "pipelines"):
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def read_imports(files: dict[str, Path]) -> list[Import]:
    """Returns every import of every module."""

    def visit(by: str, nodes: Iterable[ast.AST], *, late: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (Import(by, alias.name, late) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{by}: write imports with the whole name"
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (Import(by, name if name in files else node.module, late) for name in inner)
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                yield from visit(by, node.orelse, late=late)
            else:
                inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(by, ast.iter_child_nodes(node), late=inside)

    return [
        found
        for module, file in files.items()
        for found in visit(module, ast.parse(file.read_text(encoding="utf-8")).body, late=False)
    ]


def room_of(module: str, files: dict[str, Path]) -> str:
    """Returns the room of one of our modules."""
    package, *rest = module.split(".")
    if package == "model" and (not rest or files[f"model.{rest[0]}"].name != "__init__.py"):
        return "foundation"
    return rest[0] if rest else package


def arrows(files: dict[str, Path]) -> dict[tuple[str, str], list[str]]:
    """Returns the imports between rooms, by importing and imported room."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in read_imports(files):
        if one.of.split(".")[0] in ("model", "pipelines"):
            rooms = room_of(one.by, files), room_of(one.of, files)
            if rooms[0] != rooms[1]:
                found.setdefault(rooms, []).append(f"{one.by} imports {one.of}")
    return found


def wrong_arrows(files: dict[str, Path], table: dict[str, str]) -> list[str]:
    """Returns the imports that the table does not allow."""
    return [
        one for (by, of), imports in arrows(files).items() if of not in table.get(by, "").split() for one in imports
    ]


def circle(files: dict[str, Path]) -> list[str]:
    """Returns modules that import each other in a circle while they are loaded; empty if none do."""
    graph: dict[str, set[str]] = {}
    for one in read_imports(files):
        if not one.late and one.of in files and one.of != one.by:
            graph.setdefault(one.by, set()).add(one.of)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def code_of_packages(files: dict[str, Path]) -> list[str]:
    """Returns the statements of `__init__.py` files other than docstrings and the version."""
    found = []
    for module, file in files.items():
        if file.name == "__init__.py":
            body = ast.parse(file.read_text(encoding="utf-8")).body
            for node in body[1:] if ast.get_docstring(ast.Module(body, [])) else body:
                if not ast.unparse(node).startswith("__version__ = "):
                    found.append(f"{module}: {ast.unparse(node)}")
    return found


def full_folders(root: Path) -> list[str]:
    """Returns the folders with too many modules to find one's way, and how many."""
    folders = {file.parent for file in source_files(root).values()}
    counts = {folder: len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) for folder in folders}
    return sorted(f"{folder.relative_to(root)}: {count}" for folder, count in counts.items() if count > MOST_MODULES)


def test_rooms_import_what_the_table_says() -> None:
    files = source_files(PROJECT)
    assert wrong_arrows(files, MAY_IMPORT) == []
    drawn = {(by, of) for by, rooms in MAY_IMPORT.items() for of in rooms.split()}
    assert sorted(drawn - arrows(files).keys()) == [], "arrows of the table that nothing needs"


def test_the_table_has_no_circle() -> None:
    order = graphlib.TopologicalSorter({by: rooms.split() for by, rooms in MAY_IMPORT.items()}).static_order()
    assert set(order) == MAY_IMPORT.keys()


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle(source_files(PROJECT)) == []


def test_packages_hold_no_code_and_folders_few_modules() -> None:
    assert code_of_packages(source_files(PROJECT)) == []
    assert full_folders(PROJECT) == []


def test_model_imports_neither_beam_nor_pipelines() -> None:
    found = read_imports(source_files(PROJECT))
    beam = [one for one in found if one.of.split(".")[0] in ("apache_beam", "pipelines")]
    assert [f"{one.by} imports {one.of}" for one in beam if one.by.split(".")[0] == "model"] == []
    assert any(one.by.startswith("pipelines") for one in beam)


@pytest.fixture
def crooked_plan(tmp_path: Path) -> Path:
    """Two packages with one fault of each kind."""
    sources = {
        "model/__init__.py": '"""Says what it is."""\n__version__ = "1"\n',
        "model/errors.py": "def fail():\n    import pipelines.cli\n",
        "model/text/__init__.py": "from model.text.windowing import plan\n",
        "model/text/windowing.py": "from model.text import vocabulary\nimport model.errors\n",
        "model/text/vocabulary.py": "from model.text.windowing import plan\n",
        "pipelines/__init__.py": "",
        "pipelines/cli.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import model.text.vocabulary\n"
            "from model import errors\n"
        ),
        **{f"pipelines/corpora/m{number}.py": "" for number in range(15)},
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_faults_are_found_and_named(crooked_plan: Path) -> None:
    files = source_files(crooked_plan)
    assert wrong_arrows(files, {"cli": "foundation", "text": ""}) == [
        "model.errors imports pipelines.cli",
        "model.text.windowing imports model.errors",
    ]
    assert set(circle(files)) == {"model.text.windowing", "model.text.vocabulary"}
    assert code_of_packages(files) == ["model.text: from model.text.windowing import plan"]
    assert full_folders(crooked_plan) == ["pipelines/corpora: 15"]


IMPORT_MODEL = """
import importlib, pkgutil, sys
import model
assert not {"tensorflow", "numpy"} & set(sys.modules), "the package itself must cost nothing to import"
names = [module.name for module in pkgutil.walk_packages(model.__path__, "model.")]
for name in names:
    importlib.import_module(name)
print(len(names), sorted(name for name in sys.modules if name.split(".")[0] in ("apache_beam", "pipelines")))
"""


def test_model_never_imports_beam_or_pipelines() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_MODEL], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    files = [file for file in (PROJECT / "model").rglob("*.py") if file != PROJECT / "model" / "__init__.py"]
    assert result.stdout == f"{len(files)} []\n"


IMPORT_LIGHT_MODULES = """
import sys
import model.bundles.training_data, model.config, model.encoders.downloads, model.errors, model.folders
import model.records, model.schema
import model.text.vocabulary, model.text.windowing
import pipelines.retraining.gates, pipelines.retraining.versions, pipelines.terminal
print({"apache_beam", "keras", "sklearn", "tensorflow"} & set(sys.modules))
"""


def test_drivers_parsers_and_tables_need_neither_tensorflow_nor_beam() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_LIGHT_MODULES], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.returncode) == ("set()\n", 0), result.stderr
