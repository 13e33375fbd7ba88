"""Contexts that follow their source, and that nothing else can change."""

import asyncio
import socket
import ssl
import threading
from contextlib import suppress

import pytest

from legation.causes import Cause
from legation.errors import NotAuthenticated, Unavailable
from legation.sdk.authorize import authorize_any
from legation.sdk.peers import PeerRefused
from legation.sdk.tls import client_context, peer_of, server_context
from legation.sdk.tls.connections import NoIdentity
from tests.support.sdk_source import Authority, MemorySource
from tests.support.sdk_tls import ENGINES, ask, connect, echo_server, hang_up, until

OLD, NEW = Authority(), Authority()


def source_of(path: str, authority: Authority = OLD) -> MemorySource:
    return MemorySource(authority.issue(path), OLD.bundle())


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_new_identity_is_shown_from_the_next_handshake_on(engine: str) -> None:
    """Connections that are open go on under the old one; each end sees the new one next."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server(engine, api) as server:
        before = await connect(engine, server.port, web)
        old = api.view().svid.serial
        api.rotate(OLD.issue("/api"))
        web.rotate(OLD.issue("/web"))
        after = await connect(engine, server.port, web)
        assert await ask(before) == await ask(after) == b"ping"
        assert peer_of(before[1]).serial == old
        assert peer_of(after[1]).serial == api.view().svid.serial != old
        await hang_up(before, after)


def test_openssl_is_told_anew_of_identity_and_trust_alone() -> None:
    """A context serves on under another revocation list, and not under another identity."""
    api = source_of("/api")
    context = server_context(api, authorize=authorize_any())
    made = context.generation()
    api.lists(b"a list")
    assert context.generation() is made
    assert made.view is api.view()
    api.rotate(OLD.issue("/api"))
    renewed = context.generation()
    assert renewed is not made
    api.trust(NEW.bundle())
    assert context.generation() is not renewed


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_authority_that_left_the_bundle_is_refused(engine: str) -> None:
    """Both authorities count while both are in the bundle; then only the new one does."""
    api, old_web = source_of("/api"), source_of("/web")
    new_web = MemorySource(NEW.issue("/web"), OLD.bundle())
    both = type(OLD.bundle())(OLD.domain, (OLD.root.certificate, NEW.root.certificate))
    async with echo_server(engine, api) as server:
        opened = await connect(engine, server.port, old_web)
        refused = await connect("stdlib", server.port, new_web)
        assert await ask(refused) == b""
        api.trust(both)
        accepted = await connect(engine, server.port, new_web)
        assert await ask(accepted) == b"ping"
        api.trust(NEW.bundle())
        late = await connect("stdlib", server.port, old_web)
        assert await ask(late) == b""
        assert await ask(opened) == await ask(accepted) == b"ping"
        await hang_up(opened, refused, accepted, late)
        assert set(api.causes) == {Cause.UNKNOWN_AUTHORITY}


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_client_follows_its_bundle(engine: str) -> None:
    """A server is refused once its authority has left the client's bundle."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server("stdlib", api) as server:
        streams = await connect(engine, server.port, web)
        await hang_up(streams)
        web.trust(NEW.bundle())
        with pytest.raises(PeerRefused) as caught:
            await connect(engine, server.port, web)
        assert caught.value.cause is Cause.UNKNOWN_AUTHORITY


@pytest.mark.parametrize("engine", ENGINES)
async def test_without_an_identity_connections_are_closed(engine: str) -> None:
    """With an expired identity servers close and clients raise; with a new one both go on."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server(engine, api) as server:
        api.error = Unavailable("the identity has expired", remedy="look at the agent")
        with suppress(OSError):
            streams = await connect("stdlib", server.port, web)
            assert await ask(streams) == b""
        api.error, web.error = None, Unavailable("the identity has expired")
        with pytest.raises(NoIdentity, match="the identity has expired") as caught:
            await connect(engine, server.port, web)
        assert isinstance(caught.value, Unavailable)
        web.error = None
        streams = await connect(engine, server.port, web)
        assert await ask(streams) == b"ping"
        await hang_up(streams)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_server_needs_an_identity(engine: str) -> None:
    """A source of trust bundles alone serves nobody."""
    async with echo_server(engine, MemorySource(None, OLD.bundle())) as server:
        with pytest.raises(OSError):  # noqa: PT011 - whatever the closed socket leads to
            await connect("stdlib", server.port, source_of("/web"))
        assert server.peers == []


@pytest.mark.parametrize("engine", ENGINES)
async def test_application_protocols_are_agreed_on(engine: str) -> None:
    """The server's order counts; without one in common there is none."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server(engine, api, alpn=("h2", "http/1.1")) as server:
        for offered, agreed in (
            (("http/1.1", "h2"), "h2"),
            (("http/1.1",), "http/1.1"),
            (("imap",), None),
            ((), None),
        ):
            streams = await connect(engine, server.port, web, alpn=offered)
            tls = streams[1].get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == agreed
            await hang_up(streams)


