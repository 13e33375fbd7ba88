"""Any bytes on the agent's socket: HTTP/2 frames, gRPC framing and Workload API requests.

The server's protocol runs on a transport that keeps what is written, so that an input is
deterministic and fast. An exception that the loop hears of, or that is logged, is a finding.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection

from legation.agent.identities.jwt_svids import JWTSVIDs
from legation.agent.local.server import LocalServer
from legation.agent.local.workload_api import WorkloadAPI
from legation.agent.model import AttestedCaller, Changes, WorkloadIdentity
from legation.clock import SystemClock
from legation.pki import SpiffeID
from legation.wire.feed import FeedState


def _call(body: bytes, *, path: str = "/SpiffeWorkloadAPI/FetchX509SVID") -> bytes:
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "agent"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("workload.spiffe.io", "true"),
    ]
    connection.send_headers(1, headers)
    connection.send_data(1, body, end_stream=True)
    return connection.data_to_send()


SEEDS = (
    _call(b"\0\0\0\0\0"),
    _call(b"\1\0\0\0\0"),
    _call(b"\0\0\0\0\3abc"),
    _call(b"\0\xff\xff\xff\xff"),
    _call(b"\0\0\0\0\3abc", path="/SpiffeWorkloadAPI/FetchJWTSVID"),
    _call(b"", path="/SpiffeWorkloadAPI/ValidateJWTSVID"),
)


class _Transport(asyncio.Transport):
    """Writes to nowhere; knows a real socket, whose peer is this process."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__({"socket": ours})
        self._closing = False
        self._protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None: ...

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol


class _Nobody:
    """Knows no identity."""

    agent_id = SpiffeID.parse("spiffe://a/legation/agent/one")

    def __init__(self) -> None:
        self.state = FeedState()
        self.state.revision = 1

    def identities_for(self, caller: AttestedCaller) -> Sequence[WorkloadIdentity]:
        return ()

    def watch(self) -> AsyncIterator[None]:
        return Changes().watch()


class _Stranger:
    async def attest(self, fd: int, *, connected_at: float) -> AttestedCaller:
        return AttestedCaller(pid=1, uid=1, gid=1, selectors=frozenset())


class _Tracebacks(logging.Handler):
    """Collects log records that carry a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


def one_input(data: bytes) -> None:
    """Try `data` as everything that a caller ever sends on its connection."""
    tracebacks = _Tracebacks()
    logging.getLogger().addHandler(tracebacks)
    try:
        asyncio.run(_serve(data))
    finally:
        logging.getLogger().removeHandler(tracebacks)
    if tracebacks.found:
        raise AssertionError("\n".join(tracebacks.found))


async def _serve(data: bytes) -> None:
    findings: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: findings.append(context))
    nobody, clock = _Nobody(), SystemClock()
    tokens = JWTSVIDs(nobody, _Nobody(), clock)  # type: ignore[arg-type]
    api = WorkloadAPI(nobody, tokens, _Stranger())  # type: ignore[arg-type]
    server = LocalServer([api], path=None, clock=clock)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        transport = _Transport(ours)
        protocol = server._server._protocol_factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)
        for _ in range(10):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(10):
            await asyncio.sleep(0)
    if findings:
        raise AssertionError(findings)
