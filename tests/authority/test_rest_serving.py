"""The HTTP server itself: reloading TLS, limits against slow and greedy clients, its end."""

import asyncio
import contextlib
import gc
import http.client
import json
import ssl
from pathlib import Path

import pytest
import uvloop

from legation.authority.http.connection import Limits
from legation.authority.http.server import HTTPServer
from legation.authority.http.tls import ServingTLS
from legation.authority.http.upgrade import EXTENSION
from legation.authority.model import Role
from legation.errors import InvalidInput, Unavailable
from tests.support.fake_services import Hierarchy
from tests.support.rest_server import serving

GET = b"GET /v1/bundle HTTP/1.1\r\nhost: x\r\n\r\n"
# Two ways to say where the body ends: what request smuggling is made of (RFC 9112, 6.1).
AMBIGUOUS = (
    b"POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
)
QUICK = Limits(
    connections=2,
    handshake_s=0.3,
    head_s=0.3,
    head_bytes=1024,
    head_fields=10,
    idle_s=1,
    pipelined=4,
    grace_s=1,
)


@pytest.fixture
async def rest(tmp_path):
    async with serving(tmp_path, limits=QUICK) as server:
        yield server


async def opened(rest):
    return await asyncio.open_connection("localhost", rest.port, ssl=rest.context(None))


async def answered(rest, data):
    """Send bytes on a new connection and return everything that comes until it ends."""
    reader, writer = await opened(rest)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_new_certificate_serves_new_handshakes_and_disturbs_no_old_one(rest):
    """After a reload new connections see the new certificate; the old connection goes on."""
    old = rest.connect_as("alice", Role.VIEWER)
    assert (await old.ask("GET", "/v1/status")).status == 200
    _, before = await opened(rest)
    serial, chain, key = rest.hierarchy.serving()
    rest.tls.reload(certificates_pem=chain, key_pem=key, authorities_pem=rest.hierarchy.roots_pem())
    before.close()
    _, writer = await opened(rest)
    shown = writer.get_extra_info("peercert")["serialNumber"]
    assert int(shown, 16) == serial
    writer.close()
    assert (await old.ask("GET", "/v1/status")).status == 200


async def test_a_root_that_is_no_longer_trusted_is_refused_at_the_next_handshake(rest):
    """A reload can take a root away, not only add one."""
    stranger = Hierarchy()
    _, chain, key = stranger.operator("alice")
    foreign = rest.identity_file("foreign", chain, key)
    _, chain, key = rest.hierarchy.serving()
    both = rest.hierarchy.roots_pem() + stranger.roots_pem()
    rest.tls.reload(certificates_pem=chain, key_pem=key, authorities_pem=both)
    assert (await rest.connect(foreign).ask("GET", "/v1/bundle")).status == 200
    rest.tls.reload(certificates_pem=chain, key_pem=key, authorities_pem=rest.hierarchy.roots_pem())
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        await rest.connect(foreign).ask("GET", "/v1/bundle")
    assert rest.refused[-1][0] == "unknown_authority"


