"""Whether new data are fit to train on: their schema, their size, what was rejected, and drift from the champion's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow.parquet as pq

from model.bundles.training_data import TrainingData
from model.records import Reason
from model.schema import SPLITS
from pipelines.retraining.drift import Profile, label_drift, length_drift, sentences_drift, vocabulary_drift
from pipelines.retraining.settings import ChecksSection
from pipelines.retraining.verdicts import Verdict, at_least, at_most

_BROKEN_SOURCES = (Reason.UNREADABLE_SOURCE, Reason.BROKEN_SOURCE)
_DAMAGE = (Reason.NO_ID, Reason.BROKEN_RECORD, Reason.WRONG_TYPE, Reason.WRONG_LENGTH, Reason.INVALID_ENCODING)
_SHOWN = 3


def count_new_documents(data: TrainingData, champion: Profile | None) -> int:
    """Returns how many documents come from files that the champion's run has not read, or not with this content."""
    known = {source["sha256"] for source in champion.stats["inputs"]} if champion else set()
    new = {source["path"] for source in data.stats["inputs"] if source["sha256"] not in known}
    return sum(
        source in new
        for split in SPLITS
        for file in data.document_files(split)
        for source in pq.read_table(file, columns=["source"], partitioning=None)["source"].to_pylist()
    )


def check_data(
    now: Profile,
    champion: Profile | None,
    *,
    settings: ChecksSection,
    held_out: str,
    expected_labels: Sequence[str] | None,
) -> list[Verdict]:
    """Returns the verdict of every check.

    Args:
        now, champion: the profiles of this run and of the champion's, if there is one.
        settings: the limits.
        held_out: the split that models are judged on.
        expected_labels: the labels that the settings name, if any.
    """
    documents = now.stats["counts"]["documents"]
    verdicts = [
        _labels(now, champion, settings, expected_labels),
        _size("train_documents", documents.get("train", 0), settings.min_train_documents, "to train on"),
        _size("held_out_documents", documents.get(held_out, 0), settings.min_held_out_documents, "to judge models on"),
        *_rejects(now, champion, settings),
        _duplicates(now, settings),
        _unknown(now, settings),
    ]
    drifts: tuple[tuple[str, Callable[[Profile, Profile], float], float | None], ...] = (
        ("label_drift", label_drift, settings.max_label_drift),
        ("length_drift", length_drift, settings.max_length_drift),
        ("sentences_drift", sentences_drift, settings.max_sentences_drift),
        ("vocabulary_drift", vocabulary_drift, settings.max_vocabulary_drift),
    )
    for name, measure, limit in drifts:
        measured = measure(now, champion) if champion else None
        verdicts.append(at_most(name, measured, limit, _drift_words(name, measured, now, champion)))
    return verdicts


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
        return [*verdicts, at_most("reject_rise", None, settings.max_reject_rise, "no champion to compare with")]
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


def _drift_words(name: str, measured: float | None, now: Profile, champion: Profile | None) -> str:
    if champion is None or measured is None:
        return "no champion to compare with"
    words = f"distance {measured:.4f} from the champion's data"
    if name == "label_drift":
        changes = _share_changes(now.labels, champion.labels)
        return f"{words}: {', '.join(f'{label} {change:+.1%}' for label, change in changes[:_SHOWN])}"
    key = {"length_drift": "mean_tokens", "sentences_drift": "mean_sentences"}.get(name)
    if key is None:
        return f"{words}; [UNK] {now.unknown_share:.2%}, was {champion.unknown_share:.2%}"
    here, there = (one.stats["lengths"][key] for one in (now, champion))
    return f"{words}; on average {here:.1f} {key.removeprefix('mean_')} a document, was {there:.1f}"


def _share_changes(now: dict[str, int], then: dict[str, int]) -> list[tuple[str, float]]:
    """Returns by how much each label's share of the sentences has changed, the greatest changes first."""
    totals = max(sum(now.values()), 1), max(sum(then.values()), 1)
    changes = {
        label: now.get(label, 0) / totals[0] - then.get(label, 0) / totals[1] for label in sorted(now.keys() | then)
    }
    return sorted(changes.items(), key=lambda item: -abs(item[1]))
