"""Identities that the tests issue, and a TLS server that reads a sink's files when told."""

import asyncio
import ssl

import pytest

from legation.agent.sinks import Outcome
from legation.agent.sinks.servers.server import CRL_ON_HANDSHAKE
from legation.config.sinks import Sink
from legation.errors import Unavailable
from tests.support.sinks import IssuedIdentities, RunningSinks


class Reader:
    """Serves TLS with the files of a sink, in this process; implements `Server` and `Cutting`.

    Attributes:
        cuts: the serial numbers of each time that it was told to end what is open.
        stubborn: how often it will refuse that.
        deaf: whether it says that it reloaded, and goes on with what it had.
        failures: how often its reload fails from now on.
        loads: how often it was told.
    """

    acknowledges = False
    capabilities = (CRL_ON_HANDSHAKE,)
    notes = ()

    def __init__(self):
        self.deaf = False
        self.failures = 0
        self.loads = 0
        self.cuts, self.stubborn = [], 0
        self.port = 0
        self._context = None
        self._server = None

    async def load(self, files):
        self.loads += 1
        if self.failures:
            self.failures -= 1
            raise Unavailable("the server does not reload")
        if self.deaf:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(files / "chain.pem", files / "key.pem")
        except ssl.SSLError as error:
            raise Unavailable(f"the server does not take it: {error.reason}") from None
        self._context = context

    async def cut(self, revoked):
        if self.stubborn:
            self.stubborn -= 1
            raise Unavailable("the server holds on to its sessions")
        self.cuts.append(revoked)
        return 0

    async def __aenter__(self):
        listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        listening.sni_callback = self._choose
        self._server = await asyncio.start_server(
            lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=listening
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    def _choose(self, connection, _name, _context):
        if self._context is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._context
        return None


@pytest.fixture
def issued():
    identities = IssuedIdentities()
    identities.rotate()
    return identities


@pytest.fixture
async def reader():
    async with Reader() as reader:
        yield reader


@pytest.fixture
def sink(tmp_path, reader):
    """A sink whose server is `reader`, looked at for half a second."""
    return Sink.model_validate(
        {
            "name": "web",
            "directory": str(tmp_path / "web"),
            "files": {"chain": "chain.pem", "key": "key.pem", "bundle": "b.pem", "crl": "crl.pem"},
            "probe": {"address": f"127.0.0.1:{reader.port}", "timeout": "1s"},
        }
    )


@pytest.fixture
async def running(issued, sink, reader):
    """The sink at work, with its first certificate confirmed."""
    async with RunningSinks(issued, sink, server=reader) as running:
        event = await running.next_event()
        assert event.outcome is Outcome.CONFIRMED, event
        yield running
