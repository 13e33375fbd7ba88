"""Find links that lead nowhere."""

import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return every Markdown page of the project."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def broken_links(root: Path) -> list[str]:
    """Return one line for each link to a file or a heading that does not exist.

    Links to other hosts are not followed.
    """
    return [line for page in pages(root) for line in _broken_in(page, root)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchor, number = words, 0
        while anchor in found:
            number += 1
            anchor = f"{words}-{number}"
        found.add(anchor)
    return found


def _broken_in(page: Path, root: Path) -> Iterator[str]:
    text = page.read_text()
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        where = f"{page.relative_to(root)}: {target}"
        if not file.exists():
            yield f"{where}: there is no such file"
        elif anchor and anchor not in anchors(file.read_text()):
            yield f"{where}: there is no such heading"
