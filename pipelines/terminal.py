"""What the verbs print: short tables for people, on standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from model.console import VisibleConsole
from model.evaluation.metrics import Metrics
from model.inference.names import PRECISIONS
from model.progress import show_seconds
from model.schema import SPLITS
from model.screen import visible
from pipelines.retraining.verdicts import FAIL, PASS, SKIPPED, Verdict

if TYPE_CHECKING:  # printing alone does not load TensorFlow
    from model.bundles.bundle import Bundle
    from model.encoders.encoder import EncoderDescription
    from model.evaluation.score_metrics import ScoreMetrics
    from pipelines.inspection.findings import Inspection, Sample, Summary
    from pipelines.retraining.versions import PublishedVersion
    from pipelines.retraining.workspace import Run
    from pipelines.scoring.dry_run import Estimate

_SHOWN_LABELS = 8
_LABEL_FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "calibration_error": "ECE",
}
_SCORE_FIGURES = {"mse": "MSE", "spearman": "Spearman", "rouge_l": "ROUGE-L"}
_MARKS = {PASS: Text("pass", "green"), FAIL: Text("fail", "red"), SKIPPED: Text("-", "dim")}
_STYLES = ("cyan", "green", "magenta", "yellow", "blue", "red")


def show_inspection(inspection: Inspection) -> None:
    """Prints what is in corpora: a row for each source and one for all; rejects, duplicates and a few documents."""
    console = VisibleConsole()
    total = inspection.total
    rows = [*inspection.sources, total] if len(inspection.sources) > 1 else [total]
    for number, source in enumerate(inspection.sources, start=1):
        name = _one_line(str(source.source))
        console.print(f"{number}. {name}" if len(rows) > 1 else name)

    table = Table("", "records", "rejected", "documents", "labelled", "partly", "unlabelled")
    _add_summaries(table, rows, _document_cells)
    _show_table(table)

    shown = list(total.labels)[:_SHOWN_LABELS]
    others = [f"{len(total.labels) - len(shown):,} others"] if len(shown) < len(total.labels) else []
    title = "sentences, and those of labelled documents by label" if shown else None
    table = Table("", "sentences", *(_one_line(label) for label in shown), *others, title=title)
    _add_summaries(table, rows, lambda summary: [f"{count:,}" for count in _sentence_counts(summary, shown, others)])
    if shown:
        _, *by_label = _sentence_counts(total, shown, others)
        table.add_row("share", "", *(f"{count / sum(by_label):.1%}" for count in by_label))
    _show_table(table)

    title = f"wordpieces a document, and windows of {inspection.max_tokens:,}"
    table = Table("", "mean", "median", "90 %", "longest", "over", "windows", "truncated", title=title)
    _add_summaries(table, rows, _length_cells)
    _show_table(table)

    for reason, reject in total.rejects.items():
        where = f"{reject.source}, record {reject.record_index:,}"
        console.print(_one_line(f"rejected, {reason}: {reject.count:,}; the first: {where}: {reject.message}"))
    for what, duplicates in (("id", total.duplicate_ids), ("text", total.duplicate_texts)):
        if duplicates.count:
            first = f"{duplicates.count:,}; the first: {duplicates.example}"
            console.print(_one_line(f"documents that repeat an earlier one's {what}: {first}"))
    for sample in inspection.samples:
        _show_sample(console, sample)


def _add_summaries(table: Table, rows: Sequence[Summary], cells: Callable[[Summary], list[str]]) -> None:
    _align_right(table)
    for number, summary in enumerate(rows, start=1):
        table.add_row("all" if summary.source is None else f"{number}", *cells(summary))


def _document_cells(summary: Summary) -> list[str]:
    kinds = (summary.labelled, summary.partly_labelled, summary.unlabelled)
    return [f"{count:,}" for count in (summary.records, summary.rejected, summary.documents, *kinds)]


def _sentence_counts(summary: Summary, shown: Sequence[str], others: Sequence[str]) -> list[int]:
    by_label = [summary.labels.get(label, 0) for label in shown]
    rest = [sum(summary.labels.values()) - sum(by_label)] if others else []
    return [summary.sentences, *by_label, *rest]


def _length_cells(summary: Summary) -> list[str]:
    lengths = summary.lengths
    quantiles = [f"{length:,}" for length in (lengths.median, lengths.p90, lengths.max)]
    over = f"{summary.over_budget:,} ({summary.over_budget_share:.1%})"
    return [f"{lengths.mean:,.0f}", *quantiles, over, f"{summary.windows:,}", f"{summary.truncated:,}"]


def _show_table(table: Table) -> None:
    """Prints a table at full width: on a narrow terminal its lines wrap, but no figure is cut off."""
    console = VisibleConsole()
    table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table)


def _show_sample(console: VisibleConsole, sample: Sample) -> None:
    console.print(f"\ndocument {_one_line(sample.doc_id)}", style="bold")
    width = max(len(_one_line(label or "")) for _, label in sample.beginning)
    for sentence, label in sample.beginning:
        line = Text(f"{_one_line(label or ''):{width}} " if width else "").append(_one_line(sentence))
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    if sample.sentences > len(sample.beginning):
        console.print(f"... {sample.sentences:,} sentences")


def show_training_data(stats: Mapping[str, Any], folder: str) -> None:
    """Prints what preprocessing made, from `stats.json`: counts by split and label, and the rejects by reason."""
    console = VisibleConsole()
    counts, labels = stats["counts"], stats["label_counts"]
    splits = [split for split in SPLITS if split in counts["documents"]]
    table = Table("", *splits, title="training records")
    _align_right(table)
    for name in ("documents", "windows", "sentences"):
        table.add_row(name, *(f"{counts[name][split]:,}" for split in splits), end_section=name == "sentences")
    for label in stats["labels"]:
        table.add_row(label, *(f"{labels[split].get(label, 0):,}" for split in splits))
    console.print(table)
    console.print(
        f"{counts['records']:,} records read, {_rejects(counts)}, {counts['sampled_out']:,} sampled out, "
        f"{counts['duplicates_dropped']:,} dropped from train as duplicates of held-out documents"
    )
    if counts["repeated_ids"]:
        console.print(f"document ids that appear more than once: {counts['repeated_ids']:,}, see duplicates.parquet")
    console.print(f"records: {folder}")


def show_encoder(encoder: EncoderDescription) -> None:
    """Prints what an encoder is, one fact per line."""
    kinds = {"native": "native: read into sepline's own BERT", "wrapped": "wrapped: run unchanged"}
    special = ", ".join(f"{piece} {index}" for piece, index in encoder.special_ids.items())
    facts = {
        "encoder": encoder.handle,
        "format": f"{encoder.format}, {kinds[encoder.kind]}",
        "layers": encoder.layers,
        "width": encoder.width,
        "heads": encoder.heads,
        "feed-forward": encoder.intermediate_width,
        "positions": encoder.positions,
        "segments": encoder.segments,
        "activation": encoder.activation,
        "vocabulary": f"{encoder.vocabulary_size:,} wordpieces, {'uncased' if encoder.lower_case else 'cased'}",
        "special ids": special,
        "parameters": f"{encoder.parameters:,}",
        "fingerprint": encoder.fingerprint,
        "files": encoder.folder,
    }
    console = VisibleConsole()
    for name, fact in facts.items():
        console.print(f"{name:12} {'not recorded' if fact is None else fact}")


def show_bundle(bundle: Bundle) -> None:
    """Prints where the bundle is, and the dev figures of its best epoch."""
    console = VisibleConsole()
    dev = bundle.description["dev"]
    if dev:
        figures = (
            f"accuracy {dev['accuracy']:.4f}, macro F1 {dev['macro_f1']:.4f}, "
            f"calibration error {dev['calibration_error']:.4f} at temperature {bundle.description['temperature']:.2f},"
            if bundle.labels
            else f"MSE {dev['mse']:.4f}, Spearman {dev['spearman']:.4f},"
        )
        console.print(
            f"best epoch {bundle.description['best_epoch']}: dev {figures} over {dev['sentences']:,} sentences"
        )
    if bundle.openvino:
        console.print(_describe_openvino(bundle.openvino))
        if "int8" in bundle.openvino:
            console.print(_describe_int8(bundle.openvino["int8"]))
    console.print(f"bundle: {bundle.path} (fingerprint {bundle.fingerprint[:12]})")


def _describe_openvino(facts: Mapping[str, Any]) -> str:
    said = f"model for openvino {facts['version']}"
    dev = facts.get("dev")
    if not dev:
        return f"{said}: not compared with TensorFlow's, for want of a dev split"
    precisions = [name for name in PRECISIONS if name in dev]
    if "differing_labels" in dev[precisions[0]]:
        differences = [f"{dev[name]['differing_labels']:,} in {name}" for name in precisions]
        return f"{said}: of {dev['sentences']:,} dev labels differ from TensorFlow's {', '.join(differences)}"
    differences = [f"{dev[name]['largest_difference']:.1e} in {name}" for name in precisions]
    return f"{said}: dev scores differ from TensorFlow's by at most {', '.join(differences)}"


def _describe_int8(facts: Mapping[str, Any]) -> str:
    accuracy, error = facts["accuracy"], facts["calibration_error"]
    return (
        f"model in int8 by nncf {facts['nncf']}: dev accuracy {accuracy['after']:.4f} after {accuracy['before']:.4f}, "
        f"{100 * accuracy['difference']:+.2f} points (95 % interval {100 * accuracy['low']:+.2f} to "
        f"{100 * accuracy['high']:+.2f}, {facts['documents']:,} documents), calibration error {error['after']:.4f} "
        f"after {error['before']:.4f}"
    )


def show_evaluation(results: Mapping[str, Metrics | ScoreMetrics], *, split: str) -> None:
    """Prints the model next to the baselines; for labels also a row for each label and the model's confusion matrix."""
    console = VisibleConsole()
    model = results["sepline"]
    by_labels = isinstance(model, Metrics)
    names = {"sepline": "sepline", "position": "position alone"}
    names["tfidf"] = f"TF-IDF, {'logistic' if by_labels else 'ridge'} regression"
    columns = _LABEL_FIGURES if by_labels else _SCORE_FIGURES
    title = f"{split} split: {model.documents:,} documents, {model.sentences:,} sentences"
    table = Table("classifier", *columns.values(), title=title)
    _align_right(table)
    for name, metrics in results.items():
        figures = (getattr(metrics, column) for column in columns)
        table.add_row(names[name], *("" if figure is None else f"{figure:.4f}" for figure in figures))
    console.print(table)
    if not isinstance(model, Metrics):
        return

    table = Table("label", "precision", "recall", "F1", "sentences", title="sepline, by label")
    _align_right(table)
    for label, row in model.labels.items():
        table.add_row(label, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}", f"{row.support:,}")
    console.print(table)

    table = Table("true \\ predicted", *model.labels, title="sepline, confusion (sentences)")
    _align_right(table)
    for label, counts in zip(model.labels, model.confusion, strict=True):
        table.add_row(label, *(f"{count:,}" for count in counts))
    console.print(table)


