"""Every fuzz target, over its seeds and a few thousand changes of them, without a fuzzer."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run as fuzz_run

CHANGES = 300
TARGETS = fuzz_run.targets()


def test_there_are_targets() -> None:
    """The folder holds fuzz targets, so that an empty run cannot pass for a clean one."""
    assert TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_survives_its_seeds_and_changes_of_them(target: fuzz_run.Target) -> None:
    """No seed, and no seed with bytes changed, cut or repeated, raises anything unexpected."""
    module = target.load()
    one_input = fuzz_run.clean(module.one_input)
    seeds = fuzz_run.seeds_of(module)
    for seed in seeds:
        one_input(seed)
    dice = random.Random(target.name)
    for _ in range(CHANGES):
        one_input(_changed(dice.choice(seeds), dice))


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


def _changed(seed: bytes, dice: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(data))
        match dice.randrange(4):
            case 0:
                data[at:at] = dice.randbytes(dice.randint(1, 8))
            case 1:
                del data[at : at + dice.randint(1, 16)]
            case 2:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case _:
                data[at:at] = data[at : at + 32]
    return bytes(data)
