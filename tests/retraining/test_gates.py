"""The checks of the data and the gates of the model, one limit after the other, without training anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.evaluation.bootstrap import Comparison, Interval, SliceComparison
from model.evaluation.metrics import LabelMetrics, Metrics
from model.folders import write_json
from pipelines.retraining.data_checks import compare_profiles
from pipelines.retraining.drift import Profile
from pipelines.retraining.figures import ChampionFigures, Evaluation, ModelFigures
from pipelines.retraining.gates import apply_gates
from pipelines.retraining.settings import ChecksSection, GatesSection
from pipelines.retraining.verdicts import Checks, Decision, Verdict, at_least, at_most
from pipelines.retraining.workspace import read_json_as


def profile(**changes: Any) -> Profile:
    stats: dict[str, Any] = {
        "label_counts": {"train": {"a": 600, "b": 400}},
        "document_lengths": {"train": {"100": 100, "200": 100}},
        "document_sentences": {"train": {"5": 200}},
        "lengths": {"mean_tokens": 150.0, "mean_sentences": 5.0},
        "vocabulary": {"train": {"tokens": 30_000, "unknown": 30}},
        "counts": {
            "records": 1000,
            "rejects": {"no_text": 100},
            "documents": {"train": 200, "dev": 30, "test": 60},
            "duplicates_dropped": 2,
        },
    }
    counts = stats["counts"] | changes.pop("counts", {})
    return Profile(stats | {"counts": counts} | changes, {"the": 20_000, "cell": 9_970, "[UNK]": 30})


def verdicts_of_data(now: Profile, champion: Profile | None, **settings: Any) -> dict[str, tuple[str, str]]:
    found = compare_profiles(now, champion, settings=ChecksSection(**settings), held_out="test", expected_labels=None)
    return {one.name: (one.verdict, one.words) for one in found}


def test_good_data_pass_and_without_a_champion_some_checks_are_skipped() -> None:
    assert {verdict for verdict, _ in verdicts_of_data(profile(), profile()).values()} == {"pass"}
    first = verdicts_of_data(profile(), None)
    assert {name for name, (verdict, _) in first.items() if verdict == "skipped"} == {
        "labels",
        "reject_rise",
        "label_drift",
        "length_drift",
        "sentences_drift",
        "vocabulary_drift",
    }


@pytest.mark.parametrize(
    ("now", "failing", "words"),
    [
        (profile(label_counts={"train": {"a": 1000}}), {"labels", "label_drift"}, "b missing"),
        (profile(label_counts={"train": {"a": 600, "b": 399, "c": 1}}), {"labels"}, "c new"),
        (profile(label_counts={"train": {"a": 400, "b": 600}}), {"label_drift"}, "a -20.0%"),
        (profile(counts={"documents": {"train": 99, "test": 60}}), {"train_documents"}, "99 documents to train on"),
        (profile(counts={"documents": {"train": 200}}), {"held_out_documents"}, "0 documents to judge"),
        (profile(counts={"rejects": {"broken_source": 1}}), {"broken_sources"}, "1 files"),
        (profile(counts={"rejects": {"wrong_type": 11}}), {"damaged_records"}, "wrong_type 1.10%"),
        (profile(counts={"rejects": {"no_text": 201}}), {"reject_rise"}, "no_text: 20.10% of the records, +10.10%"),
        (profile(counts={"duplicates_dropped": 30}), {"duplicates"}, "30 train documents"),
        (profile(vocabulary={"train": {"tokens": 100, "unknown": 3}}), {"unknown_wordpieces"}, "3.00%"),
        (profile(document_lengths={"train": {"50": 100, "200": 100}}), {"length_drift"}, "distance 0.7071"),
        (profile(document_sentences={"train": {"9": 200}}), {"sentences_drift"}, "distance 1.0000"),
    ],
)
def test_every_check_fails_for_its_own_reason(now: Profile, failing: set[str], words: str) -> None:
    found = verdicts_of_data(now, profile())
    assert {name for name, (verdict, _) in found.items() if verdict == "fail"} == failing
    assert any(words in said for name, (_, said) in found.items() if name in failing), found


def test_a_check_without_a_limit_is_skipped() -> None:
    now = profile(label_counts={"train": {"a": 1000}})
    found = verdicts_of_data(now, profile(), same_labels=False, max_label_drift=None)
    assert found["labels"][0] == found["label_drift"][0] == "skipped"


def model(accuracy: float, *, speed: float = 100.0) -> ModelFigures:
    labels = {
        "a": LabelMetrics(accuracy, accuracy, accuracy, 700),
        "b": LabelMetrics(accuracy, accuracy, accuracy, 300),
    }
    metrics = Metrics(100, 1000, accuracy, accuracy, accuracy, 0.05, labels, confusion=[[700, 0], [0, 300]])
    return ModelFigures("f", metrics, size_mb=90.0, speed=speed)


def evaluation(candidate: ModelFigures, *, low: float = 0.001, when_published: float = 0.81) -> Evaluation:
    interval = Interval(difference=low + 0.01, low=low, high=low + 0.02)
    champion = model(0.8)
    return Evaluation(
        split="test",
        documents=100,
        sentences=1000,
        candidate=candidate,
        champion=ChampionFigures(**vars(champion), version=6, accuracy_when_published=when_published),
        comparison=Comparison(100, 2000, 0.95, accuracy=interval, macro_f1=interval),
        slices=(SliceComparison("26", 80, 0.8, 0.82),),
    )


def verdicts_of_model(found: Evaluation, **settings: Any) -> dict[str, tuple[str, str]]:
    return {one.name: (one.verdict, one.words) for one in apply_gates(found, GatesSection(**settings)).verdicts}


def test_a_better_model_passes_every_gate() -> None:
    found = verdicts_of_model(evaluation(model(0.82)), max_size_mb=100, min_speed=50)
    assert {verdict for verdict, _ in found.values()} == {"pass"}
    assert "0.8200 against version 6's 0.8000" in found["champion.accuracy"][1]
    assert "95% interval +0.0010 to +0.0210" in found["champion.accuracy"][1]


def test_the_first_model_needs_only_the_absolute_gates() -> None:
    found = verdicts_of_model(replace(evaluation(model(0.7)), champion=None, comparison=None, slices=()))
    assert {name for name, (verdict, _) in found.items() if verdict == "pass"} == {
        "accuracy",
        "f1.a",
        "f1.b",
        "calibration",
    }
    assert "fail" not in {verdict for verdict, _ in found.values()}


@pytest.mark.parametrize(
    ("found", "settings", "failing"),
    [
        (evaluation(model(0.59)), {}, {"accuracy"}),
        (evaluation(model(0.82)), {"min_label_f1": 0.83}, {"f1.a", "f1.b"}),
        (evaluation(model(0.82)), {"min_label_f1": {"b": 0.83}}, {"f1.b"}),
        (evaluation(model(0.82), low=-0.0101), {}, {"champion.accuracy"}),
        (evaluation(model(0.82), low=-0.0301), {"margin": 0.04}, {"champion.macro_f1"}),
        (evaluation(model(0.82), low=-0.01), {}, set()),
        (evaluation(model(0.82), low=-0.2), {"margin": None, "margin_macro_f1": None}, set()),
        (evaluation(model(0.82), when_published=0.86), {}, {"champion.fall"}),
        (evaluation(model(0.82)), {"max_slice_drop": 0.01}, {"slice.26"}),
        (evaluation(model(0.82)), {"max_slice_drop": 0.01, "min_slice_documents": 81}, set()),
        (evaluation(model(0.82)), {"max_calibration_error": 0.04}, {"calibration"}),
        (evaluation(model(0.82)), {"max_size_mb": 80}, {"size"}),
        (evaluation(model(0.82)), {"min_speed": 101}, {"speed"}),
        (evaluation(model(0.82, speed=49.0)), {}, {"relative_speed"}),
    ],
)
def test_every_gate_fails_for_its_own_reason(found: Evaluation, settings: dict[str, Any], failing: set[str]) -> None:
    verdicts = verdicts_of_model(found, **settings)
    assert {name for name, (verdict, _) in verdicts.items() if verdict == "fail"} == failing


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    whole = evaluation(model(0.82))
    for number, found in enumerate((whole, replace(whole, champion=None, comparison=None, slices=()))):
        write_json(tmp_path / f"{number}.json", found.to_json())
        assert read_json_as(Evaluation, tmp_path / f"{number}.json") == found
    checks = Checks(7, {"records": 9}, (Verdict("train_documents", 99, 100, "fail", "99 documents"),))
    write_json(tmp_path / "checks.json", checks.to_json())
    again = read_json_as(Checks, tmp_path / "checks.json")
    assert again == checks and json.dumps(again.to_json()) == json.dumps(json.loads(CHECKS_JSON))
    assert read_json_as(Checks, tmp_path / "other.json") is None


CHECKS_JSON = """
{"new_documents": 7, "counts": {"records": 9},
 "verdicts": [{"name": "train_documents", "measured": 99, "limit": 100, "verdict": "fail", "words": "99 documents"}],
 "failures": "train_documents: 99 documents"}