def show_scored(manifest: Mapping[str, Any], output: str) -> None:
    """Prints the counts of a scored folder and its path."""
    console = VisibleConsole()
    counts = manifest["counts"]
    sampled = f" + {counts['sampled_out']:,} sampled out" if counts["sampled_out"] else ""
    console.print(
        f"{counts['records']:,} records = {counts['scored']:,} scored + {_rejects(counts)}{sampled}; "
        f"{counts['sentences']:,} sentences in {counts['windows']:,} windows, {counts['truncated']:,} truncated"
    )
    console.print(f"predictions: {output}")


def show_estimate(estimate: Estimate) -> None:
    """Prints what a scoring job would do."""
    console = VisibleConsole()
    about = "" if estimate.exact else "about "
    done = f", {estimate.finished_sources:,} of them finished" if estimate.finished_sources else ""
    console.print(f"{estimate.sources:,} files of {show_bytes(estimate.input_bytes)}{done}")
    console.print(f"to be done: {about}{estimate.records:,} records in {estimate.units:,} units")
    if estimate.sampled_records:
        console.print(
            f"about {show_seconds(estimate.seconds)} in one process on this machine "
            f"({estimate.records_per_second:,.1f} records/s in a sample of {estimate.sampled_records:,}); "
            f"about {show_bytes(estimate.output_bytes)} of output"
        )


