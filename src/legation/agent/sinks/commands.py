"""Telling another process something: by a program, a signal, or a request to this machine."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import h11

from legation.agent.private_files import read_bounded
from legation.errors import InvalidInput, LimitExceeded, NotFound, TimedOut, Unavailable

# What a program needs, and nothing of ours: our environment may hold a join token.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}
_MAX_OUTPUT = 1 << 16
_MAX_SHOWN = 300
_READ = 1 << 16


async def run(program: Sequence[str], *, timeout_s: float) -> None:
    """Run a program to its end, without a shell, input or terminal.

    Raises:
        Unavailable: it cannot be started, or fails; the message has the end of its output.
        TimedOut: it took longer than `timeout_s`; it was killed, and its children with it.
    """
    await _run(program, b"", {}, timeout_s)


async def ask(
    program: Sequence[str],
    question: bytes,
    *,
    environment: Mapping[str, str],
    limit: int,
    timeout_s: float,
) -> bytes:
    """Run a program that reads `question` from its input, and return all that it answers.

    Args:
        program: as for `run`.
        question: the input, at most what a pipe holds: 64 KiB.
        environment: variables beside the two that every program gets.
        limit: how many bytes the answer may have.
        timeout_s: as for `run`.

    Raises:
        Unavailable, TimedOut: as `run` does.
        LimitExceeded: the answer is longer than `limit`.
    """
    output, length = await _run(program, question, environment, timeout_s, kept=limit)
    if length > limit:
        raise LimitExceeded(f"{program[0]} answers more than {limit} bytes")
    return output


async def _run(
    program: Sequence[str],
    question: bytes,
    environment: Mapping[str, str],
    timeout_s: float,
    *,
    kept: int = _MAX_OUTPUT,
) -> tuple[bytes, int]:
    """Return the end of the output, and how long all of it was."""
    name = program[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.PIPE if question else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**_ENVIRONMENT, **environment},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{name} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout_s):
            if process.stdin is not None:
                process.stdin.write(question)
                process.stdin.close()
            output, length = await _output_of(process, kept)
            status = await process.wait()
    except TimeoutError:
        raise TimedOut(f"{name} took longer than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status:
        raise Unavailable(f"{name} failed with status {status}: {_shown(output)}")
    return output, length


async def _output_of(process: asyncio.subprocess.Process, kept: int) -> tuple[bytes, int]:
    """Read everything, so that the program never waits for us; keep the end."""
    assert process.stdout is not None  # noqa: S101 - asked for above
    output, length = bytearray(), 0
    while data := await process.stdout.read(_READ):
        length += len(data)
        output += data
        del output[:-kept]
    return bytes(output), length


def _shown(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    text = " / ".join(" ".join(line.split()) for line in lines[-3:])
    return (
        "".join(char if char.isprintable() else "?" for char in text)[-_MAX_SHOWN:] or "no output"
    )


def read_pid(pid_file: Path) -> int:
    """Return the process id in the first line of a file.

    Raises:
        Unavailable: there is none, or no such process runs.
    """
    try:
        words = read_bounded(pid_file, limit=4096).split()
        pid = int(words[0])
        if pid <= 1:
            raise ValueError
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except NotFound as error:
        raise Unavailable(error.message, remedy="start the server") from None
    except (InvalidInput, ValueError, IndexError, OverflowError):
        raise Unavailable(f"{pid_file} holds no process id") from None
    except ProcessLookupError:
        raise Unavailable(f"no process {pid} runs, which {pid_file} names") from None
    return pid


def send_signal(pid_file: Path, name: str) -> int:
    """Send a signal to the process that a file names; return its id.

    Raises:
        Unavailable: there is no such process, or it is not ours to signal.
    """
    pid = read_pid(pid_file)
    try:
        os.kill(pid, signal.Signals[f"SIG{name}"])
    except OSError as error:
        raise Unavailable(
            f"process {pid} cannot be sent SIG{name}: {error.strerror}",
            remedy="the agent must run as the same user, as root, or with CAP_KILL",
        ) from None
    return pid


async def request(method: str, url: str, *, limit: int, timeout_s: float) -> bytes:
    """Send a request over plain HTTP and return the body of a successful answer.

    Raises:
        Unavailable: there is no answer, or one that is not 200 to 299.
        LimitExceeded: the body is longer than `limit` bytes.
        TimedOut: it took longer than `timeout_s`.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidInput(f"not a plain HTTP URL: {url[:200]!a}")
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                return await _exchange(reader, writer, (method, target, parts.netloc), limit)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise TimedOut(f"{parts.netloc} did not answer within {timeout_s:g} s") from None
    except (OSError, h11.RemoteProtocolError) as error:
        raise Unavailable(f"{parts.netloc} does not answer: {error}") from None


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    line: tuple[str, str, str],
    limit: int,
) -> bytes:
    method, target, host = line
    connection = h11.Connection(h11.CLIENT)
    headers = [("host", host), ("connection", "close"), ("content-length", "0")]
    writer.write(connection.send(h11.Request(method=method, target=target, headers=headers)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                raise Unavailable(f"{host} answered with HTTP status {event.status_code}")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise LimitExceeded(f"the answer of {host} is longer than {limit} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        else:
            raise Unavailable(f"{host} closed the connection without an answer")
