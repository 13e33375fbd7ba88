"""Open connections of a peer that was revoked: cut at once, idle or not, under every loop."""

import asyncio
import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import anyio.streams.tls
import pytest
import uvloop

from legation.causes import Cause
from legation.sdk.authorize import authorize_any
from legation.sdk.connections import ConnectionCut, connections_of
from legation.sdk.tls import adopt, client_context, hold, server_context
from tests.support.sdk_source import Authority, MemorySource
from tests.support.sdk_tls import ENGINES, ask, connect, echo_server, hang_up, until

AUTHORITY = Authority()
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
# The aim is 10 ms; the machine that tests run on has other things to do.
SOON_S = 0.5


def source_of(path: str) -> MemorySource:
    return MemorySource(AUTHORITY.issue(path), AUTHORITY.bundle())


def run(loop: str, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())


def from_a_thread(act: Callable[[], object]) -> None:
    """Act as a source does that has a thread of its own, and wait for it."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_cuts_a_revoked_client_that_is_idle(engine: str, loop: str) -> None:
    """Its idle connections end at once, and the application sees why; others go on."""

    async def scenario() -> None:
        api, web, batch = (source_of(path) for path in ("/api", "/web", "/batch"))
        async with echo_server(engine, api) as server:
            cut = [await connect("stdlib", server.port, web) for _ in range(3)]
            kept = await connect("stdlib", server.port, batch)
            for streams in (*cut, kept):
                assert await ask(streams) == b"ping"
            begun = time.perf_counter()
            from_a_thread(lambda: api.revoke(web.view().svid.serial))
            for reader, _ in cut:
                with suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(1), 5) == b""
            assert time.perf_counter() - begun < SOON_S
            assert await ask(kept) == b"ping"
            await until(lambda: len(server.errors) == 3)
            assert {type(error) for error in server.errors} == {ConnectionCut}
            assert api.causes == [Cause.CERTIFICATE_REVOKED]
            assert api.acknowledged == [("connections", 1, ())]
            await hang_up(*cut, kept)

    run(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_cuts_a_revoked_server_that_is_idle(
    engine: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that waits for an answer gets an error, not what looks like a regular end."""

    async def scenario() -> None:
        api, web = source_of("/api"), source_of("/web")
        async with echo_server("stdlib", api) as server:
            streams = await connect(engine, server.port, web)
            assert await ask(streams) == b"ping"
            waiting = asyncio.create_task(streams[0].read(1))
            await asyncio.sleep(0)
            begun = time.perf_counter()
            if loop == "asyncio":
                monkeypatch.setattr(gc, "get_referrers", None)  # the carrier is known
            from_a_thread(lambda: web.ban(api.view().svid.spiffe_id))
            with pytest.raises(ConnectionCut) as caught:
                await asyncio.wait_for(waiting, 5)
            assert time.perf_counter() - begun < SOON_S
            assert caught.value.cause is Cause.IDENTITY_BANNED
            await hang_up(streams)

    run(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_busy_connection_is_cut_in_the_middle(loop: str) -> None:
    """A peer that keeps sending is cut as well, and nothing it sends afterwards arrives."""

    async def scenario() -> None:
        api, web = source_of("/api"), source_of("/web")
        async with echo_server("stdlib", api) as server:
            reader, writer = await connect("stdlib", server.port, web)

            async def send() -> None:
                with suppress(OSError):
                    while True:
                        writer.write(b"x" * 4096)
                        await writer.drain()
                        await reader.read(4096)
                        if reader.at_eof():
                            return

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.02)
            api.revoke(web.view().svid.serial)
            await asyncio.wait_for(sending, 5)
            await until(lambda: bool(server.errors))
            await hang_up((reader, writer))

    run(loop, scenario)


