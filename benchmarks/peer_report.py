"""Makes the Markdown report of `peers.py` from its table of runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from peer_jobs import HF

Run = Mapping[str, Any]
"""A line of the table: a job's measure, who, size and round, and what it took."""


class Table:
    """The runs, by measure, who, size and round."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[str, dict[str, dict[int, dict[int, Run]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(dict))
        )
        for one in runs:
            self._runs[one["measure"]][one["who"]][one["size"]][one["round"]] = one

    def has(self, measure: str, who: str, size: int, round_number: int) -> bool:
        """Returns True if there is such a run."""
        return round_number in self._runs[measure][who][size]

    def whos(self, measure: str) -> list[str]:
        """Returns who was measured, in order."""
        return list(self._runs[measure])

    def sizes(self, measure: str) -> list[int]:
        """Returns the sizes that were run, ascending."""
        return sorted({size for sizes in self._runs[measure].values() for size in sizes})

    def column(self, measure: str, who: str, size: int, figure: str) -> dict[int, float]:
        """Returns a figure by round."""
        return {number: one[figure] for number, one in self._runs[measure][who][size].items()}

    def beyond(self, measure: str, who: str, least: int, most: int, figure: str = "seconds") -> dict[int, float]:
        """Returns by round how much more of a figure the larger size took."""
        small, large = self.column(measure, who, least, figure), self.column(measure, who, most, figure)
        return {number: large[number] - small[number] for number in large if number in small}


def report(runs: Sequence[Run], labels: Path) -> str:
    """Returns the report.

    Args:
        runs: the table.
        labels: the folder of the labels that each one gave, a Parquet file or folder each.
    """
    table = Table(runs)
    sections = [_score(table, labels), _workers(table), _flat(table), _training(table), _preprocessing(table)]
    loads = [one["load"] for one in runs]
    note = f"Load average of the machine before each run: {_spread(loads)}."
    return "\n".join([*(line for section in sections for line in section), note, ""])


def _score(table: Table, labels: Path) -> Iterator[str]:
    sizes = table.sizes("score")
    if len(sizes) < 2:
        return
    most = sizes[-1]
    yield f"Whole job, files to Parquet, {most:,} abstracts. Start-up is the same command for one record; documents/s"
    yield "are beyond it."
    yield ""
    yield from _head(
        *("", "start-up", "documents/s", f"times {HF}", "whole command", "outside the predictor", "peak memory"),
        *("peak for one record", f"labels unlike {HF}"),
    )
    baseline = _rates(table.beyond("score", HF, 1, most), most - 1)
    for who in table.whos("score"):
        rates = _rates(table.beyond("score", who, 1, most), most - 1)
        whole = _rates(table.column("score", who, most, "seconds"), most)
        yield _row(
            who,
            _spread(table.column("score", who, 1, "seconds").values(), " s"),
            _spread(rates.values()),
            _spread(_ratios(rates, baseline).values(), digits=2),
            _spread(whole.values(), "/s"),
            _outside(table, who, most),
            _spread(table.column("score", who, most, "peak_mib").values(), " MiB", digits=0),
            _spread(table.column("score", who, 1, "peak_mib").values(), " MiB", digits=0),
            _unlike(labels / who, labels / HF),
        )
    yield ""


def _outside(table: Table, who: str, size: int) -> str:
    """Returns the share of the processor seconds beyond the start-up that the predictor alone does not need."""
    alone = table.column("predictor alone", who, size, "predictor_cpu_seconds")
    beyond = table.beyond("score", who, 1, size, "cpu_seconds")
    shares = [100 * (1 - alone[number] / beyond[number]) for number in alone if number in beyond]
    return _spread(shares, " %")


def _workers(table: Table) -> Iterator[str]:
    sizes = table.sizes("workers")
    if len(sizes) < 2:
        return
    most = sizes[-1]
    yield f"Workers of one thread each, {most:,} abstracts, beyond the start-up."
    yield ""
    yield from _head("", "documents/s", "times one worker")
    one, *_ = table.whos("workers")
    baseline = _rates(table.beyond("workers", one, 1, most), most - 1)
    for who in table.whos("workers"):
        rates = _rates(table.beyond("workers", who, 1, most), most - 1)
        yield _row(who, _spread(rates.values()), _spread(_ratios(rates, baseline).values(), digits=2))
    yield ""


def _flat(table: Table) -> Iterator[str]:
    sizes = table.sizes("flat")
    if len(sizes) < 3:
        return
    _, few, many = sizes
    yield "Documents/s beyond the start-up, by the size of the job."
    yield ""
    yield from _head("", f"{few:,}", f"{many:,}", "ratio")
    for who in table.whos("flat"):
        low, high = (_rates(table.beyond("flat", who, 1, size), size - 1) for size in (few, many))
        ratios = _ratios(high, low)
        yield _row(who, _spread(low.values()), _spread(high.values()), _spread(ratios.values(), digits=2))
    yield ""


def _training(table: Table) -> Iterator[str]:
    for size in table.sizes("training"):
        yield f"Training in fp32 on {size:,} abstracts, batches of like lengths, real wordpieces/s of the second epoch."
        yield ""
        yield from _head("", "wordpieces/s", "times PyTorch", "peak memory")
        first, *_ = table.whos("training")
        baseline = table.column("training", first, size, "tokens_per_second")
        for who in table.whos("training"):
            speeds = table.column("training", who, size, "tokens_per_second")
            peaks = table.column("training", who, size, "peak_mib")
            ratios = _ratios(speeds, baseline)
            yield _row(
                *(who, _spread(speeds.values(), digits=0), _spread(ratios.values(), digits=2)),
                _spread(peaks.values(), " MiB", digits=0),
            )
        yield ""


def _preprocessing(table: Table) -> Iterator[str]:
    sizes = table.sizes("preprocessing")
    if len(sizes) < 2:
        return
    few, many = sizes
    yield f"Preprocessing of {few:,} and {many:,} labelled abstracts: documents/s, beyond a fixed cost."
    yield ""
    yield from _head("", "documents/s", "times datasets.map", "fixed cost", f"whole, {many:,}", "peak memory")
    first, *_ = table.whos("preprocessing")
    baseline = _rates(table.beyond("preprocessing", first, few, many), many - few)
    for who in table.whos("preprocessing"):
        rates = _rates(table.beyond("preprocessing", who, few, many), many - few)
        small = table.column("preprocessing", who, few, "seconds")
        fixed = [small[number] - few / rate for number, rate in rates.items()]
        yield _row(
            *(who, _spread(rates.values(), digits=0), _spread(_ratios(rates, baseline).values(), digits=2)),
            _spread(fixed, " s"),
            _spread(table.column("preprocessing", who, many, "seconds").values(), " s"),
            _spread(table.column("preprocessing", who, many, "peak_mib").values(), " MiB", digits=0),
        )
    yield ""


def _unlike(ours: Path, theirs: Path) -> str:
    """Returns how many sentences have another label in one's predictions than in the other's."""
    if not (ours.exists() and theirs.exists()):
        return ""
    one, other = _read_labels(ours), _read_labels(theirs)
    if one.keys() != other.keys():
        return f"OTHER SENTENCES: {len(one):,} and {len(other):,}"
    count = sum(label != other[sentence] for sentence, label in one.items())
    return f"{count:,} of {len(one):,}"


def _read_labels(path: Path) -> dict[tuple[str, int], str]:
    columns = ["doc_id", "sentence_index", "label"]
    if path.is_dir():
        parts = [str(part) for part in path.glob("part-*.parquet")]
        table = ds.dataset(parts, format="parquet").to_table(columns=columns)
    else:
        table = pq.read_table(path, columns=columns)
    ids, indices, labels = (table[name].to_pylist() for name in columns)
    return dict(zip(zip(ids, indices, strict=True), labels, strict=True))


def _rates(seconds: Mapping[int, float], count: int) -> dict[int, float]:
    return {number: count / one for number, one in seconds.items()}


def _ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    return {number: ours[number] / theirs[number] for number in ours if number in theirs}


def _spread(values: Iterable[float], unit: str = "", *, digits: int = 1) -> str:
    """Returns the median, with the least and the greatest where there are several."""
    found = sorted(values)
    if not found:
        return ""
    middle = f"{statistics.median(found):,.{digits}f}{unit}"
    return middle if len(found) == 1 else f"{middle} ({found[0]:,.{digits}f} to {found[-1]:,.{digits}f})"


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