def show_outcome(outcome: str, reason: str) -> None:
    """Prints how a retraining has ended, in one line."""
    VisibleConsole().print(f"{outcome.replace('_', ' ')}: {reason}")


def show_decision(run: Run) -> None:
    """Prints the checks and gates of a run, as far as it got."""
    if run.checks:
        _show_verdicts(run.checks.verdicts, title=f"checks of the data, run {run.name}")
    if run.decision:
        _show_verdicts(run.decision.verdicts, title=f"gates of the model, run {run.name}")


def show_versions(versions: Sequence[PublishedVersion]) -> None:
    """Prints a row for each version and marks the champion."""
    table = Table("version", "", "accuracy", "macro F1", "added", "why", "fingerprint")
    for one in versions:
        metrics = one.evaluation.candidate.metrics if one.evaluation else None
        figures = [f"{metrics.accuracy:.4f}", f"{metrics.macro_f1:.4f}"] if metrics else ["", ""]
        added = [(change.when, change.why) for change in one.changes if change.change == "add"] or [("", "")]
        champion = "champion" if one.champion else ""
        table.add_row(f"{one.version}", champion, *figures, *added[0], one.fingerprint[:12])
    _show_table(table)


def show_version(one: PublishedVersion) -> None:
    """Prints what is known about a version: its folder, its changes, and the checks and gates that it has passed."""
    console = VisibleConsole()
    console.print(f"version {one.version}{', the champion' if one.champion else ''}: {one.path}")
    console.print(f"fingerprint {one.fingerprint}, labels {', '.join(one.labels)}")
    table = Table("when", "change", "who", "why", title="changes")
    for change in one.changes:
        table.add_row(change.when, change.change, change.who, change.why)
    _show_table(table)
    if one.checks:
        _show_verdicts(one.checks.verdicts, title="checks of the data")
    if one.gates:
        _show_verdicts(one.gates.verdicts, title="gates of the model")