"""


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "decision.json", {"verdicts": [{"name": "accuracy", "verdict": "perhaps"}]})
    with pytest.raises(UserError, match=r"decision.json: .*verdicts.0.measured"):
        read_json_as(Decision, tmp_path / "decision.json")


def test_the_reason_is_made_of_the_failures() -> None:
    decision = apply_gates(evaluation(model(0.59, speed=49.0)), GatesSection(min_label_f1=0.6))
    assert decision.failures == (
        "accuracy: 0.5900 of 1,000 sentences; f1.a: F1 0.5900 of a, 700 sentences; "
        "f1.b: F1 0.5900 of b, 300 sentences; relative_speed: 0.49 times the champion's"
    )
    assert decision.to_json()["failures"] == decision.failures


def uneven(*, accuracy: float, calibration_error: float | None, size_mb: float, speed: float) -> ModelFigures:
    """Returns figures that all differ, of a model whose third label no held-out sentence has."""
    labels = {
        "a": LabelMetrics(0.1, 0.2, 0.71, 7000),
        "b": LabelMetrics(0.1, 0.2, 0.52, 3000),
        "c": LabelMetrics(0.0, 0.0, 0.0, 0),
    }
    metrics = Metrics(100, 10_000, accuracy, accuracy - 0.1, 0.9, calibration_error, labels, confusion=[])
    return ModelFigures("f", metrics, size_mb=size_mb, speed=speed)


CANDIDATE = uneven(accuracy=0.82, calibration_error=0.07, size_mb=91.26, speed=1234.5)
COMPARED = Evaluation(
    split="test",
    documents=100,
    sentences=10_000,
    candidate=CANDIDATE,
    champion=ChampionFigures(
        **vars(uneven(accuracy=0.81, calibration_error=0.01, size_mb=80.0, speed=617.25)),
        version=6,
        accuracy_when_published=0.85,
    ),
    comparison=Comparison(100, 2000, 0.9, accuracy=Interval(0.01, -0.02, 0.04), macro_f1=Interval(0.011, 0.002, 0.03)),
    slices=(SliceComparison("25", 49, 0.5, 0.9), SliceComparison("26", 1050, 0.8, 0.825)),
)
SETTINGS = GatesSection(
    min_label_f1={"b": 0.6, "c": 0.1},
    margin=0.03,
    margin_macro_f1=0.001,
    max_champion_fall=0.03,
    max_slice_drop=0.02,
    max_size_mb=91,
    min_speed=1200,
    min_relative_speed=2.5,
)


def test_every_row_beside_a_champion() -> None:
    found = apply_gates(COMPARED, SETTINGS).verdicts
    assert [replace(one, measured=None) for one in found] == [
        Verdict("accuracy", None, 0.6, "pass", "0.8200 of 10,000 sentences"),
        Verdict("f1.a", None, None, "skipped", "F1 0.7100 of a, 7,000 sentences"),
        Verdict("f1.b", None, 0.6, "fail", "F1 0.5200 of b, 3,000 sentences"),
        Verdict("f1.c", None, 0.1, "skipped", "no held-out sentence is c"),
        Verdict(
            "champion.accuracy",
            None,
            -0.03,
            "pass",
            "0.8200 against version 6's 0.8100: +0.0100, 90% interval -0.0200 to +0.0400",
        ),
        Verdict(
            "champion.macro_f1",
            None,
            -0.001,
            "pass",
            "0.7200 against version 6's 0.7100: +0.0110, 90% interval +0.0020 to +0.0300",
        ),
        Verdict(
            "champion.fall", None, 0.03, "fail", "the champion's own accuracy is 0.8100, -0.0400 since it was published"
        ),
        Verdict("slice.25", None, 0.02, "skipped", "0.5000 against 0.9000 on 49 documents, too few to tell"),
        Verdict("slice.26", None, 0.02, "fail", "0.8000 against 0.8250 on 1,050 documents"),
        Verdict("calibration", None, 0.1, "pass", "confidence and accuracy differ by 0.0700"),
        Verdict("size", None, 91, "fail", "91.3 MB"),
        Verdict("speed", None, 1200, "pass", "1,234 sentences a second"),
        Verdict("relative_speed", None, 2.5, "fail", "2.00 times the champion's"),
    ]
    measured = {one.name: one.measured for one in found}
    assert measured["f1.c"] is measured["slice.25"] is None
    assert [measured[name] for name in ("accuracy", "f1.a", "f1.b", "size", "speed")] == [
        0.82,
        0.71,
        0.52,
        91.26,
        1234.5,
    ]
    assert (measured["champion.accuracy"], measured["champion.macro_f1"]) == (-0.02, 0.002)
    assert measured["champion.fall"] == pytest.approx(0.04)
    assert measured["slice.26"] == pytest.approx(0.025)
    assert (measured["calibration"], measured["relative_speed"]) == (0.07, 2.0)


def test_every_row_without_a_champion() -> None:
    candidate = uneven(accuracy=0.5, calibration_error=None, size_mb=90.0, speed=10.0)
    found = apply_gates(
        replace(COMPARED, candidate=candidate, champion=None, comparison=None, slices=()),
        GatesSection(min_label_f1=0.6, margin=None),
    ).verdicts
    nothing = "no champion to compare with"
    assert found == (
        Verdict("accuracy", 0.5, 0.6, "fail", "0.5000 of 10,000 sentences"),
        Verdict("f1.a", 0.71, 0.6, "pass", "F1 0.7100 of a, 7,000 sentences"),
        Verdict("f1.b", 0.52, 0.6, "fail", "F1 0.5200 of b, 3,000 sentences"),
        Verdict("f1.c", None, 0.6, "skipped", "no held-out sentence is c"),
        Verdict("champion.accuracy", None, None, "skipped", nothing),
        Verdict("champion.macro_f1", None, -0.03, "skipped", nothing),
        Verdict("champion.fall", None, 0.05, "skipped", nothing),
        Verdict("calibration", None, 0.1, "skipped", "not measured"),
        Verdict("size", 90.0, None, "skipped", "90.0 MB"),
        Verdict("speed", 10.0, None, "skipped", "10 sentences a second"),
        Verdict("relative_speed", None, 0.5, "skipped", nothing),
    )


def test_a_champion_of_which_nothing_is_recorded() -> None:
    assert COMPARED.champion is not None
    champion = replace(COMPARED.champion, accuracy_when_published=None)
    (fall,) = (
        one
        for one in apply_gates(replace(COMPARED, champion=champion), SETTINGS).verdicts
        if one.name == "champion.fall"
    )
    assert fall == Verdict("champion.fall", None, 0.03, "skipped", "its accuracy when published is not recorded")


@pytest.mark.parametrize(
    ("judge", "measured", "limit", "verdict"),
    [
        (at_least, 0.3, 0.3, "pass"),
        (at_least, 0.1 + 0.2, 0.3, "pass"),
        (at_least, 0.3 - 5e-13, 0.3, "pass"),
        (at_least, 0.3 - 5e-12, 0.3, "fail"),
        (at_least, 2, 1, "pass"),
        (at_least, 1, 2, "fail"),
        (at_most, 0.3, 0.1 + 0.2, "pass"),
        (at_most, 0.3 + 5e-13, 0.3, "pass"),
        (at_most, 0.3 + 5e-12, 0.3, "fail"),
        (at_most, 1, 2, "pass"),
        (at_most, 2, 1, "fail"),
        (at_most, -2, -1, "pass"),
        (at_least, None, 1, "skipped"),
        (at_most, 1, None, "skipped"),
        (at_most, 0, 0, "pass"),
    ],
)
def test_limits_count_as_kept(judge: Any, measured: float | None, limit: float | None, verdict: str) -> None:
    assert judge("n", measured, limit, "w") == Verdict("n", measured, limit, verdict, "w")  # type: ignore[arg-type]


def test_failures_are_listed_with_their_names() -> None:
    rows = tuple(at_most(name, measured, 1, f"{name} it is") for name, measured in (("a", 2), ("b", 1), ("c", 3)))
    assert Decision(rows).failures == Checks(0, {}, rows).failures == "a: a it is; c: c it is"
    assert Decision(rows[1:2]).failures == ""
