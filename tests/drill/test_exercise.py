"""Whole drills against servers in this process, each with a fault of its own."""

import asyncio
import contextlib
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from legation.clock import SystemClock
from legation.config.ports import unused_port
from legation.drill import Certified, Recorded, Target, run
from legation.drill.connection import Identity
from legation.drill.exercise import Moment, watch
from legation.drill.outcomes import Manner, Sight
from legation.drill.targets import Protocol
from legation.errors import Unavailable
from legation.pki import certificates_to_pem, private_key_to_pem
from legation.wire.drill import DrillReport, DrillRow, Kind, Outcome
from tests.support.sdk_source import Authority, now

SERVED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
REVOKED = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 31\r\n\r\n" + b'{"cause":"certificate_revoked"}'
)
LAST = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
SIGHT = Sight(manner=Manner.ANSWERED, status=404)
# What a server says to the certificate with a serial number; None to hang up.
Respond = Callable[[int | None], bytes | None]


class DecoyAuthority:
    """Implements `DrillAuthority` with a CA of its own."""

    def __init__(self) -> None:
        self.ca = Authority()
        self.bundle_pem = certificates_to_pem([self.ca.root.certificate]).decode()
        self.revoked: set[int] = set()
        self.away = False

    async def certify(self, name: str, *, lifetime_s: int) -> Certified:
        svid = self.ca.issue(
            f"/legation/decoy/{name}", not_after=now() + timedelta(seconds=lifetime_s + 1)
        )
        return Certified(
            spiffe_id=svid.spiffe_id,
            identity=Identity(chain=tuple(svid.chain), private_key=svid.private_key),
            serial=svid.chain[0].serial_number,
        )

    async def revoke(self, serial: int) -> Recorded:
        await asyncio.sleep(0.01)
        if self.away:
            raise Unavailable("the authority is away")
        self.revoked.add(serial)
        return Recorded(at=SystemClock().now(), revision=7)

    def context(self, path: str = "/server", **validity: Any) -> ssl.SSLContext:
        """Return what a server of this trust domain has, that checks chains and no lists."""
        svid = self.ca.issue(path, **validity)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.bundle_pem)
        context.num_tickets = 0
        with tempfile.NamedTemporaryFile() as file:
            file.write(private_key_to_pem(svid.private_key) + certificates_to_pem(svid.chain))
            file.flush()
            context.load_cert_chain(file.name)
        return context


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Listen, and see every connection to its end; yield the port."""
    tasks: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def seen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks[asyncio.current_task()] = writer
        with contextlib.suppress(OSError, EOFError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        del tasks[asyncio.current_task()]

    server = await asyncio.start_server(seen, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for writer in tasks.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in tasks if task))


@asynccontextmanager
async def http1(context: ssl.SSLContext | None, respond: Respond) -> AsyncIterator[Target]:
    """Serve HTTP/1.1; `respond` decides on each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = (writer.get_extra_info("peercert") if context else None) or {}
        serial = int(shown["serialNumber"], 16) if "serialNumber" in shown else None
        while await reader.readuntil(b"\r\n\r\n"):
            answer = respond(serial)
            if answer is None:
                break
            writer.write(answer)
            await writer.drain()
            if b"close" in answer:
                break

    async with serving(serve, context) as port:
        yield Target(host="127.0.0.1", port=port, protocol=Protocol.HTTP1)


async def drilled(
    authority: DecoyAuthority, *targets: Target, timeout_s: float = 0.2
) -> DrillReport:
    return await run(
        targets, authority, timeout_s=timeout_s, path="/legation/drill", at=SystemClock().now()
    )


def rows(report: DrillReport, target: Target) -> dict[Kind, DrillRow]:
    return {row.kind: row for row in report.rows if row.target == target.name}


def outcomes(report: DrillReport, target: Target) -> dict[Kind, Outcome]:
    return {kind: row.outcome for kind, row in rows(report, target).items()}


