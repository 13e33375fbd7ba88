"""Plain asyncio streams on both engines, also across."""

import asyncio
import contextlib
import gc

import pytest
import uvloop

from legation.sdk.authorize import authorize_id, authorize_policy
from legation.sdk.connections import ConnectionCut
from legation.sdk.integrations.streams import open_connection, peer_of, start_server
from legation.sdk.peers import PeerRefused
from legation.testing import InMemorySource, InMemoryTrustDomain

API, WEB = "spiffe://example.test/api", "spiffe://example.test/web"


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"hello {peer_of(writer).spiffe_id}\n".encode())
    try:
        while line := await reader.readline():
            writer.write(line)
    except OSError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("client_engine", ["stdlib", "pyopenssl"])
async def test_streams_know_their_peers_and_are_cut(
    domain: InMemoryTrustDomain,
    api: InMemorySource,
    web: InMemorySource,
    engine: str,
    client_engine: str,
) -> None:
    """Both ends know each other; when the server is revoked, the client's read says so."""
    server = await start_server(
        greet, "127.0.0.1", 0, source=api, authorize=authorize_id(WEB), engine=engine
    )
    port = server.sockets[0].getsockname()[1]
    options = {"source": web, "engine": client_engine}
    reader, writer = await open_connection(
        "127.0.0.1", port, authorize=authorize_id(API), **options
    )
    assert peer_of(writer).spiffe_id == api.spiffe_id
    assert await reader.readline() == f"hello {WEB}\n".encode()
    domain.revoke(api)
    with pytest.raises(ConnectionCut) as caught:
        await reader.readline()
    assert caught.value.cause == "certificate_revoked"
    with pytest.raises(PeerRefused):
        await open_connection("127.0.0.1", port, authorize=authorize_id(API), **options)
    writer.close()
    server.close()
    await server.wait_closed()


def test_a_stream_of_uvloop_is_cut_without_a_search(
    domain: InMemoryTrustDomain,
    api: InMemorySource,
    web: InMemorySource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The streams know what carries them; once a connection is over, nothing holds it."""

    async def cut() -> None:
        server = await start_server(greet, "127.0.0.1", 0, source=api, authorize=authorize_id(WEB))
        reader, writer = await open_connection(
            "127.0.0.1",
            server.sockets[0].getsockname()[1],
            source=web,
            authorize=authorize_id(API),
        )
        await reader.readline()
        tls = writer.get_extra_info("ssl_object")
        assert tls.carrier is not None
        monkeypatch.setattr(gc, "get_referrers", lambda *_: pytest.fail("searched the heap"))
        domain.revoke(api)
        with pytest.raises(ConnectionCut):
            await reader.readline()
        while tls.carrier is not None:
            await asyncio.sleep(0)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(cut(), 10))


async def test_a_policy_decides_on_connections(
    domain: InMemoryTrustDomain, api: InMemorySource, web: InMemorySource, engine: str
) -> None:
    """Without requests, the connection is what policies allow, and what they end."""
    domain.apply(
        {
            "apiVersion": "legation/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "web-may-connect"},
            "spec": {
                "target": {"spiffeIDs": [API]},
                "action": "ALLOW",
                "rules": [{"from": [{"spiffeIDs": [WEB]}]}],
            },
        }
    )
    server = await start_server(
        greet,
        "127.0.0.1",
        0,
        source=api,
        authorize=authorize_policy(api, tcp=True),
        engine=engine,
    )
    port = server.sockets[0].getsockname()[1]
    reader, writer = await open_connection(
        "127.0.0.1", port, source=web, authorize=authorize_id(API)
    )
    assert await reader.readline() == f"hello {WEB}\n".encode()
    domain.withdraw()
    with contextlib.suppress(OSError):  # an end, with or without a goodbye
        assert not await reader.read()
    assert [report.cause for report in api.refusals] == ["policy_denied"]
    writer.close()
    server.close()
    await server.wait_closed()
