"""What `retrain` and `models` print: outcomes, decision tables, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_MARKS = {"pass": "[green]pass[/]", "fail": "[red]fail[/]", "skipped": "[dim]-[/]"}


def show_result(outcome: str, reason: str) -> None:
    """Prints how a retraining has ended, in one line."""
    Console(highlight=False, soft_wrap=True).print(Text(f"{outcome.replace('_', ' ')}: {reason}"))


def show_decision(record: Mapping[str, Any]) -> None:
    """Prints every check and gate of a run that it came to; nothing where there was no run."""
    for part, title in (("checks", "checks of the data"), ("gates", "gates of the model")):
        if record.get(part):
            _show_verdicts(record[part]["verdicts"], title=f"{title}, run {record['run']}")


def show_versions(versions: Sequence[Mapping[str, Any]]) -> None:
    """Prints a row a version, the champion marked."""
    table = Table("version", "", "accuracy", "macro F1", "added", "why", "fingerprint")
    for one in versions:
        metrics = (one["evaluation"] or {}).get("candidate", {}).get("metrics", {})
        figures = [f"{metrics[name]:.4f}" if metrics else "" for name in ("accuracy", "macro_f1")]
        added = next((change for change in one["changes"] if change["change"] == "add"), {"when": "", "why": ""})
        champion = "champion" if one["champion"] else ""
        table.add_row(
            f"{one['version']}", champion, *figures, added["when"], escape(added["why"]), one["fingerprint"][:12]
        )
    _print(table)


def show_version(one: Mapping[str, Any]) -> None:
    """Prints what is known of a version: its place, its changes, and the gates that it has passed."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"version {one['version']}{', the champion' if one['champion'] else ''}: {escape(one['path'])}")
    console.print(f"fingerprint {one['fingerprint']}, labels {escape(', '.join(one['labels']))}")
    table = Table("when", "change", "who", "why", title="changes")
    for change in one["changes"]:
        table.add_row(change["when"], change["change"], escape(change["who"]), escape(change["why"]))
    _print(table)
    for part, title in (("checks", "checks of the data"), ("gates", "gates of the model")):
        if one[part]:
            _show_verdicts(one[part]["verdicts"], title=title)


def _show_verdicts(verdicts: Sequence[Mapping[str, Any]], *, title: str) -> None:
    table = Table("", "measured", "limit", "", "", title=title)
    for column in table.columns[1:3]:
        column.justify = "right"
    for one in verdicts:
        numbers = [_number(one[key]) for key in ("measured", "limit")]
        table.add_row(escape(one["name"]), *numbers, _MARKS[one["verdict"]], escape(one["words"]))
    _print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _print(table: Table) -> None:
    """Prints a table whole: on a terminal that is too narrow its lines wrap, but no figure is cut."""
    console = Console(highlight=False, soft_wrap=True)
    table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table)