GOOD = {
    Kind.NEW_HANDSHAKE: Outcome.REFUSED,
    Kind.OPEN_HTTP1: Outcome.REFUSED,
    Kind.RESUMED_SESSION: Outcome.NOT_OFFERED,
    Kind.EXPIRED_CERTIFICATE: Outcome.REFUSED,
    Kind.ANOTHER_AUTHORITY: Outcome.REFUSED,
    Kind.NO_CERTIFICATE: Outcome.REFUSED,
    Kind.BYSTANDER: Outcome.UNHARMED,
}


async def test_servers_that_refuse_have_times_and_one_that_does_not_is_named() -> None:
    """By hanging up, by 403 or by our cause: each counts; an answer as before does not."""
    authority = DecoyAuthority()
    revoked = authority.revoked
    responses: list[Respond] = [
        lambda serial: None if serial in revoked else SERVED,
        lambda serial: FORBIDDEN if serial in revoked else SERVED,
        lambda serial: REVOKED if serial in revoked else FORBIDDEN,
        lambda serial: SERVED,
        lambda serial: FORBIDDEN,
        lambda serial: None if serial in revoked else LAST,
    ]
    async with contextlib.AsyncExitStack() as stack:
        targets = [
            await stack.enter_async_context(http1(authority.context(), respond))
            for respond in responses
        ]
        report = await drilled(authority, *targets)
    for target in targets[:3]:
        assert outcomes(report, target) == GOOD
        after = rows(report, target)[Kind.NEW_HANDSHAKE].after_ms
        assert after is not None
        assert 0 <= after < 1000
    ignoring = GOOD | dict.fromkeys((Kind.NEW_HANDSHAKE, Kind.OPEN_HTTP1), Outcome.LET_IN)
    assert outcomes(report, targets[3]) == ignoring
    assert outcomes(report, targets[4]) == ignoring  # 403 to all and sundry proves nothing
    assert outcomes(report, targets[5]) == GOOD | {Kind.OPEN_HTTP1: Outcome.NOT_OFFERED}
    assert {row.target for row in report.findings} == {targets[3].name, targets[4].name}
    assert report.revision == 7


async def test_a_refusal_in_the_last_moment_is_confirmed_after_the_time() -> None:
    """The time is for the first refusal; without one, it ends the watch."""
    sights = [SIGHT, SIGHT, *(Sight(manner=Manner.CLOSED) for _ in range(3))]

    async def attempt() -> Sight:
        return sights.pop(0)

    begun = Moment(asyncio.get_running_loop().time() - 1.0)
    late = await watch(attempt, baseline=SIGHT, since=begun, timeout_s=0.5)
    assert (late.refused_at, late.sight, len(sights)) == (None, SIGHT, 4)
    del sights[0]
    held = await watch(attempt, baseline=SIGHT, since=begun, timeout_s=0.5)
    assert held.refused_at is not None
    assert sights == []


async def test_a_server_that_ends_connections_for_its_own_reasons_is_not_taken_to_refuse() -> None:
    """An end after so many requests is no refusal while the decoy is let in again."""
    authority = DecoyAuthority()
    count = 0

    def respond(serial: int | None) -> bytes | None:
        nonlocal count
        count += 1
        return LAST if count % 5 == 0 else SERVED

    async with http1(authority.context(), respond) as target:
        found = outcomes(await drilled(authority, target), target)
    assert found[Kind.OPEN_HTTP1] is Outcome.LET_IN
    assert found[Kind.BYSTANDER] is Outcome.UNHARMED


async def test_a_server_that_has_had_enough_before_the_revocation_proves_nothing() -> None:
    """It refuses the very decoy that will be revoked, for its many tries and never for that."""
    authority = DecoyAuthority()
    tries: Counter[int | None] = Counter()

    def respond(serial: int | None) -> bytes | None:
        if authority.revoked:
            return SERVED
        tries[serial] += 1
        return None if max(tries.values()) > 8 and tries[serial] > 4 else SERVED

    async with http1(authority.context(), respond) as target:
        found = rows(await drilled(authority, target), target)
    assert found[Kind.NEW_HANDSHAKE].outcome is Outcome.REFUSED_BEFORE
    assert found[Kind.NEW_HANDSHAKE].after_ms is None


