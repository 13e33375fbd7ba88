"""Child processes that never outlive the one that started them."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from legation.errors import TimedOut, Unavailable

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildProcess:
    """A running child and the file that its output goes to."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> "ChildProcess":
        """Start `argv` in its own session, with its output appended to `log`.

        Ctrl-C in the terminal then reaches only us, and we end the children in order.
        """
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        return cls(name=name, process=process, log=log)

    @property
    def running(self) -> bool:
        """Tell whether the process still runs."""
        return self.process.returncode is None

    async def stop(self, *, grace_s: float = 5.0) -> int:
        """Ask it to end, insist after `grace_s`, and return its exit status."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self.process.wait()
            except TimeoutError:
                await self.kill()
        return await self.process.wait()

    async def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def wait_until(
        self, ready: Callable[[], bool], *, what: str, timeout_s: float = 20.0
    ) -> None:
        """Poll `ready` until it holds.

        Raises:
            Unavailable: the process ended first; the message carries its last lines.
            TimedOut: it did not become ready in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not ready():
            if not self.running:
                raise Unavailable(
                    f"{self.name} ended with status {self.process.returncode}: {self.tail()}",
                    remedy=f"read {self.log}",
                )
            if loop.time() > deadline:
                raise TimedOut(
                    f"{self.name}: {what} took longer than {timeout_s:g} s: {self.tail()}",
                    remedy=f"read {self.log}",
                )
            await asyncio.sleep(0.01)

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of its output, on one line."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(text[-lines:])


def listening(port: int) -> bool:
    """Tell whether something accepts connections on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command_line(*arguments: str) -> list[str]:
    """Return the argv that runs this installation's own command line."""
    return [sys.executable, "-m", "legation", *arguments]


def _die_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl took hold
            os._exit(1)

    return prepare
