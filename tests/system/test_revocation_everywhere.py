"""Revocation as a peer sees it: every kind of connection, time and again, a neighbour unharmed."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from legation.clock import SystemClock, from_rfc3339
from legation.config.ports import unused_port
from legation.demo.callers import (
    Answer,
    HTTP1Connection,
    HTTP2Connection,
    Load,
    call_once,
    client_context,
)
from legation.demo.deployment import TRUST_DOMAIN, Deployment
from legation.demo.stage import own_selector
from legation.demo.workload import FetchedIdentity, fetch_identities
from tests.support.echo_servers import grpc_echo, tcp_echo
from tests.support.figures import percentile, summary
from tests.system.conftest import MakeDeployment, create_entry, start_api

TRIALS = 20
HTTP_KINDS = ("new_handshake", "open_http1", "open_http2")
CLOCK = SystemClock()

POLICY = f"""\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {{name: callers}}
spec:
  target: {{spiffeIDs: ["spiffe://{TRUST_DOMAIN}/service"]}}
  action: ALLOW
  rules:
    - from: [{{spiffeIDs: ["spiffe://{TRUST_DOMAIN}/caller/*", "spiffe://{TRUST_DOMAIN}/neighbour"]}}]
"""


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_kind_of_connection_is_refused_after_a_revocation(
    make_deployment: MakeDeployment, trials: int | None
) -> None:
    """New, resumed, open and streaming connections of a revoked identity end; others stay."""
    count = trials or TRIALS
    deployment = await make_deployment()
    async with AsyncExitStack() as stack:
        ports = await _start_service(deployment, stack)
        identities = await _identities(deployment, count)
        neighbour = Load()
        context = _context(identities["neighbour"])
        neighbour.keep_alive(partial(HTTP1Connection.open, ports["http"], context), "/api/data")
        neighbour.keep_alive(
            partial(HTTP1Connection.open, ports["http"], context), "/api/data", per_connection=1
        )
        neighbour.keep_alive(
            partial(HTTP2Connection.open, ports["http"], _context(identities["neighbour"], "h2")),
            "/api/data",
        )
        times: dict[str, list[float]] = {}
        for number in range(count):
            for kind, passed in (
                await _trial(deployment, identities[f"caller/{number}"], ports)
            ).items():
                times.setdefault(kind, []).append(passed)
        tally = await neighbour.stop()
    for kind, values in times.items():
        print(f"{kind:16} {summary(values)} ms")
    print(f"neighbour: {tally.requests} requests, {tally.failed} failed")
    assert tally.failed == 0, tally.reasons
    for kind in HTTP_KINDS:
        assert percentile(times[kind], 0.99) <= 100, kind
    assert set(times) == {*HTTP_KINDS, "open_tcp", "resumed_session", "grpc_stream"}


async def _start_service(deployment: Deployment, stack: AsyncExitStack) -> dict[str, int]:
    ports = {name: unused_port() for name in ("http", "grpc", "tcp")}
    grpc_app = await stack.enter_async_context(grpc_echo())
    tcp_app = await stack.enter_async_context(tcp_echo())
    await create_entry(deployment, "service")
    await deployment.cli("policy", "apply", "-f", "-", input_text=POLICY)
    app = await start_api(deployment)
    await deployment.start_proxy(
        "service",
        inbound=[
            f"127.0.0.1:{ports['http']}=127.0.0.1:{app}",
            f"127.0.0.1:{ports['grpc']}=127.0.0.1:{grpc_app},protocol=http2",
            f"127.0.0.1:{ports['tcp']}=127.0.0.1:{tcp_app},protocol=tcp",
        ],
    )
    return ports


async def _identities(deployment: Deployment, count: int) -> dict[str, FetchedIdentity]:
    own = own_selector()
    paths = ["neighbour", *(f"caller/{number}" for number in range(count))]
    for path in paths:
        await create_entry(deployment, path, own)
    directory = deployment.directory / "callers"
    directory.mkdir(mode=0o700)
    async with asyncio.timeout(20):
        while True:
            found = await fetch_identities(deployment.socket, directory)
            by_path = {name.split("/", 3)[3]: identity for name, identity in found.items()}
            if set(paths) <= by_path.keys():
                return by_path
            await asyncio.sleep(0.1)


def _context(identity: FetchedIdentity, *alpn: str) -> ssl.SSLContext:
    return client_context(
        authorities_pem=identity.bundle_pem,
        credential=identity.credential,
        alpn=alpn or ("http/1.1",),
    )


async def _trial(
    deployment: Deployment, identity: FetchedIdentity, ports: dict[str, int]
) -> dict[str, float]:
    """Open one connection of each kind, revoke, and return milliseconds to each first refusal."""
    async with AsyncExitStack() as stack:
        attempts = await _attempts(identity, ports, stack)
        watchers = {
            kind: asyncio.create_task(_first_refusal(attempt)) for kind, attempt in attempts.items()
        }
        outcome = await deployment.cli_json(
            "revoke", "--identity", identity.spiffe_id, "--reason", "keyCompromise", "--wait"
        )
        recorded = from_rfc3339(outcome["at"])
        async with asyncio.timeout(10):
            return {
                kind: (await watcher - recorded) / timedelta(milliseconds=1)
                for kind, watcher in watchers.items()
            }


Attempt = Callable[[], Awaitable[bool]]


async def _attempts(
    identity: FetchedIdentity, ports: dict[str, int], stack: AsyncExitStack
) -> dict[str, Attempt]:
    http1 = await HTTP1Connection.open(ports["http"], _context(identity))
    http2 = await HTTP2Connection.open(ports["http"], _context(identity, "h2"))
    stream_connection = await HTTP2Connection.open(ports["grpc"], _context(identity, "h2"))
    stream = await stream_connection.open_stream("/test.Echo/Talk", grpc=True)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", ports["tcp"], ssl=_context(identity)
    )
    for connection in (http1, http2, stream_connection):
        stack.callback(connection.close)
    stack.callback(writer.close)
    context = _context(identity)
    session = await asyncio.to_thread(_resumable_session, ports["http"], context)

    async def served(answer: Awaitable[Answer]) -> bool:
        return (await answer).ok

    async def echo() -> bool:
        writer.write(b"ping")
        return await asyncio.wait_for(reader.read(4), 5) == b"ping"

    async def talk() -> bool:
        await asyncio.wait_for(stream_connection.ping_stream(stream, b"\0\0\0\0\4ping"), 5)
        return True

    attempts: dict[str, Attempt] = {
        "new_handshake": lambda: served(call_once(ports["http"], context, "/api/data")),
        "open_http1": lambda: served(http1.get("/api/data")),
        "open_http2": lambda: served(http2.get("/api/data")),
        "open_tcp": echo,
        "resumed_session": lambda: asyncio.to_thread(_resume, ports["http"], context, session),
        "grpc_stream": talk,
    }
    for kind, attempt in attempts.items():
        assert await attempt(), kind
    return attempts


async def _first_refusal(attempt: Attempt) -> datetime:
    while True:
        try:
            if not await attempt():
                return CLOCK.now()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return CLOCK.now()


def _resumable_session(port: int, context: ssl.SSLContext) -> ssl.SSLSession | None:
    """Call once, and return the session that the server would let a client resume."""
    with _connected(port, context, None) as peer:
        _exchange(peer)
        return peer.session


def _resume(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> bool:
    try:
        with _connected(port, context, session) as peer:
            return _exchange(peer)
    except OSError:
        return False


def _connected(port: int, context: ssl.SSLContext, session: Any) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    return context.wrap_socket(raw, session=session)


def _exchange(peer: ssl.SSLSocket) -> bool:
    peer.sendall(b"GET /api/data HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n")
    return b" 200 " in peer.recv(65536)[:20]
