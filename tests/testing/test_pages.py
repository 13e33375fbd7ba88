"""Every Python block of the pages about the SDK runs, and does what the page says."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from legation.config.ports import unused_port

ROOT = Path(__file__).parents[2]
_PARTS = re.compile(
    r"^## (?P<heading>[^\n]*)$|^```python\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL
)
_KINDS = {"Servers": "server", "Clients": "client"}


def blocks(name: str) -> Iterator[object]:
    """Yield kind and text of each block of a page; the kind follows from the heading."""
    text = (ROOT / "docs" / "how-to" / name).read_text()
    heading = ""
    for part in _PARTS.finditer(text):
        if part["heading"]:
            heading = part["heading"]
            continue
        kind = _KINDS.get(heading, "client" if "8443" in part["block"] else "plain")
        line = text.count("\n", 0, part.start()) + 1
        if "X509Source()" not in part["block"]:  # needs an agent: tests/sdk/test_sources.py
            yield pytest.param(kind, part["block"], id=f"{name}:{line}")


PAGES = [*blocks("use-from-python.md"), *blocks("test-your-service.md")]


def test_there_are_blocks() -> None:
    """The pages are read at all."""
    assert len(PAGES) >= 19


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "block"), PAGES)
def test_a_block_does_what_the_page_says(kind: str, block: str) -> None:
    """A server greets a client by its name, a client is answered, the rest runs."""
    if "@pytest.fixture" in block:
        with tempfile.TemporaryDirectory(prefix="lg-") as directory:
            (Path(directory) / "test_block.py").write_text(block)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False
            )
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        return
    with tempfile.TemporaryDirectory(prefix="lg-") as directory:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.sdk_pages", kind, str(unused_port())],
            input=block, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
