"""Every relative link in the documents leads to a file, and to a heading of it where it names one."""

from __future__ import annotations

import re
from pathlib import Path

from tests.arch.source_tree import REPOSITORY
from tests.arch.tracked import tracked_files

FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|<img[^>]+src=\"([^\"]+)\"")
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$", re.MULTILINE)


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The fragment of each heading, spelled as code hosts do: lower case, hyphens, no punctuation."""
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in HEADING.findall(prose(path))}


def broken_links(document: Path) -> list[str]:
    broken = []
    for match in LINK.finditer(prose(document)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            broken.append(f"{document.name}: {link}")
    return broken


def test_links_lead_somewhere():
    documents = tracked_files("*.md")
    assert REPOSITORY / "README.md" in documents
    assert [problem for document in documents for problem in broken_links(document)] == []


def test_broken_links_are_found(tmp_path: Path):
    (tmp_path / "there.md").write_text("# One `two`, three\n", encoding="utf-8")
    document = tmp_path / "document.md"
    document.write_text(
        "# Here\n[a](there.md) [b](#here) [c](there.md#one-two-three) [d](https://example.org)\n"
        '[e](gone.md) [f](#gone) [g](there.md#gone) <img src="gone.png">\n```\n[h](in-code.md)\n```\n',
        encoding="utf-8",
    )
    assert [line.split(": ")[1] for line in broken_links(document)] == [
        "gone.md",
        "#gone",
        "there.md#gone",
        "gone.png",
    ]
