"""The transport of the pyOpenSSL engine: timeouts, back pressure, ends, staples, chunks."""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from legation.causes import Cause
from legation.pki import RevokedEntry
from legation.pki.ocsp import (
    CertificateID,
    Good,
    OCSPError,
    Status,
    StatusRequest,
    build_error,
    build_response,
)
from legation.sdk.authorize import authorize_any
from legation.sdk.model import X509SVID
from legation.sdk.peers import PeerRefused
from legation.sdk.tls import pyopenssl
from legation.sdk.tls.pyopenssl import ClientEngine, ServerEngine, Timeouts, TLSFailure, over_tls
from tests.support.sdk_source import HOUR, Authority, MemorySource, now
from tests.support.sdk_tls import (
    MUST_STAPLE,
    MemoryTransport,
    ask,
    connect,
    echo_server,
    hang_up,
    until,
)

AUTHORITY = Authority()


def source_of(path: str, **changes: Any) -> MemorySource:
    return MemorySource(AUTHORITY.issue(path, **changes), AUTHORITY.bundle())


API, WEB = source_of("/api"), source_of("/web")


class Recording(asyncio.Protocol):
    """An application that notes what happens to it."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.events: list[Any] = []
        self.data = bytearray()
        self.keep_open = keep_open
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Pair:
    """A server's and a client's application, connected."""

    def __init__(self, server: asyncio.Server, near: Recording, far: Recording) -> None:
        self._server, self.near, self.far = server, near, far

    async def end(self) -> None:
        for side in (self.near, self.far):
            side.transport.abort()
            await asyncio.wait_for(asyncio.shield(side.lost), 5)
        self._server.close()
        await self._server.wait_closed()


async def pair(*, keep_open: bool = False, timeouts: Timeouts | None = None) -> Pair:
    made: list[Recording] = []

    def factory() -> Recording:
        made.append(Recording(keep_open=keep_open))
        return made[-1]

    server = await pyopenssl.create_server(
        factory, "127.0.0.1", 0, source=API, authorize=authorize_any(), timeouts=timeouts
    )
    _, near = await pyopenssl.create_connection(
        lambda: Recording(keep_open=keep_open),
        "127.0.0.1",
        server.sockets[0].getsockname()[1],
        source=WEB,
        authorize=authorize_any(),
        timeouts=timeouts,
    )
    assert isinstance(near, Recording)
    await until(lambda: bool(made) and bool(made[0].events))
    return Pair(server, near, made[0])


async def test_a_transport_tells_what_it_is() -> None:
    """Peer, cipher, group and what is below: as libraries ask for them."""
    both = await pair()
    transport = both.near.transport
    assert str(transport.get_extra_info("legation.peer").spiffe_id) == "spiffe://example.org/api"
    assert transport.get_extra_info("cipher")[1] == "TLSv1.3"
    assert transport.get_extra_info("group") == "X25519MLKEM768"
    assert transport.get_extra_info("peername")[0] == "127.0.0.1"
    assert transport.get_extra_info("socket") is not None
    assert transport.get_extra_info("sslcontext")
    assert transport.get_extra_info("unheard of", "default") == "default"
    tls = transport.get_extra_info("ssl_object")
    assert x509.load_der_x509_certificate(tls.getpeercert(True)).serial_number == tls.peer.serial
    names = transport.get_extra_info("peercert")["subjectAltName"]
    assert names == (("URI", "spiffe://example.org/api"),)
    assert transport.get_protocol() is both.near
    assert transport.can_write_eof()
    assert transport.is_reading()
    await both.end()


async def test_a_peer_without_the_hybrid_group_is_served() -> None:
    """A client of the standard library, whose OpenSSL may know no X25519MLKEM768, gets in."""
    async with echo_server("pyopenssl", API) as server:
        streams = await connect("stdlib", server.port, WEB)
        assert await ask(streams) == b"ping"
        await hang_up(streams)


async def test_a_handshake_that_does_not_go_on_times_out() -> None:
    """A client that sends nothing, or stops in the middle, is closed; so is a silent server."""
    brief = Timeouts(handshake=0.05)
    async with echo_server("pyopenssl", API, timeouts=brief) as server:
        for begin in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(begin)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            await hang_up((reader, writer))

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await reader.read()
        finally:
            writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError, match="handshake was not over"):
        await connect("pyopenssl", port, WEB, timeouts=brief)
    waiting = asyncio.create_task(connect("pyopenssl", port, WEB))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    mute.close()
    await mute.wait_closed()


async def test_a_writer_is_paused_while_its_peer_does_not_read() -> None:
    """More than the high limit waits: pause. Everything is read: resume, and nothing is lost."""
    both = await pair()
    both.far.transport.pause_reading()
    assert not both.far.transport.is_reading()
    both.near.transport.set_write_buffer_limits(high=100_000, low=10_000)
    assert both.near.transport.get_write_buffer_limits() == (10_000, 100_000)
    sent = bytes(range(256)) * 64 * 1024
    both.near.transport.write(sent)
    assert both.near.events[-1] == "pause"
    assert both.near.transport.get_write_buffer_size() > 100_000
    await asyncio.sleep(0.02)
    assert not both.far.data
    both.far.transport.resume_reading()
    await until(lambda: len(both.far.data) == len(sent))
    assert bytes(both.far.data) == sent
    assert both.near.events[-1] == "resume"
    await both.end()


async def test_each_direction_ends_by_itself() -> None:
    """After `write_eof` the other direction goes on, until it ends as well."""
    both = await pair(keep_open=True)
    both.near.transport.write(b"last words")
    both.near.transport.write_eof()
    await until(lambda: both.far.events[-1] == "eof")
    assert bytes(both.far.data) == b"last words"
    both.far.transport.writelines([b"still ", b"here"])
    await until(lambda: bytes(both.near.data) == b"still here")
    with pytest.raises(RuntimeError, match="after write_eof"):
        both.near.transport.write(b"more")
    both.far.transport.write_eof()
    assert await asyncio.wait_for(both.near.lost, 5) is None
    assert await asyncio.wait_for(both.far.lost, 5) is None
    both.near.transport.close()  # once more does nothing
    await both.end()


async def test_close_sends_what_waits_and_says_goodbye() -> None:
    """The peer gets everything, then an end that is no error; so does a paused one, later."""
    both = await pair()
    sent = b"x" * 3_000_000
    both.far.transport.pause_reading()
    both.near.transport.write(sent)
    both.near.transport.close()
    assert both.near.transport.is_closing()
    both.near.transport.write(b"too late")
    both.far.transport.resume_reading()
    assert await asyncio.wait_for(both.far.lost, 5) is None
    assert bytes(both.far.data) == sent
    assert both.far.events[-1] == "eof"
    assert await asyncio.wait_for(both.near.lost, 5) is None
    await both.end()


async def test_a_peer_that_does_not_say_goodbye_is_waited_for_a_while() -> None:
    """Closing ends after the time for it, when the peer neither answers nor reads."""
    both = await pair(timeouts=Timeouts(shutdown=0.05))
    both.far.transport.pause_reading()
    both.near.transport.write(b"x" * 30_000_000)
    both.near.transport.close()
    assert await asyncio.wait_for(both.near.lost, 5) is None
    await both.end()


async def test_abort_closes_at_once() -> None:
    """The application is told without an error; the peer sees one, since nobody said goodbye."""
    both = await pair()
    both.near.transport.abort()
    assert await asyncio.wait_for(both.near.lost, 5) is None
    assert isinstance(await asyncio.wait_for(both.far.lost, 5), ConnectionError)
    assert "eof" not in both.far.events
    await both.end()


async def test_a_stream_that_is_cut_short_is_an_error() -> None:
    """An end of the connection without TLS's goodbye is no regular end (RFC 8446, 6.1)."""
    engine = ServerEngine(API, authorize=authorize_any())
    made: list[Recording] = []

    def factory() -> Recording:
        made.append(Recording())
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(over_tls(factory, engine), "127.0.0.1", 0)
    streams = await connect("stdlib", server.sockets[0].getsockname()[1], WEB)
    streams[1].write(b"half a mess")
    await until(lambda: bool(made) and len(made[0].data) == 11)
    streams[1].get_extra_info("socket").shutdown(1)
    error = await asyncio.wait_for(made[0].lost, 5)
    assert isinstance(error, ConnectionResetError)
    assert made[0].events == ["made"]
    await hang_up(streams)
    server.close()
    await server.wait_closed()


