"""Label maps: the shipped ones, loading ones of one's own, and what their errors say."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from conftest import PROJECT

from model.errors import UserError
from pipelines.corpora.labels import LabelMap

FIVE = ("background", "objective", "methods", "results", "conclusions")
EXAMPLES = PROJECT / "docs" / "label_maps"


@pytest.mark.parametrize(
    ("heading", "label"),
    [
        ("BACKGROUND", "background"),
        ("Background and  Aims:", "objective"),
        ("AIM", "objective"),
        (" objectives :", "objective"),
        ("MATERIALS AND METHODS", "methods"),
        ("Design, Setting, and Participants", "methods"),
        ("FINDINGS", "results"),
        ("Interpretation", "conclusions"),
        ("CONCLUSIONS AND RELEVANCE", "conclusions"),
        ("LEVEL OF EVIDENCE: 4", "methods"),
        ("METHODS AND RESULTS", None),
        ("ABSTRACT", None),
        ("UNASSIGNED", None),
        ("", None),
        (None, None),
    ],
)
def test_the_map_for_medline(heading: str | None, label: str | None) -> None:
    label_map = LabelMap.medline()
    assert label_map.labels == FIVE
    assert label_map.find(heading) == label


def test_loading_one_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("labels: [B, A]\nmap:\n  first: A\n  FIRST: A\n  Second  one: B\n")
    label_map = LabelMap.load(str(path))
    assert label_map.labels == ("B", "A")
    assert [label_map.find(raw) for raw in ("First:", "second one", "b", "third")] == ["A", "B", "B", None]
    assert pickle.loads(pickle.dumps(label_map)) == label_map


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels: [", "not valid YAML"),
        ("", "must have the keys"),
        ("map: {a: b}", "must have the keys"),
        ("labels: [a]\nmaps: {}", "must have the keys"),
        ("labels: a", "'labels' must be a list"),
        ("labels: []", "'labels' must be a list"),
        ("labels: [no]", "quote names"),
        ("labels: [a, a]", "names a label twice"),
        ("labels: [a, A]", "mapped twice"),
        ("labels: [a]\nmap: [x]", "'map' must hold lines"),
        ("labels: [a]\nmap: {x: b}", "'x' maps to 'b', which is not in 'labels'"),
        ("labels: [a]\nmap: {x: [a]}", "which is not in 'labels'"),
        ("labels: [a]\nmap: {1: a}", "put it in quotes"),
        ("labels: [a, b]\nmap: {x: a, 'X:': b}", "'X:' is mapped twice"),
    ],
)
def test_a_wrong_map_says_what_to_mend(text: str, words: str) -> None:
    with pytest.raises(UserError, match=r"label map m\.yaml") as error:
        LabelMap.parse(text, "m.yaml")
    assert words in str(error.value)


def test_a_map_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the label map .*none\.yaml"):
        LabelMap.load(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("name", "labels", "found"),
    [
        ("pubmed_rct", FIVE, {"OBJECTIVE": "objective", "CONCLUSIONS": "conclusions"}),
        ("nicta_piboso", ("background", "methods", "results", "other"), {"study design": "methods"}),
        ("csabstruct", ("background", "objective", "methods", "results", "other"), {"method": "methods"}),
    ],
)
def test_the_example_maps(name: str, labels: tuple[str, ...], found: dict[str, str]) -> None:
    label_map = LabelMap.load(str(EXAMPLES / f"{name}.yaml"))
    assert label_map.labels == labels
    assert {raw: label_map.find(raw) for raw in found} == found
