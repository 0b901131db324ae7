"""Checks whether new data are fit to train on: their labels, size and rejects, and drift from the champion's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from model.bundles.training_data import STATS, TrainingData
from model.records import Reason
from model.schema import SPLITS
from pipelines.retraining.drift import (
    Profile,
    label_drift,
    length_drift,
    read_profile,
    sentences_drift,
    vocabulary_drift,
)
from pipelines.retraining.settings import ChecksSection, RetrainSettings
from pipelines.retraining.verdicts import Checks, Verdict, at_least, at_most

_BROKEN_SOURCES = (Reason.UNREADABLE_SOURCE, Reason.BROKEN_SOURCE)
_DAMAGE = (
    Reason.NO_ID,
    Reason.BROKEN_RECORD,
    Reason.SWALLOWED_RECORDS,
    Reason.WRONG_TYPE,
    Reason.WRONG_LENGTH,
    Reason.INVALID_ENCODING,
)
_SHOWN = 3
_NO_CHAMPION = "no champion to compare with"


def check_data(data: TrainingData, recorded: Path | None, settings: RetrainSettings) -> Checks:
    """Returns the checks of new training records.

    Args:
        data: the records.
        recorded: the folder with the records of the champion's data; None without a champion.
        settings: the limits, the expected labels and the held-out split.
    """
    champion = read_profile(recorded) if recorded is not None and (recorded / STATS).exists() else None
    return Checks(
        new_documents=_count_new_documents(data, champion),
        counts=data.stats["counts"],
        verdicts=compare_profiles(
            read_profile(data.path),
            champion,
            settings=settings.checks,
            held_out=settings.retrain.held_out,
            expected_labels=settings.data.labels,
        ),
    )


def compare_profiles(
    now: Profile,
    champion: Profile | None,
    *,
    settings: ChecksSection,
    held_out: str,
    expected_labels: Sequence[str] | None,
) -> tuple[Verdict, ...]:
    """Returns the verdict of every check.

    Args:
        now, champion: the profiles of this run and of the champion's, if there is one.
        settings: the limits.
        held_out: the split that models are judged on.
        expected_labels: the labels that the settings name, if any.
    """
    documents = now.stats["counts"]["documents"]
    return (
        _labels(now, champion, settings, expected_labels),
        _size("train_documents", documents.get("train", 0), settings.min_train_documents, "to train on"),
        _size("held_out_documents", documents.get(held_out, 0), settings.min_held_out_documents, "to judge models on"),
        *_rejects(now, champion, settings),
        _duplicates(now, settings),
        _unknown(now, settings),
        _drift("label_drift", now, champion, settings.max_label_drift, measure=label_drift, explain=_label_changes),
        _drift("length_drift", now, champion, settings.max_length_drift, measure=length_drift, explain=_mean_tokens),
        _drift(
            "sentences_drift",
            now,
            champion,
            settings.max_sentences_drift,
            measure=sentences_drift,
            explain=_mean_sentences,
        ),
        _drift(
            "vocabulary_drift",
            now,
            champion,
            settings.max_vocabulary_drift,
            measure=vocabulary_drift,
            explain=_unknown_shares,
        ),
    )


def _count_new_documents(data: TrainingData, champion: Profile | None) -> int:
    """Returns the number of documents from files that the champion's run has not read, or not with this content."""
    known = {source["sha256"] for source in champion.stats["inputs"]} if champion else set()
    new = {source["path"] for source in data.stats["inputs"] if source["sha256"] not in known}
    return sum(
        source in new
        for split in SPLITS
        for file in data.document_files(split)
        for source in pq.read_table(file, columns=["source"], partitioning=None)["source"].to_pylist()
    )


def _labels(now: Profile, champion: Profile | None, settings: ChecksSection, expected: Sequence[str] | None) -> Verdict:
    wanted = list(champion.labels) if champion else expected
    if wanted is None or not settings.same_labels:
        return at_most("labels", None, None, f"the labels are {', '.join(sorted(now.labels))}")
    missing = sorted(set(wanted) - set(now.labels))
    new = sorted(set(now.labels) - set(wanted))
    found = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (new, "new")) if names]
    words = "; ".join(found) or f"the labels are {', '.join(sorted(wanted))}, as expected"
    return at_most("labels", len(missing) + len(new), 0, words)


