"""Every command in the documents runs here, or its block says in a comment before it why it does not.

`<!-- run by: tests/FILE.py::TEST -->` names the test that runs it, `<!-- needs: WHAT -->` says what a test can't have.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from conftest import PROJECT, tiny_documents
from support.small_downloads import write_downloads, write_medline
from test_docs import PAGES

from model.bundles.bundle import Bundle, write_bundle
from model.bundles.registry import Registry
from model.config import Settings, WindowSettings, load_settings
from model.records import Document
from model.text.vocabulary import Vocabulary
from pipelines.cli import build_parser, main
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import read_records
from pipelines.retraining.settings import load_retrain_settings
from pipelines.runners.options import beam_options

_BLOCK = re.compile(r"^(?:<!-- (needs|run by): ([^\n]+) -->\n)?( *)```(\w*)\n(.*?)^\3```$", re.MULTILINE | re.DOTALL)
LAUNCHER = f"--job_server_java_launcher={sys.executable}"
"""A program that exists, in place of Java, which not every machine has."""
SHELL = ("sh", "bash", "console")
DATA = ("json", "yaml", "mermaid")
RUN_ELSEWHERE = {"sepline demo": "tests/test_demo.py::test_make_demo"}
"""Single commands of blocks that run here."""
EXIT_CODES = {"sepline retrain --config runner_configs/retrain.yaml --explain": 12}
"""Other than 0: there are fewer documents here than these settings ask for."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        place: page and line, for messages.
        language: as the fence says; empty for output and pictures.
        text: what stands between the fences.
        needs, run_by: what a comment right before it says, if anything.
    """

    place: str
    language: str
    text: str
    needs: str | None
    run_by: str | None

    @property
    def runs_here(self) -> bool:
        return self.needs is None and self.run_by is None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, each on one line and without comments."""
        joined = self.text.replace("\\\n", " ")
        stripped = (re.sub(r"(^|\s)#\s.*", "", line).strip() for line in joined.splitlines())
        return [" ".join(command.split()) for command in stripped if command]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        kind, said, _, language, body = match.groups()
        line = text.count("\n", 0, match.start(4)) + 1
        needs, run_by = (said if kind == name else None for name in ("needs", "run by"))
        found.append(Block(f"{page.name}:{line}", language, body, needs, run_by))
    return found


def all_blocks(*languages: str) -> Iterator[Block]:
    return (block for page in PAGES for block in blocks(page) if block.language in languages)


def test_blocks_and_their_marks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Words.\n```sh\n# All of it.\nsepline demo   # now\nmake \\\n  demo\n```\n\n<!-- needs: an account -->\n```sh\n"
        "gcloud x\n```\n<!-- run by: tests/a.py::test_b -->\n```python\n1\n```\n```\nsaid\n```\n",
        encoding="utf-8",
    )
    first, second, third, last = blocks(page)
    assert (first.place, first.commands, first.runs_here) == ("page.md:2", ["sepline demo", "make demo"], True)
    assert (second.needs, second.run_by, second.commands) == ("an account", None, ["gcloud x"])
    assert (third.needs, third.run_by, third.language) == (None, "tests/a.py::test_b", "python")
    assert (last.language, last.text) == ("", "said\n")


def test_every_block_says_what_it_is() -> None:
    """One without a language is what a program prints or what a folder holds; its commands would never run."""
    for block in (block for page in PAGES for block in blocks(page)):
        assert block.language in (*SHELL, *DATA, "python", "sql", ""), block.place
        if not block.language:
            program = re.match(r"(?:sepline|make|pip|python|docker|git) ", block.text)
            assert program is None, f"{block.place}: commands; call the block sh"


def test_the_tests_that_blocks_name_exist() -> None:
    for named in [*(block.run_by for page in PAGES for block in blocks(page)), *RUN_ELSEWHERE.values()]:
        if named is not None:
            file, _, test = named.partition("::")
            assert f"\ndef {test}(" in (PROJECT / file).read_text(encoding="utf-8"), named


def test_the_targets_of_make_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^([\w./ %-]+):(?!=)", makefile, re.MULTILINE) for name in line.split()}
    named = {target for page in PAGES for target in re.findall(r"`make ([\w./-]+)`", page.read_text(encoding="utf-8"))}
    named |= {
        command.split()[1] for block in all_blocks(*SHELL) for command in block.commands if command[:5] == "make "
    }
    assert named - targets == set() and len(named) >= 7