def show_bytes(count: int) -> str:
    """Returns a size with its unit: `3.2 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def show_predictions(rows: list[dict[str, Any]], *, labels: list[str]) -> None:
    """Prints scored documents sentence by sentence, each label in its own colour.

    Args:
        rows: rows of the predictions, in order.
        labels: the model's, which fix the colours.
    """
    console = VisibleConsole()
    styles = {label: _STYLES[index % len(_STYLES)] for index, label in enumerate(labels)}
    width = max(len(label) for label in labels)
    for row in rows:
        if row["sentence_index"] == 0:
            console.print(f"\ndocument {row['doc_id']}", style="bold")
        table = Table.grid(padding=(0, 1))
        table.add_column(width=width)
        table.add_column(width=4)
        table.add_column()
        label = Text(visible(row["label"]), style=styles[row["label"]])
        table.add_row(label, f"{row['probability']:.2f}", row["sentence"])
        console.print(table)


def _show_verdicts(verdicts: Sequence[Verdict], *, title: str) -> None:
    table = Table("", "measured", "limit", "", "", title=title)
    _align_right(table, columns=2)
    for one in verdicts:
        numbers = (_number(one.measured), _number(one.limit))
        table.add_row(one.name, *numbers, _MARKS[one.verdict], one.words)
    _show_table(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _one_line(text: str) -> str:
    """Returns text from a corpus in one line, with its control characters made visible."""
    return visible(" ".join(text.split()))


def _align_right(table: Table, columns: int | None = None) -> None:
    """Right-aligns `columns` columns after the first one; None for all of them."""
    for column in table.columns[1:][:columns]:
        column.justify = "right"


def _rejects(counts: Mapping[str, Any]) -> str:
    if not counts["rejected"]:
        return "0 rejected"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["rejects"].items())
    return f"{counts['rejected']:,} rejected ({reasons})"