def _size(name: str, documents: int, limit: int, purpose: str) -> Verdict:
    return at_least(name, documents, limit, f"{documents:,} documents {purpose}, {limit:,} wanted")


def _rejects(now: Profile, champion: Profile | None, settings: ChecksSection) -> list[Verdict]:
    counts, shares = now.stats["counts"]["rejects"], now.reject_shares
    broken = sum(counts.get(reason, 0) for reason in _BROKEN_SOURCES)
    damaged = {reason: shares[reason] for reason in _DAMAGE if reason in shares}
    listed = ", ".join(f"{reason} {share:.2%}" for reason, share in damaged.items())
    verdicts = [
        at_most("broken_sources", broken, settings.max_broken_sources, f"{broken} files can't be read to their end"),
        at_most(
            "damaged_records",
            sum(damaged.values()),
            settings.max_damaged_share,
            f"{sum(damaged.values()):.2%} of the records are damaged" + (f" ({listed})" if listed else ""),
        ),
    ]
    if champion is None:
        return [*verdicts, at_most("reject_rise", None, settings.max_reject_rise, _NO_CHAMPION)]
    rises = {reason: share - champion.reject_shares.get(reason, 0.0) for reason, share in shares.items()}
    reason, rise = max(rises.items(), key=lambda item: item[1], default=("rejects", 0.0))
    words = f"{reason}: {shares.get(reason, 0):.2%} of the records, {rise:+.2%} against the champion's"
    return [*verdicts, at_most("reject_rise", rise, settings.max_reject_rise, words)]


def _duplicates(now: Profile, settings: ChecksSection) -> Verdict:
    counts = now.stats["counts"]
    dropped = counts["duplicates_dropped"]
    share = dropped / max(counts["documents"].get("train", 0) + dropped, 1)
    words = f"{dropped:,} train documents ({share:.2%}) are held out too and were dropped"
    return at_most("duplicates", share, settings.max_duplicate_share, words)


def _unknown(now: Profile, settings: ChecksSection) -> Verdict:
    words = f"{now.unknown_share:.2%} of the wordpieces are [UNK]"
    return at_most("unknown_wordpieces", now.unknown_share, settings.max_unknown_share, words)


def _drift(
    name: str,
    now: Profile,
    champion: Profile | None,
    limit: float | None,
    *,
    measure: Callable[[Profile, Profile], float],
    explain: Callable[[Profile, Profile], str],
) -> Verdict:
    if champion is None:
        return at_most(name, None, limit, _NO_CHAMPION)
    measured = measure(now, champion)
    words = f"distance {measured:.4f} from the champion's data{explain(now, champion)}"
    return at_most(name, measured, limit, words)


def _label_changes(now: Profile, champion: Profile) -> str:
    changes = _share_changes(now.labels, champion.labels)
    return f": {', '.join(f'{label} {change:+.1%}' for label, change in changes[:_SHOWN])}"


def _mean_tokens(now: Profile, champion: Profile) -> str:
    here, there = (one.stats["lengths"]["mean_tokens"] for one in (now, champion))
    return f"; on average {here:.1f} tokens a document, was {there:.1f}"


def _mean_sentences(now: Profile, champion: Profile) -> str:
    here, there = (one.stats["lengths"]["mean_sentences"] for one in (now, champion))
    return f"; on average {here:.1f} sentences a document, was {there:.1f}"


def _unknown_shares(now: Profile, champion: Profile) -> str:
    return f"; [UNK] {now.unknown_share:.2%}, was {champion.unknown_share:.2%}"


def _share_changes(now: dict[str, int], then: dict[str, int]) -> list[tuple[str, float]]:
    """Returns the change of each label's share of the sentences, the largest change first."""
    totals = max(sum(now.values()), 1), max(sum(then.values()), 1)
    changes = {
        label: now.get(label, 0) / totals[0] - then.get(label, 0) / totals[1] for label in sorted(now.keys() | then)
    }
    return sorted(changes.items(), key=lambda item: -abs(item[1]))