async def test_application_protocols_can_be_set_as_on_any_context() -> None:
    """HTTP libraries set them on the context they are given; that works, from then on."""
    api, web = source_of("/api"), source_of("/web")
    context = client_context(web, authorize=authorize_any())
    generation = context.generation()
    context.set_alpn_protocols(["h2"])
    context.set_alpn_protocols(["h2"])
    assert context.generation() is not generation
    async with echo_server("stdlib", api, alpn=("h2",)) as server:
        _, writer = streams = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        await hang_up(streams)


async def test_a_library_cannot_weaken_a_context() -> None:
    """Verification off, other authorities, other certificates: all of it has no effect."""
    stranger = Authority()
    api, web = MemorySource(stranger.issue("/api"), OLD.bundle()), source_of("/web")
    context = client_context(web, authorize=authorize_any())
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=stranger.bundle().to_pem().decode())
    context.load_default_certs()
    context.set_default_verify_paths()
    context.load_cert_chain("/nonexistent")
    async with echo_server("stdlib", api) as server:
        with pytest.raises(PeerRefused) as caught:
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    assert caught.value.cause is Cause.UNKNOWN_AUTHORITY


async def test_a_view_is_turned_into_a_context_once() -> None:
    """Handshakes under one view share what OpenSSL needs; a new view gets its own."""
    source = source_of("/api")
    context = server_context(source, authorize=authorize_any())
    first = context.generation()
    assert context.generation() is first
    source.rotate(OLD.issue("/api"))
    assert context.generation() is not first
    assert context.source is source


async def test_a_key_that_is_not_the_certificates_makes_no_identity() -> None:
    """What OpenSSL cannot use is refused with a word, not half used."""
    one, two = OLD.issue("/api"), OLD.issue("/api")
    source = MemorySource(
        type(one)(spiffe_id=one.spiffe_id, chain=one.chain, private_key=two.private_key),
        OLD.bundle(),
    )
    context = server_context(source, authorize=authorize_any())
    with pytest.raises(NoIdentity, match="OpenSSL cannot use the identity"):
        context.generation()


def test_blocking_sockets_say_what_is_missing_and_close() -> None:
    """Wrapping a socket without an identity raises, and leaves no socket open."""
    source = source_of("/web")
    source.error = Unavailable("no identity yet")
    context = client_context(source, authorize=authorize_any())
    near, far = socket.socketpair()
    with far, pytest.raises(NoIdentity):
        context.wrap_socket(near)
    assert near.fileno() == -1


def test_a_listening_socket_follows_its_source() -> None:
    """What is accepted later is shown the identity of that moment."""
    api, web = source_of("/api"), source_of("/web")
    context = server_context(api, authorize=authorize_any())
    plain = socket.create_server(("127.0.0.1", 0))
    with context.wrap_socket(plain, server_side=True) as listener:
        port = listener.getsockname()[1]
        serials = []

        def accept(accepted: list[ssl.SSLSocket]) -> None:
            accepted.append(listener.accept()[0])

        for _ in range(2):
            accepted: list[ssl.SSLSocket] = []
            thread = threading.Thread(target=accept, args=(accepted,))
            thread.start()
            with client_context(web, authorize=authorize_any()).wrap_socket(
                socket.create_connection(("127.0.0.1", port))
            ) as connection:
                serials.append(peer_of(connection).serial)
                thread.join()
                assert peer_of(accepted[0]).spiffe_id == web.view().svid.spiffe_id
                accepted[0].close()
            api.rotate(OLD.issue("/api"))
    assert serials[0] != serials[1]


