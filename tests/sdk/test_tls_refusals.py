"""Who gets through a handshake and who does not: both engines, both directions."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause
from legation.pki import SpiffeID, TrustDomain
from legation.sdk.authorize import Authorizer, authorize_any, authorize_id, authorize_member_of
from legation.sdk.model import X509SVID
from legation.sdk.peers import PeerRefused
from tests.support.sdk_source import HOUR, Authority, MemorySource, now
from tests.support.sdk_tls import ENGINES, ask, connect, echo_server, hang_up, until

EXAMPLE_AUTHORITY, OTHER_AUTHORITY = Authority(), Authority(TrustDomain("other.test"))
API, WEB = "spiffe://example.org/api", "spiffe://example.org/web"


_ANYBODY = authorize_any()


def source_of(svid: X509SVID | None) -> MemorySource:
    return MemorySource(svid, EXAMPLE_AUTHORITY.bundle())


@dataclass(frozen=True, kw_only=True)
class Case:
    """A peer that is not accepted: what it shows, and what the other side knows and allows."""

    cause: Cause
    svid: Callable[[str], X509SVID] = EXAMPLE_AUTHORITY.issue
    prepare: Callable[[MemorySource, X509SVID], object] = lambda source, svid: None
    authorize: Authorizer = _ANYBODY


def issued(**changes: Any) -> Callable[[str], X509SVID]:
    return lambda path: EXAMPLE_AUTHORITY.issue(path, **changes)


CASES = {
    "another root of the same name": Case(
        cause=Cause.UNKNOWN_AUTHORITY, svid=lambda path: Authority().issue(path)
    ),
    "another trust domain": Case(cause=Cause.UNKNOWN_AUTHORITY, svid=OTHER_AUTHORITY.issue),
    "our authority, another trust domain": Case(
        cause=Cause.WRONG_TRUST_DOMAIN, svid=issued(uris=("spiffe://other.test/web",))
    ),
    "a trust domain that is not let in": Case(
        cause=Cause.WRONG_TRUST_DOMAIN, authorize=authorize_member_of("third.test")
    ),
    "a name that is not let in": Case(
        cause=Cause.WRONG_IDENTITY, authorize=authorize_id("spiffe://example.org/batch")
    ),
    "expired": Case(
        cause=Cause.CERTIFICATE_EXPIRED,
        svid=issued(not_before=now() - 2 * HOUR, not_after=now() - HOUR),
    ),
    "not yet valid": Case(
        cause=Cause.CERTIFICATE_NOT_YET_VALID,
        svid=issued(not_before=now() + HOUR, not_after=now() + 2 * HOUR),
    ),
    "no usage in TLS": Case(
        cause=Cause.WRONG_USAGE, svid=issued(extended=(ExtendedKeyUsageOID.CODE_SIGNING,))
    ),
    "two names": Case(
        cause=Cause.MALFORMED_CERTIFICATE, svid=issued(uris=(WEB, "spiffe://example.org/two"))
    ),
    "revoked": Case(
        cause=Cause.CERTIFICATE_REVOKED,
        prepare=lambda source, svid: source.revoke(svid.serial),
    ),
    "banned": Case(
        cause=Cause.IDENTITY_BANNED, prepare=lambda source, svid: source.ban(svid.spiffe_id)
    ),
    "stale revocation data": Case(
        cause=Cause.REVOCATION_DATA_STALE, prepare=lambda source, svid: source.grow_stale()
    ),
}


@pytest.mark.parametrize("client_engine", ENGINES)
@pytest.mark.parametrize("server_engine", ENGINES)
async def test_two_good_peers_meet(server_engine: str, client_engine: str) -> None:
    """Each end learns the other's identity, and bytes pass in both directions."""
    api, web = (
        source_of(EXAMPLE_AUTHORITY.issue("/api")),
        source_of(EXAMPLE_AUTHORITY.issue("/web")),
    )
    async with echo_server(server_engine, api, authorize_id(WEB)) as server:
        streams = await connect(client_engine, server.port, web, authorize_id(API))
        assert await ask(streams) == b"ping"
        assert server.peers == [WEB]
        assert streams[1].get_extra_info("ssl_object").version() == "TLSv1.3"
        await hang_up(streams)
    assert not api.reports
    assert not web.reports


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_server_refuses(engine: str, name: str) -> None:
    """The client is closed without a byte of application data, and the cause is reported."""
    case = CASES[name]
    svid = case.svid("/web")
    api, web = source_of(EXAMPLE_AUTHORITY.issue("/api")), source_of(svid)
    case.prepare(api, svid)
    async with echo_server(engine, api, case.authorize) as server:
        # In TLS 1.3 the client's handshake may be over before the server refuses.
        try:
            streams = await connect("stdlib", server.port, web)
        except OSError:
            pass
        else:
            assert await ask(streams) == b""
            await hang_up(streams)
        await until(lambda: bool(api.reports))
        assert api.causes == [case.cause]
        assert server.peers == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_client_refuses(engine: str, name: str) -> None:
    """Connecting raises the cause, before a byte of application data is sent."""
    case = CASES[name]
    svid = case.svid("/api")
    api, web = source_of(svid), source_of(EXAMPLE_AUTHORITY.issue("/web"))
    case.prepare(web, svid)
    async with echo_server("stdlib", api) as server:
        with pytest.raises(PeerRefused) as caught:
            await connect(engine, server.port, web, case.authorize)
        assert caught.value.cause is case.cause
        assert web.causes == [case.cause]