@pytest.mark.parametrize(
    ("loop", "note"), [("asyncio", adopt), ("asyncio", hold), ("uvloop", hold)]
)
def test_an_adopted_transport_is_cut_without_a_search(
    loop: str, note: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A protocol that shows its transport spares the process the search on its heap."""

    class Adopting(asyncio.Protocol):
        lost: asyncio.Future[Exception | None]

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.release = note(transport)
            self.lost = asyncio.get_running_loop().create_future()
            made.set_result(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)
            if note is hold:
                self.release()

    async def scenario() -> None:
        nonlocal made
        made = asyncio.get_running_loop().create_future()
        api, web = source_of("/api"), source_of("/web")
        context = server_context(api, authorize=authorize_any())
        running = asyncio.get_running_loop()
        server = await running.create_server(Adopting, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        streams = await connect("stdlib", port, web)
        protocol = await made
        monkeypatch.setattr(gc, "get_referrers", lambda *_: pytest.fail("searched the heap"))
        api.revoke(web.view().svid.serial)
        assert isinstance(await asyncio.wait_for(protocol.lost, 5), ConnectionCut)
        await hang_up(streams)
        server.close()
        await server.wait_closed()

    made: asyncio.Future[Adopting]
    run(loop, scenario)


def test_adopting_a_transport_of_another_kind_does_nothing() -> None:
    """A transport in the clear may be shown as well."""

    class Plain:
        def get_extra_info(self, name: str) -> None:
            return None

    adopt(Plain())
    hold(Plain())()


class BlockingServer:
    """A server with a thread for each connection, as `http.server` and many others."""

    def __init__(self, source: MemorySource) -> None:
        self.context = server_context(source, authorize=authorize_any())
        self.listener = self.context.wrap_socket(
            socket.create_server(("127.0.0.1", 0)), server_side=True
        )
        self.port = self.listener.getsockname()[1]
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self.accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> "BlockingServer":
        self.accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        socket.socket.shutdown(self.listener, socket.SHUT_RDWR)
        self.listener.close()
        for thread in (self.accepting, *self.threads):
            thread.join(5)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except ssl.SSLError as error:
                self.errors.append(error)
                continue
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: ssl.SSLSocket) -> None:
        with connection:
            try:
                while data := connection.recv(100):
                    connection.sendall(data)
            except OSError as error:
                self.errors.append(error)


def dial(port: int, source: MemorySource) -> ssl.SSLSocket:
    context = client_context(source, authorize=authorize_any())
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=5))


def test_blocking_sockets_are_cut_under_a_thread_that_waits() -> None:
    """A thread that waits in `recv` wakes up with the error; the other client is served on."""
    api, web, batch = (source_of(path) for path in ("/api", "/web", "/batch"))
    with BlockingServer(api) as server, dial(server.port, batch) as kept:
        with dial(server.port, web) as cut:
            for connection in (cut, kept):
                connection.sendall(b"ping")
                assert connection.recv(4) == b"ping"
            begun = time.perf_counter()
            api.revoke(web.view().svid.serial)
            assert cut.recv(1) == b""
            assert time.perf_counter() - begun < SOON_S
        kept.sendall(b"pong")
        assert kept.recv(4) == b"pong"
        with dial(server.port, web) as refused, suppress(ConnectionError):
            assert refused.recv(1) == b""
    assert [getattr(error, "cause", None) for error in server.errors] == [
        Cause.CERTIFICATE_REVOKED
    ] * len(server.errors)
    assert Cause.CERTIFICATE_REVOKED in api.causes


def test_a_blocking_client_is_cut_under_a_thread_that_waits() -> None:
    """A client's `recv` raises when its server is revoked, and so does every later call."""
    api, web = source_of("/api"), source_of("/web")
    with BlockingServer(api) as server, dial(server.port, web) as connection:
        connection.sendall(b"ping")
        assert connection.recv(4) == b"ping"
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                raised.append(AssertionError(connection.recv(1)))
            except OSError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        web.revoke(api.view().svid.serial)
        thread.join(5)
        assert isinstance(raised[0], ConnectionCut)
        for call in (lambda: connection.recv(1), lambda: connection.send(b"x"), connection.unwrap):
            with pytest.raises(ConnectionCut):
                call()
        assert connection.pending() == 0


async def test_connections_of_anyio_are_cut() -> None:
    """anyio, and so httpx, keeps its own stream over the TLS object: it is woken up as well."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server("stdlib", api) as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        tls = await anyio.streams.tls.TLSStream.wrap(
            stream, ssl_context=client_context(web, authorize=authorize_any()), server_side=False
        )
        await tls.send(b"ping")
        assert await tls.receive() == b"ping"
        waiting = asyncio.create_task(tls.receive())
        await asyncio.sleep(0.01)
        from_a_thread(lambda: web.revoke(api.view().svid.serial))
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await asyncio.wait_for(waiting, 5)
        with suppress(anyio.BrokenResourceError):
            await tls.aclose()
        await stream.aclose()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_revocation_during_the_handshake_is_not_missed(engine: str) -> None:
    """What changes between verification and registration ends the connection all the same."""
    api, web = source_of("/api"), source_of("/web")
    serial = web.view().svid.serial
    asked = 0
    refusal = api.refusal

    def changing(**given: Any) -> Cause | None:
        nonlocal asked
        asked += 1
        answer = refusal(**given)
        api.revoked.add(serial)  # in force, before the connection is registered
        return answer

    api.refusal = changing  # type: ignore[method-assign]
    async with echo_server(engine, api) as server:
        with suppress(OSError):
            streams = await connect("stdlib", server.port, web)
            assert await ask(streams) == b""
            await hang_up(streams)
        await until(lambda: bool(api.reports))
        assert server.peers == []
        assert asked == 2


@pytest.mark.parametrize("engine", ENGINES)
async def test_closed_connections_leave_the_registry(engine: str) -> None:
    """After connections have ended on both sides, neither registry holds any."""
    api, web = source_of("/api"), source_of("/web")
    async with echo_server(engine, api) as server:
        connections = [await connect(engine, server.port, web) for _ in range(5)]
        for streams in connections:
            await ask(streams)
        assert len(connections_of(api)) == len(connections_of(web)) == 5
        await hang_up(*connections)
        del streams, connections

    def empty() -> bool:
        gc.collect()
        return len(connections_of(api)) == len(connections_of(web)) == 0

    await until(empty)
