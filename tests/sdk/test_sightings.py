"""A server of the SDK tells its agent whom it let in, once for each connection."""

import asyncio

import pytest
import uvloop

from legation.pki import SpiffeID
from legation.sdk import sightings
from legation.sdk.authorize import authorize_any
from legation.sdk.integrations import streams
from legation.sdk.model import Peer
from legation.sdk.sightings import Sightings
from legation.wire.protobuf import enforcement_pb2 as pb
from tests.support.pki import NOW
from tests.support.sdk_source import Authority, MemorySource
from tests.support.sdk_tls import ENGINES, ask, connect, echo_server, hang_up, until


class Watching(MemorySource):
    """A source that is told of peers."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.let_in: list[tuple[str, int, str]] = []

    def seen(self, peer: Peer, address: str) -> None:
        self.let_in.append((str(peer.spiffe_id), peer.serial, address))


@pytest.fixture
def domain() -> Authority:
    return Authority()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_server_tells_of_each_connection_and_of_no_request(
    engine: str, domain: Authority
) -> None:
    """With the client's address; a connection that is kept alive is told of once."""
    server = Watching(domain.issue("/api"), domain.bundle())
    svid = domain.issue("/web")
    client = Watching(svid, domain.bundle())
    async with echo_server(engine, server) as echo:
        for _ in range(2):
            opened = await connect(engine, echo.port, client)
            for _ in range(3):
                assert await ask(opened) == b"ping"
            await hang_up(opened)
        await until(lambda: len(server.let_in) == 2)
    assert set(server.let_in) == {("spiffe://example.org/web", svid.serial, "127.0.0.1")}
    assert client.let_in == []  # clients have nothing to say


def test_compiled_event_loops_tell_the_address_as_well(domain: Authority) -> None:
    """Their transports leave no trace in the handshake; the protocol above names them."""

    async def serve() -> list[tuple[str, int, str]]:
        server = Watching(domain.issue("/api"), domain.bundle())
        client = MemorySource(domain.issue("/web"), domain.bundle())
        listening = await streams.start_server(
            hang_up_at_once, "127.0.0.1", 0, source=server, authorize=authorize_any()
        )
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            await hang_up(await connect("stdlib", port, client))
            await until(lambda: bool(server.let_in))
        return server.let_in

    async def hang_up_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ((_, _, address),) = runner.run(serve())
    assert address == "127.0.0.1"


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_refused_peer_was_not_let_in(engine: str, domain: Authority) -> None:
    """It is a refusal, and nothing else."""
    server = Watching(domain.issue("/api"), domain.bundle())
    svid = domain.issue("/web")
    server.revoke(svid.serial)
    async with echo_server(engine, server) as echo:
        try:
            opened = await connect(engine, echo.port, MemorySource(svid, domain.bundle()))
            assert await ask(opened) == b""
            await hang_up(opened)
        except OSError:
            pass
        await until(lambda: bool(server.reports))
    assert server.let_in == []


def peer(serial: int = 31) -> Peer:
    return Peer(
        spiffe_id=SpiffeID.parse("spiffe://example.org/web"),
        serial=serial,
        not_after=NOW,
        certificate=b"",
    )


def test_connections_are_counted_until_the_message() -> None:
    """One row for a certificate and an address; only the first asks for a message."""
    seen = Sightings()
    assert seen.see(peer(), "192.0.2.1", now=10.0)
    assert not seen.see(peer(), "192.0.2.1", now=10.4)
    assert not seen.see(peer(), "", now=10.5)
    assert seen.report_at == 11.0
    (data,) = seen.message(now=11.0)
    first, other = pb.FollowRequest.FromString(data).sightings.sightings
    assert (first.peer, first.serial, first.address) == (
        "spiffe://example.org/web", "1f", "192.0.2.1",
    )  # fmt: skip
    assert (first.count, first.first_ms_ago, first.last_ms_ago) == (2, 1000, 600)
    assert (other.count, other.address) == (1, "")
    assert (seen.message(now=12.0), seen.report_at) == ([], None)


def test_cases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound connections are counted without a row."""
    monkeypatch.setattr(sightings, "_MAX_CASES", 2)
    seen = Sightings()
    for serial in range(1, 6):
        seen.see(peer(serial), "", now=0.0)
    (data,) = seen.message(now=1.0)
    message = pb.FollowRequest.FromString(data).sightings
    assert (len(message.sightings), message.overflow) == (2, 3)
