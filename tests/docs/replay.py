"""Replays the ``console`` blocks of a Markdown page, as a reader would type them.

A line that begins with ``$ `` is a command, the lines after it what it prints. In expected
output ``…`` stands for anything within a line, and alone on a line for any number of
lines. A command without expected output must print nothing and succeed. A command that
ends with ``&`` goes on in the background until the page ends.

Two HTML comments direct it, each before the blocks that it concerns::

    <!-- replay: session NAME -->    from here on, one shell and one directory called NAME
    <!-- replay: skip-output -->     the next block must succeed, whatever it prints

The blocks of a page share a session unless told otherwise. All processes of a session
are in one process group that the harness made, and are ended by its id.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_LIMIT_S = 150.0
END_LIMIT_S = 15.0
DEFAULT_SESSION = "page"

_PART = re.compile(
    r"<!-- replay: (?P<directive>[^>]*?) -->|^```console\n(?P<block>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a page, and what it should print.

    Attributes:
        line: where it stands in the page.
        command: what to type.
        expected: the output, with ``…``; None when it does not matter.
        session: which shell it is typed into.
    """

    line: int
    command: str
    expected: str | None
    session: str


class ReplayError(AssertionError):
    """A page says something that is not so."""


def steps_of(text: str) -> Iterator[Step]:
    """Yield the commands of a page in order.

    Raises:
        ReplayError: an unknown directive, or output without a command.
    """
    session, skip_output = DEFAULT_SESSION, False
    for part in _PART.finditer(text):
        match part["directive"] and part["directive"].split():
            case ["session", name]:
                session = name
            case ["skip-output"]:
                skip_output = True
            case None:
                first = text.count("\n", 0, part.start()) + 2
                yield from _steps_of_block(part["block"], first, session, skip_output)
                skip_output = False
            case words:
                raise ReplayError(f"unknown directive: replay: {' '.join(words)}")


def _steps_of_block(block: str, first: int, session: str, skip_output: bool) -> Iterator[Step]:
    command, output, at = "", [""][:0], first
    lines = block.splitlines()
    for number, line in enumerate([*lines, "$ "]):
        if line.startswith("$ ") and not command.endswith("\\"):
            if command:
                expected = None if skip_output else "\n".join(output).strip("\n")
                yield Step(line=at, command=command, expected=expected, session=session)
            command, output, at = line[2:], [], first + number
        elif command.endswith("\\"):
            command += "\n" + line
        elif not command:
            raise ReplayError(f"line {first + number}: output before any command")
        else:
            output.append(line)


def matches(expected: str, output: str) -> bool:
    """Tell whether `output` is what `expected` describes."""
    if not expected.strip():
        return not output.strip()
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else f"{_line_pattern(line)}\n"
        for line in expected.split("\n")
    )
    return re.fullmatch(pattern, output.strip("\n") + "\n") is not None


def _line_pattern(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.rstrip().split("…")) + " *"


@dataclass
class Shell:
    """One bash in a directory of its own, and everything that was started in it."""

    directory: Path
    _process: subprocess.Popen[bytes] = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LEGATION_")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        environment["HOME"] = str(self.directory)
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Type one command; return its status and output.

        Raises:
            ReplayError: it does not end in time, or ends the shell.
        """
        assert self._process.stdin is not None
        self._count += 1
        mark = f"--- replay {os.getpid()} {self._count} "
        if command.rstrip().endswith("&"):
            inside = command.rstrip()[:-1]
            typed = f"{{ {inside} ; }} > background-{self._count}.log 2>&1 < /dev/null &\n"
        else:
            typed = f"{{ {command}\n}} < /dev/null\n"
        self._process.stdin.write(f'{typed}printf "\\n%s%s\\n" "{mark}" "$?"\n'.encode())
        self._process.stdin.flush()
        output = self._read_until(mark)
        text, _, status = output.rpartition(mark)
        return int(status), text

    def background_logs(self) -> str:
        """Return what background commands printed, for a failure's message."""
        texts = [
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.directory.glob("*.log"))
        ]
        return "\n".join(texts)

    def end(self) -> None:
        """End the shell and all that it started, by its process group."""
        group = self._process.pid
        for stop in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, stop)
            deadline = time.monotonic() + END_LIMIT_S
            while _group_lives(group) and time.monotonic() < deadline:
                self._process.poll()  # reap our own child, or the group never empties
                time.sleep(0.02)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read_until(self, mark: str) -> str:
        assert self._process.stdout is not None
        data = b""
        deadline = time.monotonic() + COMMAND_LIMIT_S
        end = re.compile(re.escape(mark.encode()) + rb"[0-9]+\n\Z")
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not end.search(data):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ReplayError(f"no end after {COMMAND_LIMIT_S:g} s: {data.decode()}")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise ReplayError(f"the command ended the shell: {data.decode()}")
                data += chunk
        return data.decode(errors="replace")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def replay(text: str, directory: Path) -> int:
    """Replay a page below `directory`; return the number of commands.

    Raises:
        ReplayError: a command fails or prints something else than the page says.
    """
    shells: dict[str, Shell] = {}
    count = 0
    try:
        for step in steps_of(text):
            if step.session not in shells:
                (directory / step.session).mkdir()
                shells[step.session] = Shell(directory / step.session)
            _replay_step(step, shells[step.session])
            count += 1
    finally:
        for shell in shells.values():
            shell.end()
    return count


def _replay_step(step: Step, shell: Shell) -> None:
    status, output = shell.run(step.command)
    held = step.expected is None or matches(step.expected, output)
    if not step.expected:  # nothing else tells whether it worked
        held = held and status == 0
    if not held:
        raise ReplayError(
            f"line {step.line}: $ {step.command}\nstatus {status}\n--- expected\n{step.expected}\n"
            f"--- printed\n{output}\n--- background\n{shell.background_logs()}"
        )
