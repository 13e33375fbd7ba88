"""The command line, run in this process, and an authority of its own for those that need one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from legation.cli.main import run
from legation.config.ports import unused_port


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one command ended."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


CLI = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CLI:
    """Run one command in this process and return how it ended."""
    for name in list(os.environ):
        if name.startswith("LEGATION_"):
            monkeypatch.delenv(name)

    def run_cli(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(status=status, out=captured.out, err=captured.err)

    return run_cli


@dataclass(frozen=True, kw_only=True)
class RunningAuthority:
    """An authority in a process of its own."""

    directory: Path
    port: int
    flags: tuple[str, ...]  # of `legation server …`

    @property
    def credential(self) -> Path:
        """The first operator's folder."""
        return self.directory / "operator"

    @property
    def connection(self) -> tuple[str, ...]:
        """What every command that speaks to it needs."""
        return ("--server", f"127.0.0.1:{self.port}", "--credential", str(self.credential))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAuthority]:
    """A fresh authority, initialised and run by the real command line."""
    directory = tmp_path_factory.mktemp("authority") / "data"
    port = unused_port()
    flags = ("--trust-domain", "example.org", "--data-dir", str(directory))
    flags += ("--listen", f"127.0.0.1:{port}")
    flags += ("--listen-status", "127.0.0.1:0", "--log-format", "json")
    assert run(["server", "init", *flags]) == 0
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEGATION_")}
    log = directory.with_name("server.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "legation", "server", "run", *flags],
            stderr=output,
            env=environment,
        )
    try:
        _wait_until_ready(log, process)
        yield RunningAuthority(directory=directory, port=port, flags=flags)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()


def _wait_until_ready(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while '"message": "ready"' not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