async def test_a_reload_that_does_not_fit_changes_nothing(rest):
    """Another key, no PEM or an encrypted key is refused, and the old certificate serves on."""
    _, chain, _ = rest.hierarchy.serving()
    _, _, other_key = rest.hierarchy.serving()
    roots = rest.hierarchy.roots_pem()
    encrypted = (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    for certificates, key, authorities in (
        (chain, other_key, roots),
        (b"", other_key, roots),
        (chain, encrypted, roots),
        (chain, other_key, b""),
        (chain, other_key, "é".encode()),
    ):
        with pytest.raises(InvalidInput, match="cannot be used") as caught:
            rest.tls.reload(certificates_pem=certificates, key_pem=key, authorities_pem=authorities)
        assert b"PRIVATE" not in str(caught.value).encode()
    assert (await rest.connect(None).ask("GET", "/v1/bundle")).status == 200


def test_the_key_leaves_no_descriptor_open() -> None:
    """The anonymous file that carries the key to OpenSSL is closed again."""
    hierarchy = Hierarchy()
    _, chain, key = hierarchy.serving()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ServingTLS(certificates_pem=chain, key_pem=key, authorities_pem=hierarchy.roots_pem())
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x00garbage\r\n\r\n", b"400"),
        (b"GET /v1/bundle HTTP/1.1\r\nhost x\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (AMBIGUOUS, b"400"),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 2000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 11 + b"\r\n", b"431"),
    ],
)
async def test_what_is_no_acceptable_request_is_answered_and_the_connection_ends(
    rest, request_bytes, status
):
    """Malformed, ambiguous and oversized heads get their status as a problem, and a close."""
    answer = await answered(rest, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status, answer
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == int(status)


async def test_a_head_that_trickles_in_is_cut_off(rest):
    """Half a request gets 408 when its time is over; nothing at all is closed in silence."""
    answer = await answered(rest, b"GET /v1/bundle HTTP/1.1\r\nhost: x\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert await answered(rest, b"") == b""


async def trickled(reader, writer, data):
    """Send `data` again and again until the other side ends; return what it said, and how often."""
    said, times = b"", 0
    while not reader.at_eof():
        with contextlib.suppress(ConnectionError):
            writer.write(data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            said += await asyncio.wait_for(reader.read(4096), 0.05)
        times += 1
        assert times < 100
    writer.close()
    return said, times


async def test_bytes_that_begin_no_request_do_not_keep_a_connection_open(rest):
    """Line ends after an answer run against the time of a head, not against the idle time."""
    reader, writer = await opened(rest)
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    said, _ = await trickled(reader, writer, b"\r\n")
    assert b"HTTP/1.1" not in said


async def test_the_rest_of_a_refused_body_does_not_keep_a_connection_open(rest):
    """Whoever goes on sending after 415 is cut off, without a second answer."""
    reader, writer = await opened(rest)
    writer.write(b"POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 415")
    said, _ = await trickled(reader, writer, b"x")
    assert b"HTTP/1.1" not in said


async def test_a_silent_client_does_not_hold_a_handshake_open(rest):
    """A connection that never begins TLS is dropped after the handshake's time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_an_idle_connection_is_closed(rest):
    """After its idle time a kept connection ends."""
    reader, writer = await opened(rest)
    writer.write(GET)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_pipelined_requests_are_answered_in_order_up_to_a_bound(rest):
    """A few pipelined requests are served; a flood of them ends the connection after some."""
    reader, writer = await opened(rest)
    writer.write(GET + GET.replace(b"bundle", b"nowhere") + GET)
    seen = [await reader.readuntil(b"\r\n\r\n") for _ in range(1)]
    assert seen[0].startswith(b"HTTP/1.1 200")
    text = await asyncio.wait_for(reader.read(), 5)
    assert text.index(b" 404 ") < text.rindex(b" 200 ")
    writer.close()
    flood = await answered(rest, GET * 200)
    assert 1 <= flood.count(b"HTTP/1.1 200") <= QUICK.pipelined + 2


async def test_one_connection_too_many_is_told_so(rest):
    """Above the bound a connection gets 503 and ends; those inside it go on."""
    inside = [await opened(rest) for _ in range(QUICK.connections)]
    answer = await answered(rest, GET)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer
    for reader, writer in inside:
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_strangers_do_not_take_the_room_of_those_who_show_a_certificate(rest):
    """Nor the other way round: each have their own bound, and it is counted down again."""
    strangers = [await opened(rest) for _ in range(QUICK.connections)]
    assert (await answered(rest, GET)).startswith(b"HTTP/1.1 503 ")
    alice = rest.connect_as("alice", Role.VIEWER)
    assert (await alice.ask("GET", "/v1/status")).status == 200
    for _, writer in strangers:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(5):
        while (await answered(rest, GET)).startswith(b"HTTP/1.1 503 "):
            await asyncio.sleep(0.02)


async def test_a_websocket_upgrade_is_not_taken(rest, caplog):
    """An upgrade is ignored as HTTP allows, and fills no log."""
    request = GET[:-2] + b"connection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    answer = await answered(rest, request)
    assert b"101" not in answer.split(b"\r\n")[0]
    assert caplog.text == ""


async def test_an_address_in_use_is_named(rest):
    """A second server on the same port is refused with the address; a name without one too."""
    second = HTTPServer(rest.application, host="127.0.0.1", port=rest.port)
    with pytest.raises(Unavailable, match=rf"cannot listen on 127\.0\.0\.1:{rest.port}: Address"):
        await second.start()
    with pytest.raises(Unavailable, match=r"cannot listen on no-such-host\.invalid:0"):
        await HTTPServer(rest.application, host="no-such-host.invalid", port=0).start()
    await second.stop()


async def test_stopping_ends_idle_connections_and_frees_the_port(rest):
    """After stop nothing listens, and a kept connection is closed."""
    reader, writer = await opened(rest)
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\n")
    await rest.server.stop()
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", rest.port)


async def test_a_request_in_progress_ends_before_the_server_does(rest, monkeypatch):
    """Stop waits for an answer that is on its way, and cuts what exceeds the grace time."""
    release, begun = asyncio.Event(), asyncio.Event()

    async def slow(self):
        begun.set()
        await release.wait()
        return ()

    monkeypatch.setattr(type(rest.authority.services().tokens), "list", slow)
    asking = asyncio.create_task(rest.connect_as("alice", Role.VIEWER).ask("GET", "/v1/tokens"))
    await begun.wait()
    stopping = asyncio.create_task(rest.server.stop())
    await asyncio.sleep(0)
    release.set()
    assert (await asking).status == 200
    await asyncio.wait_for(stopping, 3)


async def test_a_request_that_does_not_end_is_cut_after_the_grace_time(rest, monkeypatch):
    """The server stops in bounded time, whatever a handler waits for."""
    begun = asyncio.Event()

    async def never(self):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(type(rest.authority.services().tokens), "list", never)
    asking = asyncio.create_task(rest.connect_as("alice", Role.VIEWER).ask("GET", "/v1/tokens"))
    await begun.wait()
    await asyncio.wait_for(rest.server.stop(), QUICK.grace_s + 2)
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        assert (await asking).status == 500


def test_all_of_it_works_on_uvloop_too(tmp_path) -> None:
    """Certificate, alert and reload behave alike on the loop that production runs."""

    async def scenario() -> None:
        async with serving(tmp_path) as rest:
            alice = rest.connect_as("alice", Role.VIEWER)
            assert (await alice.ask("GET", "/v1/status")).status == 200
            assert (await rest.connect(None).ask("GET", "/v1/status")).status == 401
            _, chain, key = Hierarchy().operator("alice")
            stranger = rest.connect(rest.identity_file("stranger", chain, key))
            with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
                await stranger.ask("GET", "/v1/status")
            serial, chain, key = rest.hierarchy.serving()
            rest.tls.reload(
                certificates_pem=chain, key_pem=key, authorities_pem=rest.hierarchy.roots_pem()
            )
            _, writer = await opened(rest)
            assert int(writer.get_extra_info("peercert")["serialNumber"], 16) == serial
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_that_takes_nothing_of_its_answer_is_cut(factory):
    """One that takes it slowly gets it all, however long that lasts."""
    size = 24 << 20

    async def large(_scope, _receive, send):
        length = (b"content-length", str(size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for _ in range(24):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def scenario():
        limits = Limits(stalled_s=0.5, grace_s=0.1)
        server = HTTPServer(large, host="127.0.0.1", port=0, limits=limits)
        await server.start()
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2 << 20)
        stuck, stuck_writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            for writer in (slow_writer, stuck_writer):
                writer.write(GET)
            taken = 0
            while taken < size:
                taken += len(await asyncio.wait_for(slow.read(2 << 20), 5))
                await asyncio.sleep(0.1)
            with contextlib.suppress(ConnectionResetError):  # what was on its way may still come
                assert len(await asyncio.wait_for(stuck.read(), 5)) < size
        finally:
            for writer in (slow_writer, stuck_writer):
                writer.close()
            await server.stop()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


UPGRADE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: pour\r\n\r\n"


class Pouring:
    """Says what was asked for, as fast as it is taken; ends with the server."""

    def __init__(self, size):
        self.left = size
        self.heard = b""
        self.over = asyncio.Event()

    def begin(self, transport):
        self.transport, self.room = transport, True
        self.resume_writing()

    def data_received(self, data):
        self.heard += data

    def connection_lost(self):
        self.over.set()

    def pause_writing(self):
        self.room = False

    def resume_writing(self):
        self.room = True
        while self.room and self.left:
            self.left -= 1 << 20
            self.transport.write(bytes(1 << 20))

    def server_stops(self):
        self.transport.write(b"bye")
        self.transport.close()


@contextlib.asynccontextmanager
async def pouring(size, limits):
    """Serve connections that become a `Pouring` each."""
    speakers = []

    async def application(scope, _receive, _send):
        speaker = Pouring(size)
        speakers.append(speaker)
        speaker.begin(scope["extensions"][EXTENSION](b"pour", speaker))
        await speaker.over.wait()

    server = HTTPServer(application, host="127.0.0.1", port=0, limits=limits)
    await server.start()
    try:
        yield server, speakers
    finally:
        await server.stop()


async def upgraded(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2 << 20)
    writer.write(UPGRADE)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head == b"HTTP/1.1 101 \r\nconnection: Upgrade\r\nupgrade: pour\r\n\r\n"
    return reader, writer


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_has_left_http_keeps_the_limits(factory):
    """Who takes nothing is cut, who is slow is served; no head, idle or keep-alive time ends it."""
    size = 16 << 20

    async def scenario():
        limits = Limits(stalled_s=0.5, head_s=0.2, idle_s=1, grace_s=0.1)
        async with pouring(size, limits) as (server, speakers):
            (slow, one), (_, other) = await upgraded(server), await upgraded(server)
            taken = 0
            while taken < size:
                taken += len(await asyncio.wait_for(slow.read(2 << 20), 5))
                await asyncio.sleep(0.1)
            await asyncio.wait_for(speakers[1].over.wait(), 5)
            assert not speakers[0].over.is_set()
            one.write(b"no request\r\n\r\n")
            async with asyncio.timeout(5):
                while not speakers[0].heard:
                    await asyncio.sleep(0.01)
            assert speakers[0].heard == b"no request\r\n\r\n"
            one.close()
            other.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


async def test_a_connection_that_has_left_http_ends_with_the_server():
    """It is told before, and can say so."""
    async with pouring(0, Limits(grace_s=2)) as (server, speakers):
        reader, writer = await upgraded(server)
        await asyncio.gather(server.stop(), speakers[0].over.wait())
        assert await asyncio.wait_for(reader.read(), 5) == b"bye"
        writer.close()
