"""The rules of the house, held by tests: layers, names, sizes, and what must never be tracked."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from legation import causes, errors
from legation.causes import Cause
from legation.cli.exit_status import MEANINGS
from legation.errors import OUTCOMES, LegationError

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "legation"
GENERATED = SOURCE / "wire" / "protobuf"
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "lib", "shared"}
# What may be longer, and why.
LONG_FUNCTIONS = {
    ("agent/wiring.py", "__init__"): "the one place where an agent's parts are joined",
}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if GENERATED not in path.parents)


def _lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [tool, "--no-cache"], cwd=root, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin", "HOME": str(root)},
    )  # fmt: skip


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """A copy of the sources and contracts that a test may spoil."""
    shutil.copytree(SOURCE, tmp_path / "src" / "legation")
    for name in (".importlinter", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_layers_hold() -> None:
    """Nothing imports upwards or sideways."""
    checked = _lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("pki/keys.py", "import asyncio", "pure"),
        ("policy/model.py", "import yaml", "light"),
        ("envoy/tls.py", "import ssl", "resources"),
        ("wire/canonical.py", "import legation.agent.model", "layers"),
        ("agent/model.py", "import legation.authority.model", "layers"),
        ("authority/administration/entries.py", "import legation.authority.store.sqlite", "store"),
        ("authority/status.py", "import prometheus_client", "metrics"),
    ],
)
def test_a_broken_layer_is_caught(copied_tree: Path, module: str, line: str, contract: str) -> None:
    """An import against a contract is found, and the contract named."""
    path = copied_tree / "src" / "legation" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    checked = _lint_imports(copied_tree)
    assert checked.returncode != 0
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    assert f"{contracts[f'importlinter:contract:{contract}']['name']} BROKEN" in checked.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    """A module has at most 400 lines, a function at most 40 without its docstring."""
    text = path.read_text()
    assert text.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        known = (str(path.relative_to(SOURCE)), getattr(node, "name", "")) in LONG_FUNCTIONS
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not known:
            assert _length(node) <= LONGEST_FUNCTION, f"{node.name} at line {node.lineno}"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_module_has_a_name_that_says_nothing() -> None:
    """No file or folder is called utils, common, helpers or the like."""
    parts = {part for path in MODULES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not parts & FORBIDDEN_NAMES


def test_every_cause_has_texts_and_a_section_in_the_runbook() -> None:
    """Every cause explains itself, in one sentence each, and the runbook says more."""
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    headings = set(re.findall(r"^#+ `?([a-z_]+)`?$", runbook, re.MULTILINE))
    for cause in Cause:
        assert cause.explanation.endswith(".")
        assert cause.remedy
        assert not cause.remedy.endswith(".")
    assert headings >= {str(cause) for cause in Cause}


def test_causes_name_commands_that_exist() -> None:
    """Every command that a remedy quotes is one that the command line knows."""
    import click

    from legation.cli.main import cli

    context = click.Context(cli)
    quoted = {
        words
        for path in MODULES
        for words in re.findall(r"`legation ([a-z][a-z -]*)", path.read_text())
    }
    for words in sorted(quoted):
        _assert_command(cli, context, words.split())


def _assert_command(group: object, context: object, words: list[str]) -> None:
    import click

    command = group
    for word in words:
        if word.startswith("-") or not isinstance(command, click.Group):
            return
        found = command.get_command(context, word)  # type: ignore[arg-type]
        assert found is not None, f"`legation {' '.join(words)}` is no command"
        command = found


def test_every_error_leaves_the_process_in_one_known_way() -> None:
    """Every error class maps to HTTP, gRPC and exit status; every status has a meaning."""

    def every(kind: type[LegationError]) -> set[type[LegationError]]:
        return {kind}.union(*(every(child) for child in kind.__subclasses__()))

    own = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)
           if issubclass(kind, LegationError)}  # fmt: skip
    assert own == set(OUTCOMES)
    for kind in every(LegationError):
        assert any(parent in OUTCOMES for parent in kind.__mro__)
    assert {outcome.exit for outcome in OUTCOMES.values()} <= set(MEANINGS)
    assert len({kind.code for kind in OUTCOMES}) == len(OUTCOMES)
    assert all(phrase == phrase.lower() for phrase, _ in causes._PHRASES)


def _tracked_texts() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    texts = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and not name.startswith("requirements/"):
            try:
                texts[name] = path.read_text()
            except UnicodeDecodeError:
                continue
    return texts


def test_no_file_names_a_machine_or_a_package_mirror() -> None:
    """No tracked file holds a developer's path or the address of a package index."""
    here = str(ROOT)
    mirror = re.compile(r"index-url|https?://[^\s/]*(pypi|npmjs|crates|proxy\.golang)[^\s/]*/")
    home = re.compile(r"/(home|Users)/[a-z]+/")
    for name, text in _tracked_texts().items():
        if name == "tests/test_architecture.py":
            continue
        assert here not in text, name
        assert not mirror.search(text), name
        assert not home.search(text), name


def test_nothing_is_left_to_do() -> None:
    """No source carries a TODO, FIXME or a stub."""
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    for path in MODULES:
        assert not marks.search(path.read_text()), path


def test_the_reference_is_up_to_date() -> None:
    """The generated pages of the documentation are what the code generates now."""
    checked = subprocess.run(
        [sys.executable, "-m", "docs.build", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
