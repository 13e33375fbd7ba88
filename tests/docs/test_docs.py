"""Every transcript in the documentation is true: each is typed and compared."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from docs.links import anchors, broken_links, pages
from tests.docs.replay import ReplayError, matches, replay, steps_of

ROOT = Path(__file__).parent.parent.parent
TRANSCRIPTS = [page for page in pages(ROOT) if "```console\n" in page.read_text()]


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("page", TRANSCRIPTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_says_what_happens(page: Path, short_path: Path) -> None:
    """Every command of the page does and prints what the page shows."""
    assert replay(page.read_text(), short_path) > 0


def test_no_link_leads_nowhere() -> None:
    """Every relative link, and every anchor, has a target."""
    assert broken_links(ROOT) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading and nothing else are reported; code is no link."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# One thing\n\n## One thing\n")
    (tmp_path / "README.md").write_text(
        "[a](docs/a.md#one-thing-1) [b](docs/b.md) [c](docs/a.md#two) [d](https://x.org/)\n"
        "`[e](nowhere)`\n```\n[f](nowhere)\n```\n"
    )
    assert broken_links(tmp_path) == [
        "README.md: docs/b.md: there is no such file",
        "README.md: docs/a.md#two: there is no such heading",
    ]
    assert anchors("# `a_b`: C & d\n") == {"a_b-c--d"}


def test_the_code_that_pages_name_exists() -> None:
    """Every module and test that the standards and the architecture name is there."""
    text = "".join(
        (ROOT / "docs" / name).read_text() for name in ("standards.md", "architecture.md")
    )
    named = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", text)) | set(
        re.findall(r"`(tests/[a-z_/.]+)`", text)
    )
    assert len(named) > 30
    known = {path.name for path in (ROOT / "src" / "legation").rglob("*.py")}
    missing = {
        name
        for name in named - known
        if not any((ROOT / base / name).exists() for base in ("", "src/legation"))
    }
    assert not missing


@pytest.mark.parametrize(
    ("expected", "output", "held"),
    [
        ("a", "a\n", True),
        ("a", "b\n", False),
        ("a … c", "a b c\n", True),
        ("a … c", "a b\nc\n", False),
        ("…", "", True),
        ("…", "a\nb\n", True),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nd\n", True),
        ("a\n…", "b\n", False),
        ("…b…\n…", "abc\n", True),
        ("", "", True),
        ("", "surprise\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_expected_output_is_compared(expected: str, output: str, held: bool) -> None:
    """`…` stands for anything in a line, or for any lines; the rest is literal."""
    assert matches(expected, output) is held


def test_a_page_is_read_into_steps() -> None:
    """Commands, continued lines, directives and sessions are understood."""
    text = (
        "<!-- replay: session two -->\n```console\n$ a \\\n  b\none\n\n$ c\n```\n"
        "<!-- replay: skip-output -->\n```console\n$ d\nx\n```\n```sh\n$ e\n```\n"
    )
    found = [(s.line, s.command, s.expected, s.session) for s in steps_of(text)]
    assert found == [
        (3, "a \\\n  b", "one", "two"),
        (7, "c", "", "two"),
        (11, "d", None, "two"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- replay: hope -->", "unknown directive"),
        ("```console\noutput\n```", "output before any command"),
    ],
)
def test_a_page_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    """A mistyped directive or a block that begins with output is an error, not skipped."""
    with pytest.raises(ReplayError, match=said):
        list(steps_of(text))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("$ echo b\na", "line 2"),
        ("$ false", "status 1"),
        ("$ echo surprise", "surprise"),
        ("$ exit 3", "ended the shell"),
    ],
)
def test_a_false_page_is_caught(block: str, said: str, tmp_path: Path) -> None:
    """Other output, a failing command, unexpected output and a dead shell fail the page."""
    with pytest.raises(ReplayError, match=said):
        replay(f"```console\n{block}\n```\n", tmp_path)


def test_a_session_is_one_shell_that_ends_with_its_children(tmp_path: Path) -> None:
    """Variables, directory and background processes last as long as the page, and no longer."""
    text = (
        "```console\n$ export A=1; cd ..; cd -\n…\n$ echo $A\n1\n$ sleep 600 &\n"
        "$ echo $! > pid\n```\n"
    )
    assert replay(text, tmp_path) == 4
    pid = int((tmp_path / "page" / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


def test_every_page_is_reached_from_the_readme() -> None:
    """No page of the documentation is an orphan."""
    listed = subprocess.run(
        ["grep", "-rhoE", r"\]\([^)#]+", "README.md", "CONTRIBUTING.md", "docs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    targets = {os.path.basename(link[2:]) for link in listed.split()}  # noqa: PTH119
    for page in pages(ROOT):
        folder = page.parent.name
        assert page.name == "README.md" or page.name in targets or folder in targets, page
