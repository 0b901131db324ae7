"""What a person sees of hostile text: every character that the verbs print is looked at, on a terminal and off it."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_documents, write_corpus

from model.bundles.bundle import Bundle, load_bundle
from model.bundles.registry import Registry
from model.progress import ProgressReporter
from pipelines import cli
from pipelines.cli import main

CLEAR, TITLE, CSI, OVERRIDE = "\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\u202e"
HOSTILE = f"{CLEAR}{TITLE}{CSI}\x7f\x08{OVERRIDE}drug\u2066[red]a[/red]:smile:"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m\x7f\x08\u202edrug\u2066[red]a[/red]:smile:"
LABEL = f"{OVERRIDE}\u2066[red]a[/red]:smile:"  # one with control characters is a reject
SHOWN_LABEL = r"\u202e\u2066[red]a[/red]:smile:"
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

OWN = r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r"
"""What rich writes for styles and bars."""

Check = Callable[..., str]


def hostile_characters(text: str) -> set[str]:
    """Returns the characters of a text that a terminal would obey, other than ends of lines and tabs."""
    return {
        char
        for char in text
        if char not in "\n\t"
        and (unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in DIRECTIONS)
    }


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs a command, checks all that it and its processes print, and returns that, standard error last."""

    monkeypatch.setenv("COLUMNS", "400")  # so that tables don't break words

    def run(*arguments: str, code: int = 0, shows: str = SHOWN) -> str:
        assert main(arguments) == code
        captured = capfd.readouterr()
        printed = captured.out + captured.err
        assert hostile_characters(printed) == set()
        assert shows in printed
        return printed

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Documents whose ids, sentences and labels are hostile, and a record without text, in a file of such a name."""
    documents: list[dict[str, Any]] = tiny_documents(40)
    for number, document in enumerate(documents):
        document["doc_id"] = f"{number} {HOSTILE}"
        document["sentences"] = [f"{HOSTILE} {sentence}" for sentence in document["sentences"]]
        document["labels"] = [label if label == "results" else f"{label} {LABEL}" for label in document["labels"]]
    documents += [{"doc_id": "unlabelled", "sentences": ["It is."], "labels": [HOSTILE]}]
    documents += [{"doc_id": f"0 {HOSTILE}", "text": " "}, dict(documents[0])]
    name = HOSTILE.replace("/", "") + ".jsonl"
    return str(write_corpus(tmp_path_factory.mktemp("in"), name, documents))


@pytest.fixture(scope="module")
def records(corpus: str, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / f"records {CLEAR}{OVERRIDE}"
    settings = [f"encoder.handle={tiny_encoder}", "window.max_tokens=128", "data.splits={train: .6, dev: .2, test: .2}"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert main(["preprocess", "--input", corpus, "--output", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with hostile labels."""
    run = tmp_path_factory.mktemp("run") / f"run {CLEAR}{OVERRIDE}"
    assert main(["train", "--data", str(records), "--output", str(run), "--set", "training.epochs=1"]) == 0
    return run / "bundle"


def test_preprocess(corpus: str, records: Path, check: Check) -> None:
    """Its own command is in the fixture; a second one is refused."""
    check("preprocess", "--input", corpus, "--output", str(records), code=2, shows=r"records \x1b[2J\u202e")


def test_inspect_shows_controls_as_escapes(corpus: str, tiny_encoder: Path, check: Check) -> None:
    settings = ["--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=128"]
    printed = check("inspect", corpus, *settings)
    lines = printed.splitlines()
    assert lines[0].endswith(SHOWN.replace("/", "") + ".jsonl")
    assert f"document 0 {SHOWN}" in lines
    assert any(line.startswith("rejected, no_text: 1; the first: ") and r"\x1b[2J" in line for line in lines)
    assert f"documents that repeat an earlier one's id: 1; the first: 0 {SHOWN}" in lines
    assert any(f" {SHOWN_LABEL} ┃" in line for line in lines)  # the head of a column of labels
    assert any(line.startswith("rejected, wrong_type: 1; the first: ") for line in lines)
    written = json.loads(check("inspect", corpus, *settings, "--json", shows=r"\u001b[2J"))
    assert written["samples"][0]["doc_id"] == f"0 {HOSTILE}"


