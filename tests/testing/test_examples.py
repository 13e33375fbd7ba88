"""The examples' own suites pass, run as their users run them."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted(
    path.parent for path in (Path(__file__).parents[2] / "examples").glob("*/pytest.ini")
)


def test_there_are_examples() -> None:
    """The folder is where this file looks for it."""
    assert [path.name for path in EXAMPLES] == ["orders"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_suite_of_an_example_passes(example: Path, child_environment: dict[str, str]) -> None:
    """No test of it fails or is skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=example, env=child_environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert "skipped" not in done.stdout
