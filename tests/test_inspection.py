"""`sepline inspect` on small files: every figure as a literal, in JSON and on the terminal."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import real_data

from pipelines.cli import main

CORPUS: list[dict[str, Any]] = [
    # 5 wordpieces a sentence: 1 + 6 + 6 = 13 with special tokens
    {
        "doc_id": "a",
        "sentences": ["We used the drug .", "The effect was significant ."],
        "labels": ["METHODS:", "results"],
    },
    # 1 + 3 * 6 = 19: two windows of 16
    {"doc_id": "b", "sentences": ["We used the drug ."] * 3, "labels": ["methods", "methods", "findings"]},
    {"doc_id": "c", "text": "We found the increase."},  # 1 + 6 = 7
    {"doc_id": "a", "text": " we  found\tthe INCREASE. "},  # 7; the id of the first, the text of the third
    {"doc_id": "d", "text": "The " * 19 + "drug."},  # 1 + 22 = 23: one window, truncated
    {"doc_id": "e", "sentences": ["We used the drug ."], "labels": ["aims"]},
    {"doc_id": "f", "text": " "},
    {"text": "We found the increase."},
    {"doc_id": "g", "text": "\u200b"},
]
LABEL_MAP = "labels: [methods, results]\nmap: {findings: results}\n"
MEDLINE = """<?xml version="1.0"?>
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><Abstract>
<AbstractText Label="AIM" NlmCategory="OBJECTIVE">We test the drug.</AbstractText>
<AbstractText Label="LOOKING AHEAD" NlmCategory="UNASSIGNED">The effect was significant. We found it.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>2</PMID><Article><Abstract>
<AbstractText Label="AIM" NlmCategory="OBJECTIVE">We test the drug.</AbstractText>
<AbstractText Label="FINDINGS" NlmCategory="RESULTS">The effect was significant. We found it.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>3</PMID><Article><Abstract>
<AbstractText>We test the drug.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>
</PubmedArticleSet>
"""
NO_REPEATS = {"count": 0, "example": None}


@pytest.fixture
def settings(tiny_encoder: Path) -> list[str]:
    window = ["window.max_tokens=16", "window.context=0"]
    return [flag for setting in (f"encoder.handle={tiny_encoder}", *window) for flag in ("--set", setting)]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def inspected(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_every_figure_of_a_source(tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", CORPUS)
    label_map = tmp_path / "labels.yaml"
    label_map.write_text(LABEL_MAP, encoding="utf-8")
    result = inspected([source, "--label-map", str(label_map), *settings], capsys)
    unknown = "label 0 is 'aims', which the label map does not have"
    figures = {
        "records": 9,
        "documents": 5,
        "rejected": 4,
        "labelled": 2,
        "partly_labelled": 0,
        "unlabelled": 3,
        "sentences": 8,
        "labels": {"methods": 3, "results": 2},
        "lengths": {"mean": 13.8, "median": 13, "p90": 23, "max": 23},  # 7, 7, 13, 19, 23
        "over_budget": 2,
        "over_budget_share": 0.4,
        "windows": 6,
        "truncated": 1,
        "rejects": {
            "no_text": {"count": 2, "source": source, "record_index": 6, "message": "the record has no text"},
            "unknown_label": {"count": 1, "source": source, "record_index": 5, "message": unknown},
            "no_id": {"count": 1, "source": source, "record_index": 7, "message": "the record has no id"},
        },
        "duplicate_ids": {"count": 1, "example": "a"},
        "shared_ids": 2,
        "duplicate_texts": {"count": 1, "example": "a"},
    }
    assert result == {
        "max_tokens": 16,
        "sources": [{"source": source, **figures}],
        "total": {"source": None, **figures},
        "samples": [
            {
                "doc_id": "a",
                "source": source,
                "record_index": 0,
                "sentences": 2,
                "beginning": [["We used the drug .", "methods"], ["The effect was significant .", "results"]],
            },
            {
                "doc_id": "b",
                "source": source,
                "record_index": 1,
                "sentences": 3,
                "beginning": [
                    ["We used the drug .", "methods"],
                    ["We used the drug .", "methods"],
                    ["We used the drug .", "results"],
                ],
            },
            {
                "doc_id": "c",
                "source": source,
                "record_index": 2,
                "sentences": 1,
                "beginning": [["We found the increase.", None]],
            },
        ],
    }


def test_headings_make_documents_labelled_partly_or_not(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.xml.gz"
    source.write_bytes(gzip.compress(MEDLINE.encode()))
    total = inspected([str(source), *settings], capsys)["total"]
    assert (total["labelled"], total["partly_labelled"], total["unlabelled"]) == (1, 1, 1)
    assert total["labels"] == {"results": 2, "objective": 1}  # of the document that can train
    assert total["sentences"] == 7
    assert total["duplicate_texts"] == {"count": 1, "example": "2"}  # headings are no text


def test_sources_apart_and_together(tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    one = {"doc_id": "1", "text": "We found it."}
    first = write_jsonl(tmp_path / "a.jsonl", [one, {"doc_id": "2", "text": "We used it."}])
    second = write_jsonl(tmp_path / "b.jsonl", [one, {"doc_id": "3", "text": "we used it."}, one])
    result = inspected([str(tmp_path / "*.jsonl"), *settings], capsys)
    assert [source["source"] for source in result["sources"]] == [first, second]
    assert [source["records"] for source in [*result["sources"], result["total"]]] == [2, 3, 5]
    ids = [source["duplicate_ids"] for source in [*result["sources"], result["total"]]]
    assert ids == [NO_REPEATS, {"count": 1, "example": "1"}, {"count": 2, "example": "1"}]
    texts = [source["duplicate_texts"] for source in [*result["sources"], result["total"]]]
    assert texts == [NO_REPEATS, {"count": 1, "example": "1"}, {"count": 3, "example": "1"}]
    samples = [(sample["source"], sample["doc_id"]) for sample in result["samples"]]
    assert samples == [(first, "1"), (second, "1"), (first, "2")]


def test_limit_counts_records_of_each_file(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [write_jsonl(tmp_path / name, CORPUS) for name in ("a.jsonl", "b.jsonl")]
    result = inspected([*sources, "--limit", "2", *settings], capsys)
    assert [source["records"] for source in [*result["sources"], result["total"]]] == [2, 2, 4]
    # No map: labels stay as they are.
    assert result["total"]["labels"] == {"methods": 4, "METHODS:": 2, "findings": 2, "results": 2}


def test_batches_change_nothing(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", CORPUS * 3)
    whole = inspected([source, *settings], capsys)
    monkeypatch.setattr("pipelines.inspection.inspect._BATCH_CHARS", 50)
    assert inspected([source, *settings], capsys) == whole


def test_a_source_that_cannot_be_read_comes_last_and_costs_the_exit_code(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    table.write_text("record_id,title,abstract\n1,T,We found it.\n", encoding="utf-8")
    good = write_jsonl(tmp_path / "b.jsonl", [{"doc_id": "1", "text": "We found it."}])
    assert main(["inspect", str(table), good, *settings]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        f"sepline: 1 of 2 sources can't be read as a whole; the first: {table}: there is no column 'doc_id' "
        "(id_column) and no column 'text' (text_column); the columns are 'record_id', 'title', 'abstract'\n"
    )
    assert "document 1\nWe found it.\n" in captured.out
    columns = ["--id-column", "record_id", "--text-column", "abstract"]
    assert inspected([str(table), *columns, *settings], capsys)["total"]["documents"] == 1


def test_the_terminal_shows_figures_rejects_and_samples(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    records = [
        *CORPUS,
        {"doc_id": "[b]x", "sentences": ["We \x1b[2J found\nthe drug " * 9], "labels": ["[bold]"]},
    ]
    first = write_jsonl(tmp_path / "a.jsonl", records[-1:])
    second = write_jsonl(tmp_path / "b.jsonl", records)
    assert main(["inspect", first, second, *settings]) == 0
    captured = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in captured.out.splitlines() if "│" in line]
    assert rows == [
        ["1", "1", "0", "1", "1", "0", "0"],
        ["2", "10", "3", "7", "4", "0", "3"],
        ["all", "11", "3", "8", "5", "0", "3"],
        ["1", "1", "1", "0", "0", "0", "0", "0"],
        ["2", "10", "1", "2", "1", "1", "1", "1"],
        ["all", "11", "2", "2", "1", "1", "1", "1"],
        ["share", "", "25.0%", "25.0%", "12.5%", "12.5%", "12.5%", "12.5%"],
        ["1", "56", "56", "56", "56", "1 (100.0%)", "1", "1"],
        ["2", "19", "13", "56", "56", "3 (42.9%)", "8", "2"],
        ["all", "24", "13", "56", "56", "4 (50.0%)", "9", "3"],
    ]
    lines = captured.out.splitlines()
    assert lines[:2] == [f"1. {first}", f"2. {second}"]
    assert f"rejected, no_text: 2; the first: {second}, record 6: the record has no text" in lines
    assert "documents that repeat an earlier one's id: 2; the first: a" in lines
    assert "documents that repeat an earlier one's text: 2; the first: a" in lines
    place = lines.index("document [b]x")
    assert lines[place + 1].startswith(r"[bold] We \x1b[2J found the drug We ")
    assert len(lines[place + 1]) == 60 and lines[place + 1].endswith("…")
    assert "\x1b" not in captured.out
    assert captured.err == ""


def test_what_cannot_be_inspected_at_all(
    tmp_path: Path, settings: list[str], tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", CORPUS)
    assert main(["inspect", str(tmp_path / "none*"), *settings]) == 2
    assert "no file matches" in capsys.readouterr().err
    assert main(["inspect", source, "--set", f"encoder.handle={tiny_encoder}"]) == 2
    assert "window.max_tokens is 512, but the encoder reads at most 128" in capsys.readouterr().err


def test_a_source_without_documents(tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", CORPUS[-2:])
    total = inspected([source, *settings], capsys)["total"]
    assert (total["records"], total["documents"], total["rejected"], total["windows"]) == (2, 0, 2, 0)
    assert total["lengths"] == {"mean": 0.0, "median": 0, "p90": 0, "max": 0}
    assert main(["inspect", source, *settings]) == 0


def test_real_abstracts(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = real_data("pubmed_20k_rct/dev.txt")
    result = inspected([str(source), "--set", f"encoder.handle={minilm}"], capsys)
    total = result["total"]
    assert (total["records"], total["labelled"], total["sentences"]) == (2500, 2500, 30212)
    assert total["labels"] == {
        "METHODS": 9964,
        "RESULTS": 9841,
        "CONCLUSIONS": 4582,
        "BACKGROUND": 3449,
        "OBJECTIVE": 2376,
    }
    assert (total["over_budget"], total["lengths"]["median"], total["lengths"]["max"]) == (503, 417, 1432)


def test_ids_that_identify_nothing_are_told(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By source: what two files share may be versions of one document."""
    few = write_jsonl(tmp_path / "a.jsonl", [{"doc_id": number % 100, "text": "It is."} for number in range(104)])
    many = write_jsonl(tmp_path / "b.jsonl", [{"doc_id": number % 90, "text": "It is."} for number in range(100)])
    assert main(["inspect", few, many, *settings, "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert [source["shared_ids"] for source in (*result["sources"], result["total"])] == [8, 20, 28]
    assert f"{many}: 20 of 100 documents share their ids" in output.err
    assert few not in output.err


def test_a_row_that_swallowed_others_costs_the_exit_code(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    table.write_text('doc_id,text\n1,"open\nand more\n2,It is.\n', encoding="utf-8")
    assert main(["inspect", str(table), *settings]) == 1
    message = capsys.readouterr().err
    assert "1 of 1 sources can't be read as a whole" in message and "line 2 extends to line 3 (17 bytes)" in message
