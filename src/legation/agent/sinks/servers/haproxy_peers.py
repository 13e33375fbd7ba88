"""Who holds which connection of an HAProxy: refusing their requests, ending their streams.

HAProxy judges a certificate once, in the handshake. Two things in its configuration let it be
asked again: a map of revoked serial numbers, which rules look up for each request, and a stick
table that has one entry for each open connection, with the key

    SERIAL@ADDRESS@PORT@FRONTEND

in which SERIAL is the peer's certificate and ADDRESS and PORT are the peer's. A stream under way,
which `show sess` lists with the same address, port and frontend, is thereby known to be that
peer's, and `shutdown session` ends it alone. HAProxy 2.6 has no stream for a connection that is
idle between two requests; the map answers its next one.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from legation.agent.discovery.connections import canonical_address
from legation.errors import TimedOut, Unavailable

# One command with its payload must fit into tune.bufsize, by default 16 kB.
_CHUNK = 256
_POLL_S = 0.01
_VERSION = re.compile(rb"New version created: ([0-9]+)")
_TABLE = re.compile(rb"# table: \S+, type: \w+, size:([0-9]+), used:([0-9]+)")
_ROW = re.compile(rb"^0x[0-9a-f]+: key=(\S+) use=([0-9]+) ", re.MULTILINE)
_KEY = re.compile(rb"([0-9A-F]{2,40})@([0-9a-f.:]{2,45})@([0-9]{1,5})@(\S+)\Z")
_STREAM = re.compile(
    rb"^(0x[0-9a-f]+): proto=tcpv[46] src=([0-9a-f.:]+):([0-9]+) fe=(\S+) ", re.MULTILINE
)

Ask = Callable[[bytes], Awaitable[bytes]]


class Place(NamedTuple):
    """A connection, as the peer's end of it and where it came in."""

    address: str
    port: int
    frontend: str


async def refuse(ask: Ask, file: Path, wanted: Set[str], known: Set[str] | None) -> None:
    """Make the map that was read from `file` hold `wanted`.

    Args:
        ask: sends a command and returns the answer.
        file: names the map.
        wanted: serial numbers, as `serial_in_map` writes them.
        known: what the map holds, or None when that is not known.

    Raises:
        Unavailable: there is no such map, or it is not changed.
    """
    gone = frozenset() if known is None else known - wanted
    if known is not None and len(gone) <= _CHUNK:
        await _add(ask, file, sorted(wanted - known))
        for serial in sorted(gone):
            await _told(ask, b"del map %s %s\n" % (bytes(file), serial.encode()), b"Key not found")
        return
    # A new version is looked up from its commit on, by all threads; until then the one before is.
    answer = await ask(b"prepare map %s\n" % bytes(file))
    if not (found := _VERSION.search(answer)):
        raise _unexpected(answer)
    await _add(ask, file, sorted(wanted), version=b"@%s " % found[1])
    await _told(ask, b"commit map @%s %s\n" % (found[1], bytes(file)))


async def shut_down(ask: Ask, table: str, revoked: Set[str], *, timeout_s: float) -> int:
    """End the streams of revoked peers, and return when they have ended.

    Args:
        ask: sends a command and returns the answer.
        table: name of the stick table.
        revoked: serial numbers, as `serial_in_map` writes them.
        timeout_s: how long the last may take to end.

    Returns:
        How many were ended.

    Raises:
        Unavailable: there is no such table, it is full, or it holds something else.
        TimedOut: a stream goes on.
    """
    places = _places_of(await ask(b"show table %s\n" % table.encode()), revoked)
    told: set[bytes] = set()
    try:
        async with asyncio.timeout(timeout_s):
            while places:
                found = set(_streams_at(await ask(b"show sess\n"), places))
                if not found:
                    break
                # An identifier is an address in memory, and may come back with another stream.
                for identifier in found:
                    await ask(b"shutdown session %s\n" % identifier)
                told |= found
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TimedOut(f"sessions of revoked peers go on after {timeout_s:g} s") from None
    return len(told)


def _places_of(shown: bytes, revoked: Set[str]) -> frozenset[Place]:
    """Return where the revoked peers are connected, as a table says."""
    head = _TABLE.match(shown)
    if head is None:
        raise _unexpected(shown)
    if int(head[2]) >= int(head[1]):
        raise Unavailable(
            f"the stick table is full, with {int(head[1])} entries: connections may be missing",
            remedy="give the table a larger size",
        )
    places = set()
    for key, use in _ROW.findall(shown):
        parts = _KEY.match(key)
        if parts is None:
            raise Unavailable(
                "the keys of the stick table are not SERIAL@ADDRESS@PORT@FRONTEND",
                remedy="see docs/how-to/use-with-haproxy.md",
            )
        if use != b"0" and parts[1].decode() in revoked:
            places.add(_place(parts[2], parts[3], parts[4]))
    return frozenset(places)


def _streams_at(shown: bytes, places: Set[Place]) -> Iterator[bytes]:
    for identifier, address, port, frontend in _STREAM.findall(shown):
        if _place(address, port, frontend) in places:
            yield identifier


def _place(address: bytes, port: bytes, frontend: bytes) -> Place:
    try:
        return Place(canonical_address(address.decode()), int(port), frontend.decode())
    except ValueError:
        raise Unavailable("HAProxy lists an address that is none") from None


async def _add(ask: Ask, file: Path, serials: Sequence[str], *, version: bytes = b"") -> None:
    for begin in range(0, len(serials), _CHUNK):
        chunk = serials[begin : begin + _CHUNK]
        lines = b"".join(b"%s 1;\n" % serial.encode() for serial in chunk)
        await _told(ask, b"add map %s%s <<\n%s\n" % (version, bytes(file), lines))


async def _told(ask: Ask, command: bytes, also_fine: bytes = b"") -> None:
    answer = (await ask(command)).strip()
    if answer and not (also_fine and answer.startswith(also_fine)):
        raise _unexpected(answer)


def _unexpected(answer: bytes) -> Unavailable:
    words = " ".join(answer.decode(errors="replace").split())
    shown = "".join(char for char in words if char.isprintable())[:200]
    return Unavailable(
        f"HAProxy does not refuse revoked peers: {shown or 'no answer'}",
        remedy="its rules must look up exactly this map and fill this table: "
        "see docs/how-to/use-with-haproxy.md",
    )