async def test_a_record_that_was_changed_is_an_error() -> None:
    """Bytes that do not decrypt end the connection, and nothing of them is delivered."""
    both = await pair()
    below = both.near.transport._below
    below.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    error = await asyncio.wait_for(both.far.lost, 5)
    assert isinstance(error, TLSFailure)
    assert isinstance(error, ssl.SSLError)
    assert not both.far.data
    await both.end()


async def test_a_client_learns_of_its_refusal_when_it_reads() -> None:
    """The server's alert ends the connection with an error of TLS."""
    api = source_of("/api")
    async with echo_server("pyopenssl", api) as server:
        nobody = MemorySource(None, AUTHORITY.bundle())
        reader, writer = await connect("pyopenssl", server.port, nobody)
        with pytest.raises(TLSFailure, match="certificate required") as caught:
            await asyncio.wait_for(reader.read(1), 5)
        assert caught.value.cause is Cause.NO_CLIENT_CERTIFICATE
        await hang_up((reader, writer))


class Buffered(asyncio.BufferedProtocol):
    """An application with a buffer of its own, which is small."""

    def __init__(self) -> None:
        self.buffer = bytearray(7)
        self.data = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def test_a_buffered_application_gets_every_byte_in_order() -> None:
    """Its buffer may be smaller than a record; it may become another protocol in between."""
    async with echo_server("pyopenssl", API) as server:
        transport, protocol = await pyopenssl.create_connection(
            Buffered, "127.0.0.1", server.port, source=WEB, authorize=authorize_any()
        )
        assert isinstance(protocol, Buffered)
        sent = bytes(range(256)) * 100
        transport.write(sent)
        await until(lambda: len(protocol.data) == len(sent))
        assert bytes(protocol.data) == sent
        other = Recording()
        transport.set_protocol(other)
        transport.write(b"to another")
        await until(lambda: bytes(other.data) == b"to another")
        transport.close()
        assert await asyncio.wait_for(other.lost, 5) is None


