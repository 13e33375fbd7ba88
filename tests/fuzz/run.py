"""Run the fuzz targets: every ``fuzz_*.py`` beside this file, one after the other.

A target is a module with ``one_input(data: bytes)``; it may have ``SEEDS``, inputs to
begin with. Whatever it raises, apart from a LegationError, is a finding: the input is
kept in ``.fuzz/<target>/findings`` and the run fails.

    python tests/fuzz/run.py --seconds 60
    python tests/fuzz/run.py --seconds 600 config
    python tests/fuzz/run.py --list
    python tests/fuzz/run.py --seeds config      (the seeds and some changes of them; no fuzzer)
"""

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from legation.errors import LegationError

HERE = Path(__file__).parent
WORK = HERE.parent.parent / ".fuzz"
SLOWEST_INPUT_S = 10
MEMORY_MB = 2048
LONGEST_INPUT = 65536
CHANGES = 300
# Inputs that every parser has to survive, whatever it parses.
COMMON_SEEDS = (
    b"",
    b"\0",
    b"\xff" * 16,
    b"{}",
    b"[]" * 40,
    b"[" * 4096,
    b"a: &a [*a, *a]\n",
    b'{"a":' * 500,
    b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x80" * 64,
    b"spiffe://example.org/a/../b",
    "spiffe://ex\u00e4mple.org/\u202e".encode(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One fuzz target."""

    name: str
    path: Path

    def load(self) -> ModuleType:
        """Import it."""
        spec = importlib.util.spec_from_file_location(self.path.stem, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def targets() -> list[Target]:
    """Return all targets by name."""
    return [
        Target(name=path.stem.removeprefix("fuzz_"), path=path)
        for path in sorted(HERE.glob("fuzz_*.py"))
    ]


def clean(one_input: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Wrap a target so that an error that Legation raises on purpose is no finding."""

    def run(data: bytes) -> None:
        try:
            one_input(data)
        except LegationError:
            return

    return run


def seeds_of(module: ModuleType) -> tuple[bytes, ...]:
    """Return what to begin with."""
    return (*COMMON_SEEDS, *getattr(module, "SEEDS", ()))


def fuzz(target: Target, *, seconds: int) -> bool:
    """Fuzz one target in a process of its own; return whether nothing was found."""
    corpus, findings = WORK / target.name / "corpus", WORK / target.name / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    child = subprocess.run(
        [
            sys.executable,
            __file__,
            "--child",
            target.name,
            str(corpus),
            f"-max_total_time={seconds}",
            f"-artifact_prefix={findings}/",
            f"-timeout={SLOWEST_INPUT_S}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-max_len={LONGEST_INPUT}",
            "-print_final_stats=1",
        ],
        check=False,
    )
    return child.returncode == 0


def run_child(name: str, arguments: list[str]) -> None:
    """Be the process that fuzzes one target; never returns."""
    import atheris

    target = next(target for target in targets() if target.name == name)
    with atheris.instrument_imports(include=["legation"]):
        module = target.load()
    corpus = Path(arguments[0])
    for seed in seeds_of(module):
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    atheris.Setup([__file__, *arguments], clean(module.one_input))
    atheris.Fuzz()


def try_seeds(target: Target) -> None:
    """Give a target its seeds, and the same few hundred changes of them each time.

    Raises:
        Exception: what the target raised, apart from a LegationError.
    """
    module = target.load()
    one_input = clean(module.one_input)
    seeds = seeds_of(module)
    for seed in seeds:
        one_input(seed)
    dice = random.Random(target.name)
    for _ in range(CHANGES):
        one_input(_changed(dice.choice(seeds), dice))


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


def chosen(names: Iterable[str]) -> list[Target]:
    """Return the targets of these names, or all when there are none."""
    every = targets()
    wanted = list(names)
    unknown = set(wanted) - {target.name for target in every}
    if unknown:
        raise SystemExit(f"no such target: {', '.join(sorted(unknown))}; see --list")
    return [target for target in every if not wanted or target.name in wanted]


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--seeds", action="store_true", help="try the seeds only, in this process")
    options = parser.parse_args(arguments)
    picked = chosen(options.targets)
    if options.list:
        print("\n".join(target.name for target in picked))
        return 0
    if options.seeds:
        for target in picked:
            try_seeds(target)
        return 0
    failed = []
    for target in picked:
        print(f"=== {target.name}: {options.seconds} s", flush=True)
        if not fuzz(target, seconds=options.seconds):
            failed.append(target.name)
    print(f"{len(picked)} targets, {len(failed)} with findings: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
