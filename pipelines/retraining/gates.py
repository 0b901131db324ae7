"""The gates that a new model has to pass before it replaces the champion, from the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.retraining.figures import ChampionFigures, Evaluation
from pipelines.retraining.settings import GatesSection
from pipelines.retraining.verdicts import Decision, Verdict, at_least, at_most

_NO_CHAMPION = "no champion to compare with"


def apply_gates(evaluation: Evaluation, settings: GatesSection) -> Decision:
    """Returns the verdict of every gate.

    Args:
        evaluation: the figures.
        settings: the limits.
    """
    candidate = evaluation.candidate
    accuracy, error = candidate.metrics.accuracy, candidate.metrics.calibration_error
    size, speed = candidate.size_mb, candidate.speed
    return Decision(
        (
            at_least(
                "accuracy", accuracy, settings.min_accuracy, f"{accuracy:.4f} of {evaluation.sentences:,} sentences"
            ),
            *_label_f1(evaluation, settings),
            *_against_champion(evaluation, settings),
            *_slices(evaluation, settings),
            at_most(
                "calibration",
                error,
                settings.max_calibration_error,
                "not measured" if error is None else f"confidence and accuracy differ by {error:.4f}",
            ),
            at_most("size", size, settings.max_size_mb, f"{size:.1f} MB"),
            at_least("speed", speed, settings.min_speed, f"{speed:,.0f} sentences a second"),
            _relative_speed(evaluation, settings),
        )
    )


def _label_f1(evaluation: Evaluation, settings: GatesSection) -> Iterator[Verdict]:
    limits = settings.min_label_f1
    for label, figures in evaluation.candidate.metrics.labels.items():
        limit = limits.get(label) if isinstance(limits, dict) else limits
        if figures.support:
            words = f"F1 {figures.f1:.4f} of {label}, {figures.support:,} sentences"
            yield at_least(f"f1.{label}", figures.f1, limit, words)
        else:
            yield at_least(f"f1.{label}", None, limit, f"no held-out sentence is {label}")


def _against_champion(evaluation: Evaluation, settings: GatesSection) -> Iterator[Verdict]:
    champion, comparison = evaluation.champion, evaluation.comparison
    margins = {"accuracy": settings.margin, "macro_f1": settings.margin_macro_f1}
    limits = {figure: None if margin is None else -margin for figure, margin in margins.items()}
    if champion is None or comparison is None:
        for figure, limit in limits.items():
            yield at_least(f"champion.{figure}", None, limit, _NO_CHAMPION)
        yield at_most("champion.fall", None, settings.max_champion_fall, _NO_CHAMPION)
        return
    for figure, limit in limits.items():
        interval = getattr(comparison, figure)
        here, there = (getattr(model.metrics, figure) for model in (evaluation.candidate, champion))
        words = (
            f"{here:.4f} against version {champion.version}'s {there:.4f}: {interval.difference:+.4f}, "
            f"{comparison.confidence:.0%} interval {interval.low:+.4f} to {interval.high:+.4f}"
        )
        yield at_least(f"champion.{figure}", interval.low, limit, words)
    yield _fall(champion, settings)


def _fall(champion: ChampionFigures, settings: GatesSection) -> Verdict:
    now, then = champion.metrics.accuracy, champion.accuracy_when_published
    if then is None:
        return at_most("champion.fall", None, settings.max_champion_fall, "its accuracy when published is not recorded")
    words = f"the champion's own accuracy is {now:.4f}, {now - then:+.4f} since it was published"
    return at_most("champion.fall", then - now, settings.max_champion_fall, words)


def _slices(evaluation: Evaluation, settings: GatesSection) -> Iterator[Verdict]:
    for one in evaluation.slices:
        words = f"{one.first:.4f} against {one.second:.4f} on {one.documents:,} documents"
        if one.documents >= settings.min_slice_documents:
            yield at_most(f"slice.{one.name}", one.second - one.first, settings.max_slice_drop, words)
        else:
            yield at_most(f"slice.{one.name}", None, settings.max_slice_drop, f"{words}, too few to tell")


def _relative_speed(evaluation: Evaluation, settings: GatesSection) -> Verdict:
    if evaluation.champion is None:
        return at_least("relative_speed", None, settings.min_relative_speed, _NO_CHAMPION)
    ratio = evaluation.candidate.speed / evaluation.champion.speed
    return at_least("relative_speed", ratio, settings.min_relative_speed, f"{ratio:.2f} times the champion's")