def test_commands_that_no_test_can_run_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their flags exist, the project's and Beam's; a copy of a shipped configuration stands for the user's."""
    shutil.copytree(PROJECT / "runner_configs", tmp_path / "runner_configs")
    for file in (PROJECT / "runner_configs").glob("*.yaml"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    parsed = 0
    for block in all_blocks(*SHELL):
        for command in block.commands:
            if block.needs is None or not command.startswith("sepline "):
                continue
            arguments, _, flags = command.removeprefix("sepline ").partition(" -- ")
            options = build_parser().parse_args(shlex.split(arguments))
            if options.takes_beam_flags:
                beam_options(options.runner_config, [LAUNCHER, *shlex.split(flags)])
            parsed += 1
    assert parsed >= 4


def test_settings_that_are_named_exist() -> None:
    """`N` in them stands for a number."""
    named = {text for page in PAGES for text in re.findall(r"--set (\w+\.[\w.]+=[^`\s]+)", page.read_text("utf-8"))}
    assert len(named) >= 9
    for text in named:
        override = re.sub(r"=N$", "=2", text)
        if override.partition(".")[0] in Settings.model_fields:
            load_settings(None, [override])
        else:
            load_retrain_settings(str(PROJECT / "runner_configs" / "retrain.yaml"), [override])


def test_examples_of_corpora_and_label_maps_are_read() -> None:
    kinds = set()
    for block in (block for block in all_blocks("json", "yaml") if block.run_by is None):
        kinds.add(block.language)
        if block.language == "yaml":
            assert LabelMap.parse(block.text, block.place).targets
        else:
            for document in read_records(io.BytesIO(block.text.encode()), "corpus.jsonl", ReadOptions()):
                assert isinstance(document, Document), block.place
                assert document.labels is not None and len(document.labels) == len(document.sentences), block.place
    assert kinds == {"json", "yaml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands find in a user's: corpora, a registry, the shipped configurations."""
    folder = tmp_path_factory.mktemp("user")
    write_downloads(folder / "cache", layers=1)
    (folder / "runner_configs").symlink_to(PROJECT / "runner_configs")
    lines = "".join(json.dumps(document) + "\n" for document in tiny_documents(20))
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")
    write_medline(folder / "medline" / "pubmed26n0001.xml.gz", labelled=range(60), unlabelled=range(60, 70))
    write_medline(folder / "medline" / "baseline" / "pubmed26n0001.xml.gz", labelled=range(550))
    write_medline(folder / "medline" / "updatefiles" / "pubmed26n0002.xml.gz", labelled=range(550, 600))
    with open(folder / "abstracts.csv", "w", encoding="utf-8", newline="") as table:
        rows = [(str(number), f"We measured group {number}. It was found.") for number in range(12)]
        csv.writer(table).writerows([("record_id", "abstract"), *rows])
    registry = Registry(folder / "registry" / "medline")
    for number in range(1, 9):
        registry.promote(registry.add(version(folder / "trained" / str(number), number), why="test"), why="test")
    return folder


def version(folder: Path, number: int) -> Bundle:
    """Returns a bundle whose model nobody runs."""
    vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]"), lower_case=True)

    def export(folder: Path) -> None:
        (folder / "saved_model.pb").write_bytes(b"opaque")

    return write_bundle(
        folder,
        export,
        labels=("a", "b"),
        window=WindowSettings(),
        vocabulary=vocabulary,
        facts={"number": number},
    )


def run(command: str, folder: Path) -> int:
    """Runs a command in the folder, one of this program in this process and any other in a shell."""
    words = shlex.split(command)
    if words[0] == "sepline" and not re.search(r"[|$<>;&]", command):
        return main(words[1:])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, check=False).returncode


@pytest.mark.engines
def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, as they stand; what one command makes, the next ones of the page find. The README comes first."""
    monkeypatch.setenv("SEPLINE_CACHE", str(folder / "cache"))
    done = []
    with contextlib.chdir(folder):
        for page in PAGES:
            shutil.rmtree("scored", ignore_errors=True)
            for block in (block for block in blocks(page) if block.runs_here):
                if block.language in SHELL:
                    for command in block.commands:
                        if command not in RUN_ELSEWHERE:
                            assert run(command, folder) == EXIT_CODES.get(command, 0), f"{block.place}: {command}"
                            done.append(command)
                elif block.language == "python":
                    exec(compile(block.text, block.place, "exec"), {})
                elif block.language == "sql":
                    duckdb.sql(block.text).fetchall()
            for query in re.findall(r"`(SELECT [^`]+)`", page.read_text(encoding="utf-8")):
                assert duckdb.sql(query).fetchall(), f"{page.name}: {query}"
    assert len(done) >= 13
