"""Programs that use the SDK pass the strictest checks of two type checkers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SAMPLES = sorted(HERE.glob("sample_*.py"))
WRONG = """\
from legation.sdk import Source
from legation.sdk.tls import server_context


def wrong(source: Source) -> int:
    server_context(source)
    server_context(source, authorize="spiffe://example.org/api")
    return source.view().svid.spiffe_id
"""
_SETTINGS = "[mypy]\nstrict = True\n" + "".join(
    f"[mypy-{name}.*]\nignore_missing_imports = True\n" for name in ("grpc", "asyncpg")
)
_PYRIGHT = """{"typeCheckingMode": "standard", "reportMissingTypeStubs": false,
"pythonVersion": "3.11", "reportMissingModuleSource": false}"""


def mypy(directory: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    settings = directory / "mypy.ini"
    settings.write_text(_SETTINGS)
    cache = HERE.parent.parent / ".mypy_cache" / "samples"
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", cache, *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def pyright(directory: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    for file in files:
        shutil.copy(file, directory)
    (directory / "pyrightconfig.json").write_text(_PYRIGHT)
    # The machine's own node: nothing is fetched.
    environment = {**os.environ, "PYRIGHT_PYTHON_GLOBAL_NODE": "on"}
    environment["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pyright", "--project", directory, "--pythonpath", sys.executable],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, pyright])
def test_programs_of_users_check(check: object, tmp_path: Path) -> None:
    """Sources, contexts, integrations and tests are typed as the documentation shows them."""
    done = check(tmp_path, *SAMPLES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, pyright])
def test_mistakes_are_found(check: object, tmp_path: Path) -> None:
    """A forgotten authorizer, a string for one and a wrong result are errors, line by line."""
    source = tmp_path / "from" / "wrong.py"
    source.parent.mkdir()
    source.write_text(WRONG)
    work = tmp_path / "work"
    work.mkdir()
    done = check(work, source)
    assert done.returncode == 1
    for line in (6, 7, 8):
        assert f"wrong.py:{line}:" in done.stdout, done.stdout
