"""A command for a server that listens on a Unix socket."""

import asyncio
from pathlib import Path

from legation.errors import LimitExceeded, TimedOut, Unavailable

_MAX_ANSWER = 1 << 20
_READ = 1 << 16


async def converse(
    socket: Path, command: bytes, *, timeout_s: float, limit: int = _MAX_ANSWER
) -> bytes:
    """Send `command`, after which the server hangs up, and return all that it answers.

    Raises:
        Unavailable: nobody listens, or the connection breaks off.
        LimitExceeded: the answer has more than `limit` bytes.
        TimedOut: it took longer than `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(command)
                return await _all_of(reader, limit)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise TimedOut(f"{socket} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise Unavailable(f"{socket} does not answer: {error.strerror or error}") from None


async def _all_of(reader: asyncio.StreamReader, limit: int) -> bytes:
    answer = bytearray()
    while data := await reader.read(_READ):
        answer += data
        if len(answer) > limit:
            raise LimitExceeded(f"an answer of more than {limit} bytes")
    return bytes(answer)