async def test_an_application_that_raises_loses_its_connection() -> None:
    """A defect in `data_received` ends that connection with the error, and no other."""

    class Broken(Recording):
        def data_received(self, data: bytes) -> None:
            raise KeyError("defect")

    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    made: list[Broken] = []

    def factory() -> Broken:
        made.append(Broken())
        return made[-1]

    server = await pyopenssl.create_server(
        factory, "127.0.0.1", 0, source=API, authorize=authorize_any()
    )
    streams = await connect("stdlib", server.sockets[0].getsockname()[1], WEB)
    assert await ask(streams) == b""
    assert isinstance(await asyncio.wait_for(made[0].lost, 5), KeyError)
    assert seen
    await hang_up(streams)
    server.close()
    await server.wait_closed()


# --- stapling --------------------------------------------------------------------------------


def staple(svid: X509SVID, status: Status, *, hash_name: str = "sha1", **changes: Any) -> bytes:
    issuer = AUTHORITY.issuing.issuer
    wanted = CertificateID.of(issuer.certificate, svid.serial, hash_name=hash_name)
    span = {"this_update": now() - HOUR, "next_update": now() + HOUR} | changes
    return build_response(issuer, StatusRequest(certificate_id=wanted), status, **span)


REVOKED = RevokedEntry(serial=1, revoked_at=now() - HOUR, reason="keyCompromise")
STALE = {"this_update": now() - 3 * HOUR, "next_update": now() - HOUR}


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
async def test_a_good_staple_is_accepted(hash_name: str) -> None:
    """A server that must staple and does is let in, whichever hash names its certificate."""
    api = source_of("/api", extra=MUST_STAPLE)
    async with echo_server(
        "pyopenssl", api, staple=lambda svid: staple(svid, Good(), hash_name=hash_name)
    ) as server:
        streams = await connect("pyopenssl", server.port, WEB, require_staple=True)
        assert await ask(streams) == b"ping"
        await hang_up(streams)


@pytest.mark.parametrize(
    ("made", "cause"),
    [
        (lambda svid: staple(svid, REVOKED), Cause.CERTIFICATE_REVOKED),
        (lambda svid: staple(svid, Good(), **STALE), Cause.REVOCATION_DATA_STALE),
        (lambda svid: None, Cause.REVOCATION_DATA_MISSING),
        (lambda svid: b"\x30\x00", Cause.REVOCATION_DATA_MISSING),
        (lambda svid: build_error(OCSPError.TRY_LATER), Cause.REVOCATION_DATA_MISSING),
    ],
    ids=["revoked", "stale", "none", "garbage", "try-later"],
)
async def test_a_staple_that_does_not_clear_the_server_is_refused(made: Any, cause: Cause) -> None:
    """Revoked, stale, missing or unreadable: the handshake with a must-staple server fails."""
    api, web = source_of("/api", extra=MUST_STAPLE), source_of("/web")
    async with echo_server("pyopenssl", api, staple=made) as server:
        with pytest.raises(PeerRefused) as caught:
            await connect("pyopenssl", server.port, web)
    assert caught.value.cause is cause
    assert web.causes == [cause]


