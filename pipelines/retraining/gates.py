"""Whether a new model may take the champion's place: one verdict for each gate, from the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.retraining.settings import GatesSection
from pipelines.retraining.verdicts import Verdict, at_least, at_most

_NO_CHAMPION = "no champion to compare with"


def apply_gates(evaluation: Mapping[str, Any], settings: GatesSection) -> list[Verdict]:
    """Returns the verdict of every gate.

    Args:
        evaluation: what `judgement.evaluate_candidate` found.
        settings: the limits.
    """
    candidate = evaluation["candidate"]
    accuracy, error = candidate["metrics"]["accuracy"], candidate["metrics"]["calibration_error"]
    size, speed = candidate["size_mb"], candidate["speed"]
    return [
        at_least(
            "accuracy", accuracy, settings.min_accuracy, f"{accuracy:.4f} of {evaluation['sentences']:,} sentences"
        ),
        *_label_f1(candidate["metrics"]["labels"], settings),
        *_against_champion(evaluation, settings),
        *_slices(evaluation, settings),
        at_most("calibration", error, settings.max_calibration_error, f"confidence and accuracy differ by {error:.4f}"),
        at_most("size", size, settings.max_size_mb, f"{size:.1f} MB"),
        at_least("speed", speed, settings.min_speed, f"{speed:,.0f} sentences a second"),
        _relative_speed(evaluation, settings),
    ]


def _label_f1(labels: Mapping[str, Any], settings: GatesSection) -> list[Verdict]:
    limits = settings.min_label_f1
    verdicts = []
    for label, figures in labels.items():
        limit = limits.get(label) if isinstance(limits, dict) else limits
        if figures["support"]:
            words = f"F1 {figures['f1']:.4f} of {label}, {figures['support']:,} sentences"
            verdicts.append(at_least(f"f1.{label}", figures["f1"], limit, words))
        else:
            verdicts.append(at_least(f"f1.{label}", None, limit, f"no held-out sentence is {label}"))
    return verdicts


def _against_champion(evaluation: Mapping[str, Any], settings: GatesSection) -> list[Verdict]:
    champion, comparison = evaluation["champion"], evaluation["comparison"]
    margins = {"accuracy": settings.margin, "macro_f1": settings.margin_macro_f1}
    limits = {figure: None if margin is None else -margin for figure, margin in margins.items()}
    if champion is None:
        skipped = [at_least(f"champion.{figure}", None, limit, _NO_CHAMPION) for figure, limit in limits.items()]
        return [*skipped, at_most("champion.fall", None, settings.max_champion_fall, _NO_CHAMPION)]
    verdicts = []
    for figure, limit in limits.items():
        interval = comparison[figure]
        here, there = evaluation["candidate"]["metrics"][figure], champion["metrics"][figure]
        words = (
            f"{here:.4f} against version {champion['version']}'s {there:.4f}: {interval['difference']:+.4f}, "
            f"{comparison['confidence']:.0%} interval {interval['low']:+.4f} to {interval['high']:+.4f}"
        )
        verdicts.append(at_least(f"champion.{figure}", interval["low"], limit, words))
    return [*verdicts, _fall(champion, settings)]


def _fall(champion: Mapping[str, Any], settings: GatesSection) -> Verdict:
    now, then = champion["metrics"]["accuracy"], champion["accuracy_when_published"]
    if then is None:
        return at_most("champion.fall", None, settings.max_champion_fall, "nothing is recorded of its publication")
    words = f"the champion's own accuracy is {now:.4f}, {now - then:+.4f} since it was published"
    return at_most("champion.fall", then - now, settings.max_champion_fall, words)


def _slices(evaluation: Mapping[str, Any], settings: GatesSection) -> list[Verdict]:
    verdicts = []
    for one in evaluation["slices"]:
        drop = one["second"] - one["first"]
        words = f"{one['first']:.4f} against {one['second']:.4f} on {one['documents']:,} documents"
        if one["documents"] >= settings.min_slice_documents:
            verdicts.append(at_most(f"slice.{one['name']}", drop, settings.max_slice_drop, words))
        else:
            verdicts.append(at_most(f"slice.{one['name']}", None, settings.max_slice_drop, f"{words}, too few to tell"))
    return verdicts


def _relative_speed(evaluation: Mapping[str, Any], settings: GatesSection) -> Verdict:
    if evaluation["champion"] is None:
        return at_least("relative_speed", None, settings.min_relative_speed, _NO_CHAMPION)
    ratio = evaluation["candidate"]["speed"] / evaluation["champion"]["speed"]
    return at_least("relative_speed", ratio, settings.min_relative_speed, f"{ratio:.2f} times the champion's")
