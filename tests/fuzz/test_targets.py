"""Every fuzz target, over its seeds and a few hundred changes of them, without a fuzzer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run as fuzz_run

TARGETS = fuzz_run.targets()


def test_there_are_targets() -> None:
    """The folder holds fuzz targets, so that an empty run cannot pass for a clean one."""
    assert TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_survives_its_seeds_and_changes_of_them(target: fuzz_run.Target) -> None:
    """No seed, and no seed with bytes changed, cut or repeated, raises anything unexpected."""
    # In a process of its own, as when it is fuzzed: a target keeps loops and directories
    # for its lifetime.
    ended = subprocess.run(
        [sys.executable, fuzz_run.__file__, "--seeds", target.name],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(fuzz_run.__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(fuzz_run.__file__).parents[2])},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_a_finding_fails_the_run(tmp_path: Path) -> None:
    """A target that raises anything but our errors makes the runner fail and keeps the input."""
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    runner = tmp_path / "tests" / "fuzz" / "run.py"
    runner.write_text(Path(fuzz_run.__file__).read_text())
    runner.with_name("fuzz_broken.py").write_text(
        "def one_input(data: bytes) -> None:\n    if data[:1] == b'{':\n        raise KeyError\n"
    )
    pytest.importorskip("atheris")
    ended = subprocess.run(
        [sys.executable, str(runner), "--seconds", "5"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "1 with findings: broken" in ended.stdout
    assert list((tmp_path / ".fuzz" / "broken" / "findings").iterdir())