async def test_a_staple_is_needed_only_where_something_says_so() -> None:
    """An ordinary server without staple is let in, unless the client demands one."""
    async with echo_server("pyopenssl", API) as server:
        streams = await connect("pyopenssl", server.port, WEB)
        assert await ask(streams) == b"ping"
        await hang_up(streams)
        with pytest.raises(PeerRefused, match="must staple"):
            await connect("pyopenssl", server.port, WEB, require_staple=True)


async def test_a_bad_staple_of_an_ordinary_server_is_refused_as_well() -> None:
    """A staple that says "revoked" is believed, whether it was needed or not."""
    async with echo_server("pyopenssl", API, staple=lambda svid: staple(svid, REVOKED)) as server:
        with pytest.raises(PeerRefused) as caught:
            await connect("pyopenssl", server.port, source_of("/web"))
        assert caught.value.cause is Cause.CERTIFICATE_REVOKED


async def test_a_responders_excuse_is_worth_as_much_as_no_staple() -> None:
    """An ordinary server that staples "try later" is let in: nobody has signed that."""
    async with echo_server(
        "pyopenssl", API, staple=lambda svid: build_error(OCSPError.TRY_LATER)
    ) as server:
        streams = await connect("pyopenssl", server.port, WEB)
        assert await ask(streams) == b"ping"
        await hang_up(streams)


class StaplingSource(MemorySource):
    """A source that an agent gives staples to."""

    def staple(self, svid: X509SVID) -> bytes | None:
        return staple(svid, Good())


async def test_a_server_staples_what_its_source_has() -> None:
    """Without being told to; an argument of its own comes first."""
    api = StaplingSource(AUTHORITY.issue("/api", extra=MUST_STAPLE), AUTHORITY.bundle())
    async with echo_server("pyopenssl", api) as server:
        streams = await connect("pyopenssl", server.port, WEB)
        assert await ask(streams) == b"ping"
        await hang_up(streams)
    async with echo_server("pyopenssl", api, staple=lambda svid: staple(svid, REVOKED)) as server:
        with pytest.raises(PeerRefused) as caught:
            await connect("pyopenssl", server.port, source_of("/web"))
        assert caught.value.cause is Cause.CERTIFICATE_REVOKED


# --- chunks ----------------------------------------------------------------------------------


def _converse(messages: list[bytes], cuts: list[int]) -> bytes:
    """Let a plain OpenSSL client send messages; return what an application gets in chunks."""

    async def scenario() -> bytes:
        tls = over_tls(Recording, ServerEngine(API, authorize=authorize_any()))()
        wire = MemoryTransport()
        tls.connection_made(wire)
        client, _ = ClientEngine(WEB, authorize=authorize_any()).begin()
        turn = iter(cuts * 10_000)

        def to_server() -> None:
            with suppress(SSL.WantReadError):
                while True:
                    data = client.bio_read(next(turn))
                    tls.data_received(data)

        for _ in range(4):
            with suppress(SSL.WantReadError):
                client.do_handshake()
            to_server()
            if wire.sent:
                client.bio_write(bytes(wire.sent))
                wire.sent.clear()
        for message in messages:
            client.send(message)
            to_server()
        application = tls.application.protocol
        assert isinstance(application, Recording)
        received = bytes(application.data)
        tls.abort(None)
        tls.connection_lost(None)
        return received

    return asyncio.run(scenario())


@settings(max_examples=60)
@given(
    messages=st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    cuts=st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=8),
)
def test_any_chunking_gives_the_same_plaintext(messages: list[bytes], cuts: list[int]) -> None:
    """However the network cuts the encrypted stream, what arrives is what was sent."""
    assert _converse(messages, cuts) == b"".join(messages)


async def test_session_tickets_travel_with_the_first_answer() -> None:
    """A server sends its flight, and after that nothing of its own accord."""
    factory = over_tls(Recording, ServerEngine(API, authorize=authorize_any()))
    server, wire = factory(), MemoryTransport()
    client, _ = ClientEngine(WEB, authorize=authorize_any()).begin()
    with suppress(SSL.WantReadError):
        client.do_handshake()
    server.connection_made(wire)
    assert not wire.sent
    server.data_received(client.bio_read(65536))
    client.bio_write(bytes(wire.sent))
    wire.sent.clear()
    client.do_handshake()
    server.data_received(client.bio_read(65536))
    assert not wire.sent
    server.transport.write(b"answer")
    client.bio_write(bytes(wire.sent))
    assert client.recv(100) == b"answer"
    server.connection_lost(None)