@pytest.mark.parametrize("engine", ENGINES)
async def test_usages_are_not_interchangeable(engine: str) -> None:
    """A certificate for servers alone is refused of a client, and the other way round."""
    for_servers = EXAMPLE_AUTHORITY.issue("/x", extended=(ExtendedKeyUsageOID.SERVER_AUTH,))
    for_clients = EXAMPLE_AUTHORITY.issue("/y", extended=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    good, bad = source_of(for_servers), source_of(for_clients)
    async with echo_server(engine, good) as server:
        streams = await connect(engine, server.port, bad)
        assert await ask(streams) == b"ping"
        await hang_up(streams)
        streams = await connect(engine, server.port, good)
        assert await ask(streams) == b""
        await hang_up(streams)
        assert good.causes == [Cause.WRONG_USAGE]
    async with echo_server("stdlib", bad) as server:
        with pytest.raises(PeerRefused) as caught:
            await connect(engine, server.port, good)
        assert caught.value.cause is Cause.WRONG_USAGE


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_client_without_a_certificate_is_refused(engine: str) -> None:
    """A source of trust bundles alone can verify servers; a server demands more."""
    api, nobody = source_of(EXAMPLE_AUTHORITY.issue("/api")), source_of(None)
    async with echo_server(engine, api) as server:
        streams = await connect(engine, server.port, nobody, authorize_id(API))
        assert await ask(streams) == b""
        await hang_up(streams)
        await until(lambda: bool(api.reports))
        assert api.causes == [Cause.NO_CLIENT_CERTIFICATE]


@pytest.mark.parametrize("engine", ENGINES)
async def test_plaintext_is_refused(engine: str) -> None:
    """A client that speaks HTTP in the clear is closed, and the cause says what it did."""
    api = source_of(EXAMPLE_AUTHORITY.issue("/api"))
    async with echo_server(engine, api) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"HTTP" not in await reader.read(100)
        await hang_up((reader, writer))
        await until(lambda: bool(api.reports))
        assert api.causes == [Cause.PLAINTEXT]


@pytest.mark.parametrize("engine", ENGINES)
async def test_older_tls_is_refused(engine: str) -> None:
    """A client that knows TLS 1.2 at most is refused, with an alert that says so."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    api = source_of(EXAMPLE_AUTHORITY.issue("/api"))
    async with echo_server(engine, api) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        assert api.causes == [Cause.PROTOCOL_VERSION]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_port_scan_is_no_refusal(engine: str) -> None:
    """Who connects and leaves is not reported as a peer that was refused."""
    api = source_of(EXAMPLE_AUTHORITY.issue("/api"))
    async with echo_server(engine, api) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()
        streams = await connect(engine, server.port, source_of(EXAMPLE_AUTHORITY.issue("/web")))
        assert await ask(streams) == b"ping"
        await hang_up(streams)
    assert not api.reports


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_member_of_a_federated_trust_domain_is_let_in(engine: str) -> None:
    """With its bundle, another trust domain's identity is verified by its own authority."""
    api = MemorySource(
        EXAMPLE_AUTHORITY.issue("/api"), EXAMPLE_AUTHORITY.bundle(), OTHER_AUTHORITY.bundle()
    )
    foreign = MemorySource(OTHER_AUTHORITY.issue("/web"), EXAMPLE_AUTHORITY.bundle())
    async with echo_server(engine, api) as server:
        streams = await connect(engine, server.port, foreign)
        assert await ask(streams) == b"ping"
        assert server.peers == ["spiffe://other.test/web"]
        await hang_up(streams)
        # The foreign authority does not speak for our own trust domain.
        forged = OTHER_AUTHORITY.issue("/web", uris=(WEB,))
        liar = MemorySource(forged, EXAMPLE_AUTHORITY.bundle())
        streams = await connect(engine, server.port, liar)
        assert await ask(streams) == b""
        await hang_up(streams)
        assert api.causes == [Cause.UNKNOWN_AUTHORITY]
        assert api.reports[0].peer == str(SpiffeID.parse(WEB))
