"""What a page of the documentation tells its reader to write and to type."""

import re
from collections.abc import Mapping
from pathlib import Path

_HOW_TO = Path(__file__).parent.parent.parent / "docs" / "how-to"
_BLOCK = re.compile(r"^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """The fenced blocks of a how-to, each to be taken once and in order.

    Args:
        name: of the page.
        places: what stands in the page for a place that a test has elsewhere, and that place;
            applied one after the other. Each must occur.
    """

    def __init__(self, name: str, places: Mapping[str, str]) -> None:
        text = (_HOW_TO / f"{name}.md").read_text()
        found = [(block["language"], block["text"]) for block in _BLOCK.finditer(text)]
        for old in places:
            assert any(old in block for _, block in found), f"{name} says nothing of {old}"
        self._left = [(language, _exchanged(block, places)) for language, block in found]

    def take(self, language: str) -> str:
        """Return the next block, which is in this language."""
        found, text = self._left.pop(0)
        assert found == language, f"expected {language}, found {found}: {text}"
        return text

    @property
    def is_taken(self) -> bool:
        """Whether every block was taken."""
        return not self._left


def _exchanged(text: str, places: Mapping[str, str]) -> str:
    for old, new in places.items():
        text = text.replace(old, new)
    return text
