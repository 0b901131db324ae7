"""Counts that workers hand to the driver."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipelines.preprocessing.counts import Count, by_split, by_value, pack_counts, read_counts, sum_counts, write_counts


def test_counts_come_back_as_they_were_written(tmp_path: Path) -> None:
    counts = Counter({Count("records"): 7, Count("labels", "train", "a.b"): 2, Count("pieces", "dev", 101): 3})
    file = tmp_path / "counts.json"
    write_counts(pack_counts(counts), str(file))
    assert read_counts(str(file)) == counts
    assert not file.exists()


def test_a_label_with_a_dot_or_the_name_of_a_split_is_one_label(tmp_path: Path) -> None:
    labels = Counter({Count("labels", "train", label): n for n, label in enumerate(("a", "a.b", "dev.a"), start=1)})
    others = Counter({Count("labels", "dev", "a"): 5, Count("documents", "dev"): 4})
    summed = sum_counts(pack_counts(one) for one in (labels, labels, others))
    write_counts(sum_counts([summed]), str(tmp_path / "counts.json"))  # a sum of sums, as Beam makes it
    total = read_counts(str(tmp_path / "counts.json"))
    assert pack_counts(labels)["labels", "train"] == {"a": 1, "a.b": 2, "dev.a": 3}  # summing changes no summand
    assert by_value(total, "labels", "train") == {"a": 2, "a.b": 4, "dev.a": 6}
    assert by_value(total, "labels", "dev") == {"a": 5}
    assert by_split(total, "documents") == {"dev": 4}


def test_histograms_are_in_the_order_of_their_values() -> None:
    counts = Counter({Count("window_lengths", "train", length): 1 for length in (100, 9, 21)})
    assert list(by_value(counts, "window_lengths", "train")) == [9, 21, 100]