def test_a_terminal_gets_only_the_styles_of_sepline(
    corpus: str, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    settings = ["--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=128"]
    assert main(["inspect", corpus, *settings]) == 0
    captured = capsys.readouterr()
    assert "\x1b[1m" in captured.out and "inspecting" in captured.err  # bold, and a bar
    assert hostile_characters(re.sub(OWN, "", captured.out + captured.err)) == set()
    assert CLEAR not in captured.out and SHOWN in captured.out


def test_train_and_evaluate(records: Path, bundle: Path, tiny_bundle: Bundle, check: Check) -> None:
    again = ["train", "--data", str(records), "--output", str(bundle.parent), "--set", "training.epochs=1"]
    check(*again, shows=r"\x1b[2J\u202e/bundle")
    of_dev = ["--data", str(records), "--split", "dev"]
    check("evaluate", "--model", str(bundle), *of_dev, shows=f"│ methods {SHOWN_LABEL} ")
    check("evaluate", "--model", str(tiny_bundle.path), *of_dev, shows=f"background {SHOWN_LABEL} (")


def test_score(bundle: Path, corpus: str, tmp_path: Path, check: Check) -> None:
    output = str(tmp_path / HOSTILE.replace("/", ""))
    line = ["score", "--model", str(bundle), "--input", corpus, "--output", output]
    check(*line, "--dry-run", shows=" records in ")
    shown = SHOWN.replace("/", "")
    assert f"predictions: {tmp_path}/{shown}\n" in check(*line, shows=shown)
    check(*line, "--json", shows=r"\u001b[2J")
    check(*line, "--limit", "3", code=2, shows=shown)  # another job: its message names the folder


def test_models_show(bundle: Path, tmp_path: Path, check: Check) -> None:
    folder = str(tmp_path / f"models {CLEAR}" / "m")
    version = Registry(folder).add(load_bundle(bundle), why=HOSTILE)
    assert main(["models", "promote", folder, str(version), "--why", HOSTILE]) == 0
    for action in ("list", "show"):
        check("models", action, folder)
    check("models", "rollback", folder, code=2, shows=r"models \x1b[2J")


@pytest.mark.parametrize(
    "arguments", [["inspect", f"{CLEAR}.jsonl"], ["score", "--model", CLEAR, "--input", "a", "--output", "b"]]
)
def test_mistakes(arguments: list[str], check: Check) -> None:
    check(*arguments, code=2, shows=r"\x1b[2J")


def test_an_unknown_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "a", f"--{HOSTILE}"])
    message = capsys.readouterr().err
    assert hostile_characters(message) == set() and f"--{SHOWN}" in message


def test_a_file_name_that_is_not_text(tmp_path: Path, check: Check) -> None:
    check("inspect", str(tmp_path / "a\udcff.jsonl"), code=2, shows=r"a\udcff.jsonl")


def test_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as end:
        cli.run()
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert hostile_characters(message) == set() and message.endswith(f"RuntimeError: {SHOWN}\n")


def test_what_is_written_while_a_bar_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich would take escape sequences in it for styles and links."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    streams = sys.stdout, sys.stderr
    with ProgressReporter(HOSTILE, total=2, unit="steps") as progress:
        progress.update(done=1, note=HOSTILE)
        print(f"{HOSTILE}\x1b]8;;https://example.org\x1b\\link", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == streams
    printed = capsys.readouterr().err
    assert printed.count(r"\x1b]0;title\x07") >= 3 and r"\x1b]8;;https://example.org\x1b\link" in printed
    assert hostile_characters(re.sub(OWN, "", printed)) == set()
    assert CLEAR not in printed
