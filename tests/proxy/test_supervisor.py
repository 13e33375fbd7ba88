"""One supervised Envoy: started, kept, drained and stopped."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from legation.config.ports import unused_port
from legation.envoy import Inbound, Outbound, Protocol, ProxySpec
from legation.errors import InvalidInput, TimedOut, Unavailable
from legation.proxy import Admin, ProxySupervisor, find_envoy
from tests.support.envoy import (
    API,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    http_app,
    port_of,
    running_agent,
    running_proxy,
    serving,
)


@pytest.fixture
async def agent(short_path: Path) -> AsyncIterator[Agent]:
    """An agent that knows the API and lets the web front end call it."""
    authorities = Authorities()
    feed = Feed(authorities)
    feed.hold(authorities.identity(API))
    feed.allow(WEB)
    async with running_agent(feed, short_path) as agent:
        yield agent


def _supervisor(directory: Path, spec: ProxySpec, **options: object) -> ProxySupervisor:
    fields: dict[str, object] = {
        "agent_socket": directory / "agent.sock",
        "runtime_dir": directory / "run",
        "envoy": find_envoy(),
        "log": directory / "envoy.log",
        "concurrency": 1,
    }
    return ProxySupervisor(spec, **(fields | options))  # type: ignore[arg-type]


@pytest.mark.envoy
async def test_runtime_directory_is_private(agent: Agent, short_path: Path) -> None:
    """Only the owner can read the bootstrap or reach the administration socket."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as proxy:
        directory = proxy.admin_socket.parent
        config = directory / "bootstrap.json"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(proxy.admin_socket.stat().st_mode) == 0o600
        assert "PRIVATE KEY" not in config.read_text()
    assert not config.exists()
    assert not proxy.admin_socket.exists()


@pytest.mark.envoy
async def test_every_kind_of_port(agent: Agent, short_path: Path) -> None:
    """IPv6, names, all protocols, and a log of JSON objects: Envoy takes them all."""
    async with http_app() as app:
        inbound = tuple(
            Inbound(listen=f"{host}:{unused_port()}", app=f"localhost:{app}", protocol=protocol)
            for host, protocol in (
                ("[::1]", Protocol.HTTP),
                ("127.0.0.1", Protocol.HTTP2),
                ("[::1]", Protocol.TCP),
            )
        )
        outbound = tuple(
            Outbound(
                listen=f"127.0.0.1:{unused_port()}",
                upstream=f"localhost:{app}",
                spiffe_id=API,
                protocol=protocol,
            )
            for protocol in Protocol
        )
        spec = ProxySpec(name="all", inbound=inbound, outbound=outbound)
        async with running_proxy(agent, spec, short_path, json_log=True, log_level="info") as proxy:
            await agent.in_force()
            assert len(await proxy.admin.listeners()) == 3 + len(Protocol)
    lines = (short_path / "all.log").read_text().splitlines()
    assert all("message" in json.loads(line) for line in lines if line)


@pytest.mark.envoy
async def test_requests_finish_before_it_stops(agent: Agent, short_path: Path) -> None:
    """A request that is being served when Envoy is told to stop is still answered."""
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await finish.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    spec = serving(server.sockets[0].getsockname()[1])
    async with running_proxy(agent, spec, short_path) as proxy:
        authorities = agent.feed.authorities
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        asked = asyncio.create_task(Caller.once(port_of(spec), tls))
        await arrived.wait()
        stopping = asyncio.create_task(proxy.stop(grace_s=5))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        finish.set()
        assert (await asked).status == 200
        await stopping
        assert proxy.pid is None
        assert await proxy.wait() == 0
    server.close()
    await server.wait_closed()


@pytest.mark.envoy
async def test_stop_is_bounded(agent: Agent, short_path: Path) -> None:
    """A request that never ends does not keep Envoy from stopping."""
    hanging, ended = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        hanging.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    spec = serving(server.sockets[0].getsockname()[1])
    async with running_proxy(agent, spec, short_path) as proxy:
        authorities = agent.feed.authorities
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        asked = asyncio.create_task(Caller.once(port_of(spec), tls))
        await hanging.wait()
        async with asyncio.timeout(4):
            await proxy.stop(grace_s=0.2)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asked
    await ended.wait()
    server.close()
    await server.wait_closed()


async def test_broken_envoy_is_given_up(short_path: Path) -> None:
    """An executable that ends at once is tried a few times, and then reported."""
    proxy = _supervisor(short_path, serving(8080), envoy=Path("/bin/false"))
    await proxy.start()
    try:
        with pytest.raises(Unavailable, match=r"does not run \(status 1\)"):
            await proxy.wait_ready()
        assert proxy.restarts == 2
        assert await proxy.wait() == 1
    finally:
        await proxy.stop()


@pytest.mark.envoy
async def test_not_ready_without_an_agent(short_path: Path) -> None:
    """Without an agent Envoy serves nothing, and it is said where to look."""
    proxy = _supervisor(short_path, serving(8080))
    await proxy.start()
    try:
        with pytest.raises(TimedOut, match="legation status"):
            await proxy.wait_ready(0.5)
        assert proxy.pid is not None
    finally:
        await proxy.stop(grace_s=0)


async def test_wrong_places(short_path: Path) -> None:
    """A path too long for a socket, a directory that cannot be, a file that cannot be run."""
    deep = short_path / ("x" * 100)
    with pytest.raises(InvalidInput, match="too long for a socket"):
        await _supervisor(short_path, serving(8080), runtime_dir=deep).start()
    (short_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used"):
        await _supervisor(short_path, serving(8080), runtime_dir=short_path / "file").start()
    with pytest.raises(Unavailable, match="cannot be run"):
        await _supervisor(short_path, serving(8080), envoy=short_path / "file").start()


@pytest.mark.envoy
async def test_no_orphan(short_path: Path) -> None:
    """When the supervising process is killed, Envoy goes with it."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from legation.envoy import Inbound, ProxySpec\n"
        "from legation.proxy import ProxySupervisor, find_envoy\n"
        "async def main():\n"
        "    here = Path(sys.argv[1])\n"
        "    end = Inbound(listen='127.0.0.1:1', app='127.0.0.1:2')\n"
        "    spec = ProxySpec(name='a', inbound=(end,))\n"
        "    proxy = ProxySupervisor(spec, agent_socket=here / 'agent.sock',\n"
        "        runtime_dir=here, envoy=find_envoy(), log=here / 'log')\n"
        "    await proxy.start()\n"
        "    print(proxy.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(short_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(await parent.stdout.readline()))
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, gone.set)
    try:
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        async with asyncio.timeout(10):
            await gone.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def test_admin_that_is_not_there(short_path: Path) -> None:
    """Nobody at the socket, somebody who is silent, and somebody who does not speak HTTP."""
    admin = Admin(short_path / "admin.sock")
    assert not await admin.ready()
    with pytest.raises(Unavailable):
        await admin.listeners()

    answers = [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"]
    answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(answer, short_path / "admin.sock")
    while answers:
        with pytest.raises(Unavailable):
            await admin.get("/x")
    answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert await admin.get("/x") == (200, b"ok")
    server.close()
    await server.wait_closed()

    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        done.set()

    (short_path / "admin.sock").unlink(missing_ok=True)
    server = await asyncio.start_unix_server(silent, short_path / "admin.sock")
    with pytest.raises(TimedOut):
        await admin.get("/x", timeout_s=0.1)
    await done.wait()
    server.close()
    await server.wait_closed()
