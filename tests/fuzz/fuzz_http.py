"""Any bytes on a connection end in whole HTTP responses or silence, never in an error of ours.

The whole stack runs: framing, limits, routing, reading and both applications; only the
socket is replaced, by a transport in memory.
"""

import asyncio
import atexit
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from legation.authority.http.connection import ConnectionProtocol, Limits
from legation.authority.rest.application import build_application
from legation.authority.status_http import build_status_application
from legation.clock import SystemClock
from tests.support.fake_services import FakeAuthority

STATUSES = frozenset(b"200 201 204 304 400 401 403 404 405 408 413 414 415 422 431 503".split())


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


class _Target:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        services = FakeAuthority().services()
        clock = SystemClock()
        self.configs = [
            uvicorn.Config(
                application,
                http=HttpToolsProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
            )
            for application in (
                build_status_application(services.status, clock=clock),
                build_application(services, clock=clock),
            )
        ]
        atexit.register(self.loop.close)

    def feed(self, data: bytes) -> None:
        errors = _Errors()
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "legation", "asyncio")]
        for logger in loggers:
            logger.addHandler(errors)
        try:
            for config in self.configs:
                self.loop.run_until_complete(self._feed(config, data))
        finally:
            for logger in loggers:
                logger.removeHandler(errors)
        assert not errors.seen, errors.seen

    async def _feed(self, config: uvicorn.Config, data: bytes) -> None:
        state = ServerState()
        shared = {"stopping": asyncio.Event()}
        limits = Limits(head_bytes=4096, head_fields=16, pipelined=4)
        opened = {False: 0, True: 0}
        protocol = ConnectionProtocol(config, state, shared, limits=limits, open_connections=opened)
        transport = _Transport()
        protocol.connection_made(transport)
        # In two reads, so that every boundary is also one between two segments.
        middle = len(data) // 2
        for part in (data[:middle], data[middle:]):
            if part and not transport.closed:
                protocol.data_received(part)
                await asyncio.sleep(0)
        protocol.connection_lost(None)
        assert opened == {False: 0, True: 0}
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=5)
        assert not state.tasks, "a request outlived its connection"
        written = bytes(transport.written)
        assert not written or written.startswith(b"HTTP/1.1 "), written[:40]
        assert not written or written[9:12] in STATUSES, written[:40]
        assert b"Traceback" not in written


_target: list[_Target] = []


def one_input(data: bytes) -> None:
    """Feed `data` to the status port and to the REST interface, as a client without certificate."""
    if not _target:
        _target.append(_Target())
    _target[0].feed(data)
