"""Calls through real Envoys that an agent drives."""

import asyncio
import contextlib
from pathlib import Path

import grpc.aio
import pytest

from legation.envoy import Protocol
from legation.wire.feed import TLSMode
from tests.support.echo_servers import METHOD, grpc_echo
from tests.support.envoy import (
    API,
    MOBILE,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    H2Caller,
    calling,
    http_app,
    port_of,
    running_proxy,
    serving,
    tcp_app,
)

pytestmark = pytest.mark.envoy


async def test_http_call_between_two_proxies(agent: Agent, short_path: Path) -> None:
    """An HTTP/1.1 call crosses two proxies over TLS 1.3 with a post-quantum key exchange."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        spec = calling(server.spec.inbound[0].listen)
        async with running_proxy(agent, spec, short_path) as client:
            caller = await Caller.connect(port_of(spec))
            answer = await caller.get("/orders", x_forwarded_client_cert="URI=spiffe://forged")
            stats = await server.admin.stats(r"ssl\.(versions|curves)\.")
            sent = await client.admin.stats(r"ssl\.curves\.")
            await caller.close()
    assert answer.status == 200
    assert f"uri={WEB}" in answer.body.lower()
    assert "forged" not in answer.body
    assert any(name.endswith("versions.TLSv1.3") and n == 1 for name, n in stats.items())
    assert any(name.endswith("curves.X25519MLKEM768") and n == 1 for name, n in stats.items())
    assert any(name.endswith("curves.X25519MLKEM768") and n == 1 for name, n in sent.items())


async def test_forged_identity_header_is_replaced(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """What a peer says about itself in a header is replaced by what its certificate says."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        tls = authorities.client_context(authorities.leaf(MOBILE), short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        answer = await caller.get(
            x_forwarded_client_cert="By=x;URI=spiffe://forged", x_envoy_max_retries="99"
        )
        await caller.close()
    assert answer.status == 200
    assert f"uri={MOBILE}" in answer.body.lower()
    assert "forged" not in answer.body
    assert "x-envoy" not in answer.body.lower()


async def test_http2_call(agent: Agent, authorities: Authorities, short_path: Path) -> None:
    """A caller may speak HTTP/2 to a proxy whose application speaks HTTP/1.1."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await H2Caller.connect(port_of(server.spec), tls)
        assert await caller.get() == 200
        await caller.close()


async def test_grpc_stream_between_two_proxies(agent: Agent, short_path: Path) -> None:
    """A bidirectional gRPC stream crosses two proxies, and stays HTTP/2 all the way."""
    async with grpc_echo() as app:
        server_spec = serving(app, Protocol.HTTP2)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, Protocol.HTTP2)
            async with (
                running_proxy(agent, spec, short_path),
                grpc.aio.insecure_channel(f"127.0.0.1:{port_of(spec)}") as channel,
            ):
                call = channel.stream_stream(METHOD)()
                for word in (b"one", b"two"):
                    await call.write(word)
                    assert await call.read() == word
                await call.done_writing()


async def test_websocket_between_two_proxies(agent: Agent, short_path: Path) -> None:
    """A WebSocket is opened and carries bytes both ways through two proxies."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
        writer.write("\r\n".join((*lines, "", "")).encode())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    server_spec = serving(server.sockets[0].getsockname()[1])
    async with running_proxy(agent, server_spec, short_path):
        spec = calling(server_spec.inbound[0].listen)
        async with running_proxy(agent, spec, short_path):
            caller = await Caller.connect(port_of(spec))
            answer = await caller.get(upgrade="websocket", connection="Upgrade")
            assert answer.status == 101
            assert await caller.say(b"\x81\x02hi") == b"\x81\x02hi"
            await caller.close()
    server.close()


async def test_tcp_between_two_proxies(agent: Agent, short_path: Path) -> None:
    """Bytes of any protocol cross two proxies."""
    async with tcp_app() as app:
        server_spec = serving(app, Protocol.TCP)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, Protocol.TCP)
            async with running_proxy(agent, spec, short_path):
                caller = await Caller.connect(port_of(spec))
                assert await caller.say(b"hello") == b"hello"
                await caller.close()


async def test_permissive_lets_plaintext_through_and_says_so(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A permissive proxy serves plaintext, reports it, and refuses it once it is strict."""
    feed.hold(authorities.identity(API, mtls=TLSMode.PERMISSIVE))
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        caller = await Caller.connect(port_of(server.spec))
        assert (await caller.get()).status == 200
        report = await agent.refusal("plaintext")
        assert report.raw == "let through: permissive mode"
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        secured = await Caller.connect(port_of(server.spec), tls)
        assert (await secured.get()).status == 200

        feed.hold(authorities.identity(API, mtls=TLSMode.STRICT))
        feed.allow(WEB, MOBILE, name="again")  # a revision to wait for
        await agent.in_force()
        late = await Caller.connect(port_of(server.spec))
        with pytest.raises((ConnectionError, EOFError)):
            await late.get()
        report = await agent.refusal("plaintext")
        assert "HTTP_REQUEST" in report.raw
        assert await caller.ended()
        assert (await secured.get()).status == 200
        for connection in (caller, late, secured):
            await connection.close()


async def test_rotation_is_not_noticed(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """New certificates reach the wire while open and new connections go on being served."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        kept = await Caller.connect(port_of(server.spec), tls)
        for number in range(5):
            feed.hold(authorities.identity(API))
            feed.allow(WEB, MOBILE, name=f"round-{number}")
            await agent.in_force()
            new = await Caller.connect(port_of(server.spec), tls)
            shown = new.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            assert int(shown, 16) == feed.held[API].serial
            assert (await new.get()).status == 200
            assert (await kept.get()).status == 200
            await new.close()
        await kept.close()
