"""The documents: every link leads somewhere, every path that is named exists, and every room is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
FOLDERS = ("model", "pipelines", "tests", "docs", "runner_configs", "examples", "benchmarks")


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Returns the relative links of a page that lead nowhere: to no file, or to no heading of one."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    return broken


def missing_paths(page: Path) -> list[str]:
    """Returns the files and folders of the project that a page names in backticks and that don't exist."""
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", prose(page))
    return [path for path in named if not (PROJECT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []
    assert missing_paths(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Exit codes, and `more`\n[a](page.md#exit-codes-and-more) [b](#nothing) [c](other.md) [d](https://x.org/y)\n"
        "```sh\n# Not a heading\n[e](not-a-link.md)\n```\n[f](page.md#not-a-heading) `model/no_such.py` `model/text`\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["#nothing", "other.md", "page.md#not-a-heading"]
    assert missing_paths(page) == ["model/no_such.py"]


def test_the_architecture_describes_every_room() -> None:
    page = PROJECT / "docs" / "architecture.md"
    rooms = [file.parent for name in ("model", "pipelines") for file in PROJECT.glob(f"{name}/*/__init__.py")]
    linked = {(page.parent / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)\)", prose(page))}
    assert len(rooms) > 10
    assert sorted(room for room in rooms if room not in linked) == []
