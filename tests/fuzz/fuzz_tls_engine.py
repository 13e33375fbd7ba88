"""Any bytes and any order of events leave the TLS engine closed, told once, and without a defect.

The input is a script: every byte pair is an event and its size. Events feed the bytes that
follow, or what a real peer says next in any chunks, and in between end, pause, resume,
write and close from both sides. Handshakes run to their end where the script lets them.
"""

import asyncio
import atexit
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from OpenSSL import SSL

from legation.sdk.authorize import authorize_any
from legation.sdk.tls.pyopenssl import ClientEngine, ServerEngine, Timeouts
from legation.sdk.tls.pyopenssl.protocol import TLSProtocol
from tests.support.sdk_source import Authority, MemorySource
from tests.support.sdk_tls import MemoryTransport

_AUTHORITY = Authority()
_API = MemorySource(_AUTHORITY.issue("/api"), _AUTHORITY.bundle())
_WEB = MemorySource(_AUTHORITY.issue("/web"), _AUTHORITY.bundle())
_SERVER = ServerEngine(_API, authorize=authorize_any(), alpn=("h2",))
_CLIENT = ClientEngine(_WEB, authorize=authorize_any(), alpn=("h2",))
_EVENTS = 200


def _write(transport: Any, data: bytes) -> None:
    with suppress(RuntimeError):  # documented: after write_eof
        transport.write(data)


class _Application(asyncio.Protocol):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        assert "lost" not in self.calls
        assert "eof" not in self.calls
        _write(self.transport, data[:100])

    def eof_received(self) -> bool:
        assert "eof" not in self.calls
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # TLSFailure, PeerRefused, ConnectionCut, ConnectionResetError, TimeoutError
        assert exc is None or isinstance(exc, OSError), exc
        self.calls.append("lost")


class _Script:
    """One connection and its real peer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.application = _Application()
        engine, other = (_SERVER, _CLIENT) if data[:1] < b"\x80" else (_CLIENT, _SERVER)
        self.tls = TLSProtocol(engine, lambda: self.application, timeouts=Timeouts())
        self.wire = MemoryTransport()
        self.peer, _ = other.begin()

    def step(self, event: int, size: int, payload: bytes) -> None:
        tls, transport = self.tls, getattr(self.application, "transport", None)
        actions: list[Callable[[], object]] = [
            lambda: tls.data_received(payload),
            lambda: self.from_peer(size),
            lambda: self.from_peer(1 << 16),
            self.to_peer,
            tls.eof_received,
            tls.pause_writing,
            tls.resume_writing,
            lambda: TLSProtocol.cut([tls], "certificate_revoked"),  # type: ignore[arg-type]
        ]
        if transport is not None:
            actions += [
                transport.pause_reading,
                transport.resume_reading,
                lambda: _write(transport, b"w" * (size * 300)),
                transport.write_eof,
                transport.close,
                transport.abort,
                lambda: self.peer_says(size),
                self.peer.shutdown,
            ]
        action = actions[event % len(actions)]
        with suppress(SSL.Error):  # the real peer's own
            action()

    def from_peer(self, size: int) -> None:
        with suppress(SSL.Error):
            self.peer.do_handshake()
        with suppress(SSL.Error):
            self.tls.data_received(self.peer.bio_read(max(size, 1)))

    def to_peer(self) -> None:
        if self.wire.sent:
            self.peer.bio_write(bytes(self.wire.sent))
            self.wire.sent.clear()
        with suppress(SSL.Error):
            self.peer.recv(1 << 16)

    def peer_says(self, size: int) -> None:
        self.peer.send(b"p" * (size * 97 + 1))

    async def run(self) -> None:
        self.tls.connection_made(self.wire)
        if self.data[1:2] > b"\x40":
            self.shake_hands()
        at = 2
        for _ in range(_EVENTS):
            if at + 2 > len(self.data) or self.wire.closed:
                break
            event, size = self.data[at], self.data[at + 1]
            at += 2
            payload = self.data[at : at + size]
            if event % 16 == 0:
                at += size
            self.step(event, size, payload)
            await asyncio.sleep(0)
        await self.end()

    def shake_hands(self) -> None:
        for _ in range(3):
            self.to_peer()
            self.from_peer(1 << 16)

    async def end(self) -> None:
        """Whatever has happened, the end of the transport ends all of it."""
        if not self.wire.closed:
            self.tls.eof_received()
            self.tls.abort(None)
        assert self.wire.closed
        self.tls.connection_lost(None)
        await asyncio.sleep(0)
        assert self.tls._timer is None, "a timer outlived its connection"
        calls = self.application.calls
        assert calls.count("lost") == calls.count("made") <= 1, calls
        self.tls.data_received(b"late")
        self.tls.eof_received()


_loop: list[asyncio.AbstractEventLoop] = []


def one_input(data: bytes) -> None:
    """Run the script, in an event loop that reports what nobody caught."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
        atexit.register(_loop[0].close)
    defects: list[dict[str, Any]] = []
    _loop[0].set_exception_handler(lambda _, context: defects.append(context))
    _loop[0].run_until_complete(asyncio.wait_for(_Script(data).run(), 5))
    assert not defects, defects


# Side and handshake, then events: traffic both ways, ends of every kind.
_SCRIPTS = (
    [14, 9, 2, 0, 3, 0, 10, 50, 3, 0, 12, 0, 2, 0],
    [8, 0, 14, 200, 2, 0, 9, 0, 11, 0, 15, 0, 2, 0, 12, 0],
    [10, 255, 5, 0, 6, 0, 15, 0, 2, 0, 11, 0, 12, 0, 3, 0],
    [14, 3, 1, 7, 1, 9, 1, 200, 4, 0],
    [16, 5, 0x17, 3, 3, 0, 1, 13, 0],
    [14, 200, 2, 0, 7, 0, 10, 4, 2, 0],
)
SEEDS = (
    b"\x00\x00\x02\x00\x03\x00\x02\x00\x03\x00\x02\x00",
    b"\xff\x00\x00\x05\x16\x03\x01\x00\x00",
    *(bytes([side, 0xFF, *script]) for side in (0, 0xFF) for script in _SCRIPTS),
)
