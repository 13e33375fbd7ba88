"""The demo cleans up after itself, however it ends; its full course is replayed from the README."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest


def _processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words:
            found.append(words)
    return found


@pytest.mark.envoy
@pytest.mark.together
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_nothing_behind(
    number: signal.Signals, short_path: Path, child_environment: dict[str, str]
) -> None:
    """Ctrl-C and SIGTERM end every process and remove the directory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "legation", "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**child_environment, "TMPDIR": str(short_path), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    shown = b""
    async with asyncio.timeout(60):
        while b"2. A call that works" not in (line := await process.stdout.readline()):
            shown += line
            assert line, shown.decode()  # it ended by itself
    assert list(short_path.glob("legation-demo-*"))
    assert _processes_naming(str(short_path))
    process.send_signal(number)
    async with asyncio.timeout(30):
        output = await process.stdout.read()
        status = await process.wait()
    assert status == 130, output
    assert b"Traceback" not in output
    assert not _processes_naming(str(short_path))
    assert not list(short_path.glob("legation-demo-*"))