async def test_a_server_that_resumes_sessions_of_the_revoked_is_found() -> None:
    """A ticket that still opens the door after the revocation is a finding."""
    authority = DecoyAuthority()
    context = authority.context()
    context.num_tickets = 2
    async with http1(context, lambda _: SERVED) as target:
        found = rows(await drilled(authority, target), target)
    assert found[Kind.RESUMED_SESSION].outcome is Outcome.LET_IN


async def test_a_server_that_refuses_everybody_harms_the_bystander() -> None:
    """A refusal of the revoked decoy is worth nothing if the good one is refused as well."""
    authority = DecoyAuthority()
    async with http1(
        authority.context(), lambda _: None if authority.revoked else SERVED
    ) as target:
        found = rows(await drilled(authority, target), target)
    assert found[Kind.NEW_HANDSHAKE].outcome is Outcome.REFUSED
    assert found[Kind.BYSTANDER].outcome is Outcome.HARMED
    assert "connection closed by the peer" in found[Kind.BYSTANDER].detail


async def test_a_server_that_needs_no_certificate_is_found() -> None:
    """Who shows nothing, or another authority's certificate, must be refused; 400 does that."""
    authority = DecoyAuthority()
    revoked = authority.revoked
    lax, strict = authority.context(), authority.context()
    lax.verify_mode = strict.verify_mode = ssl.CERT_OPTIONAL
    async with (
        http1(lax, lambda serial: None if serial in revoked else SERVED) as open_house,
        http1(
            strict,
            lambda serial: BAD_REQUEST if serial is None or serial in revoked else SERVED,
        ) as like_nginx,
    ):
        report = await drilled(authority, open_house, like_nginx)
    assert outcomes(report, open_house) == GOOD | {Kind.NO_CERTIFICATE: Outcome.LET_IN}
    assert outcomes(report, like_nginx) == GOOD


async def test_what_cannot_be_drilled_says_why() -> None:
    """Nobody there, another server, no TLS, another authority's, and one that refuses all."""
    authority = DecoyAuthority()
    async with (
        http1(authority.context(), lambda _: None) as refusing,
        http1(authority.context("/other"), lambda _: SERVED) as other,
        http1(DecoyAuthority().context(), lambda _: SERVED) as foreign,
        serving(_greet, None) as plaintext_port,
    ):
        plaintext = Target(host="127.0.0.1", port=plaintext_port)
        absent = Target(host="127.0.0.1", port=unused_port())
        wanted = Target(
            host=other.host,
            port=other.port,
            spiffe_id="spiffe://example.org/server",
            protocol=Protocol.HTTP1,
        )
        report = await drilled(authority, refusing, wanted, foreign, plaintext, absent)
    found = {row.target: (row.outcome, row.detail) for row in report.rows}
    assert len(found) == len(report.rows) == len(report.findings) == 5
    assert found[refusing.name][0] is Outcome.REFUSED_BEFORE
    assert found[wanted.name] == (
        Outcome.WRONG_SERVER,
        "shows spiffe://example.org/other, not spiffe://example.org/server",
    )
    assert found[foreign.name][0] is Outcome.WRONG_SERVER
    assert "is not accepted" in found[foreign.name][1]
    assert found[plaintext.name][0] is Outcome.WRONG_SERVER
    assert found[absent.name][0] is Outcome.NOT_REACHABLE


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 example.org\r\n")
    await reader.read()