def test_a_blocking_client_refuses_with_the_cause() -> None:
    """`wrap_socket` raises the refusal and closes the socket; both ends report their own."""
    api, web = source_of("/api"), source_of("/web")
    context = server_context(api, authorize=authorize_any())
    near, far = socket.socketpair()
    ended: list[BaseException] = []

    def serve() -> None:
        try:
            with context.wrap_socket(far, server_side=True) as connection:
                connection.recv(1)
        except OSError as error:
            ended.append(error)
        far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    web.ban(api.view().svid.spiffe_id)
    with pytest.raises(PeerRefused) as caught:
        client_context(web, authorize=authorize_any()).wrap_socket(near)
    near.close()
    thread.join(5)
    assert caught.value.cause is Cause.IDENTITY_BANNED


async def test_a_client_that_keeps_sessions_cannot_resume_past_its_revocation() -> None:
    """No session is taken: a stock client that asks for one shakes hands in full."""
    api, web = source_of("/api"), source_of("/web")
    stock = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stock.check_hostname = False
    stock.load_verify_locations(cadata=OLD.bundle().to_pem().decode())
    from legation.sdk.tls.contexts import _load_identity

    _load_identity(stock, web.view().svid)

    def visit(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with stock.wrap_socket(plain, session=session) as connection:
            try:
                connection.sendall(b"ping")
                answer = connection.recv(4)
            except OSError:
                answer = b""
            return answer, connection.session, connection.session_reused

    for engine in ENGINES:
        async with echo_server(engine, api) as server:
            answer, session, _ = await asyncio.to_thread(visit, None)
            assert answer == b"ping"
            # Whatever the library kept is worth nothing.
            answer, _, reused = await asyncio.to_thread(visit, session)
            assert (answer, bool(reused)) == (b"ping", False)
            api.revoke(web.view().svid.serial)
            answer, _, reused = await asyncio.to_thread(visit, session)
            assert (answer, bool(reused)) == (b"", False)
            api.revoked.clear()
    await until(lambda: api.causes.count(Cause.CERTIFICATE_REVOKED) >= 2)


async def test_our_client_does_not_resume_with_a_server_that_offers_it() -> None:
    """Against a stock server with tickets, a session that is passed in is passed over."""
    api, web = source_of("/api"), source_of("/web")
    stock = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    stock.verify_mode = ssl.CERT_REQUIRED
    stock.load_verify_locations(cadata=OLD.bundle().to_pem().decode())
    from legation.sdk.tls.contexts import _load_identity

    _load_identity(stock, api.view().svid)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.read(4))
            with suppress(OSError):
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=stock)
    port = server.sockets[0].getsockname()[1]
    context = client_context(web, authorize=authorize_any())

    def visit(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        plain = socket.create_connection(("127.0.0.1", port), timeout=5)
        with context.wrap_socket(plain, session=session, do_handshake_on_connect=False) as one:
            one.session = session
            one.do_handshake()
            one.sendall(b"ping")
            assert one.recv(4) == b"ping"
            return one.session, one.session_reused

    session, _ = await asyncio.to_thread(visit, None)
    _, reused = await asyncio.to_thread(visit, session)
    assert not reused
    web.revoke(api.view().svid.serial)
    with pytest.raises(PeerRefused):
        await asyncio.to_thread(visit, session)
    server.close()
    await server.wait_closed()


async def test_a_connection_that_is_not_ours_has_no_peer() -> None:
    """In the clear, or before the handshake, nobody is passed off as verified."""
    context = client_context(source_of("/web"), authorize=authorize_any())
    unfinished = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    for connection in (unfinished, object()):
        with pytest.raises(NotAuthenticated, match="no verified peer"):
            peer_of(connection)


async def test_an_ordinary_certificate_is_accepted_for_its_host_name() -> None:
    """A database with a plain certificate of our authority is recognised by its name."""
    api = MemorySource(OLD.issue("/db", uris=(), dns_names=("db.internal",)), OLD.bundle())
    web = source_of("/web")
    async with echo_server("stdlib", api) as server:
        for engine in ENGINES:
            streams = await connect(engine, server.port, web, dns_name="db.internal")
            assert str(peer_of(streams[1]).spiffe_id) == "spiffe://example.org"
            await hang_up(streams)
            with pytest.raises(PeerRefused) as caught:
                await connect(engine, server.port, web, dns_name="other.internal")
            assert caught.value.cause is Cause.WRONG_IDENTITY