async def test_a_server_that_goes_away_is_not_taken_to_refuse() -> None:
    """After the revocation nobody is there any more: that is not reachable, not refused."""
    authority = DecoyAuthority()
    async with http1(authority.context(), lambda _: SERVED) as target:
        drill = asyncio.create_task(drilled(authority, target))
        while not authority.revoked:
            await asyncio.sleep(0.001)
    report = await drill
    assert rows(report, target)[Kind.NEW_HANDSHAKE].outcome is Outcome.NOT_REACHABLE


async def test_an_authority_that_cannot_revoke_ends_the_drill() -> None:
    """The error comes through, and no connection or task is left behind."""
    authority = DecoyAuthority()
    authority.away = True
    async with http1(authority.context(), lambda _: SERVED) as target:
        with pytest.raises(Unavailable, match="the authority is away"):
            await drilled(authority, target)


@asynccontextmanager
async def http2(
    context: ssl.SSLContext, refuses: Callable[[int], bool], *, status: str = "403"
) -> AsyncIterator[Target]:
    """Serve HTTP/2; whom it refuses gets `status`, or its stream reset if that is empty."""
    context.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        writer.write(state.data_to_send())
        while data := await reader.read(65536):
            for event in state.receive_data(data):
                if not isinstance(event, h2.events.RequestReceived):
                    continue
                stream = event.stream_id or 0
                if refuses(serial) and not status:
                    state.reset_stream(stream)
                    continue
                said = status if refuses(serial) else "404"
                state.send_headers(stream, [(":status", said)])
                state.send_data(stream, b"{}", end_stream=True)
            writer.write(state.data_to_send())

    async with serving(serve, context) as port:
        yield Target(host="127.0.0.1", port=port)


@pytest.mark.parametrize("status", ["403", ""])
async def test_http2_is_found_by_what_the_handshake_agrees_on(status: str) -> None:
    """A server that takes h2 alone is drilled in HTTP/2; 403 and a reset stream are refusals."""
    authority = DecoyAuthority()
    async with http2(
        authority.context(), lambda serial: serial in authority.revoked, status=status
    ) as target:
        found = outcomes(await drilled(authority, target), target)
    assert found == {
        **{kind: outcome for kind, outcome in GOOD.items() if kind is not Kind.OPEN_HTTP1},
        Kind.OPEN_HTTP2: Outcome.REFUSED,
    }


async def test_an_http2_server_that_ignores_the_revocation_is_found() -> None:
    """The twin: it answers as before."""
    authority = DecoyAuthority()
    async with http2(authority.context(), lambda _: False) as target:
        found = outcomes(await drilled(authority, target), target)
    assert found[Kind.OPEN_HTTP2] is found[Kind.NEW_HANDSHAKE] is Outcome.LET_IN


@asynccontextmanager
async def silent(context: ssl.SSLContext, cuts: Callable[[int], bool]) -> AsyncIterator[int]:
    """Accept connections, say nothing, and cut whom `cuts` tells."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        while not (cuts(serial) or reader.at_eof()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.01)
        writer.transport.abort()

    async with serving(serve, context) as port:
        yield port


async def test_a_server_that_never_speaks_is_watched_for_the_end_of_connections() -> None:
    """Over TCP an open connection that is cut is refused; one that stays open is let in."""
    authority = DecoyAuthority()
    async with (
        silent(authority.context(), lambda serial: serial in authority.revoked) as cutting,
        silent(authority.context(), lambda _: False) as ignoring,
    ):
        targets = [
            Target(host="127.0.0.1", port=port, protocol=Protocol.TCP)
            for port in (cutting, ignoring)
        ]
        report = await drilled(authority, *targets)
    found = outcomes(report, targets[0])
    assert found[Kind.OPEN_TCP] is found[Kind.NEW_HANDSHAKE] is Outcome.REFUSED
    assert found[Kind.BYSTANDER] is Outcome.UNHARMED
    found = outcomes(report, targets[1])
    assert found[Kind.OPEN_TCP] is found[Kind.NEW_HANDSHAKE] is Outcome.LET_IN
