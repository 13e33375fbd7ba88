"""The OCSP response among the files of a sink: real servers send it, and never one that is over."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from legation.agent.sinks import Outcome, stapling
from legation.agent.sinks.generations import Access, Generations
from legation.agent.sinks.model import NO_STAPLE
from legation.clock import FixedClock
from legation.config.sinks import Sink
from legation.errors import Unavailable
from legation.pki.ocsp import next_update_of
from legation.wire.feed import Ban
from tests.support.openssl import serial_line
from tests.support.rest_server import run
from tests.support.sink_servers import HAPROXY, NGINX, HAProxy, Nginx
from tests.support.sinks import RunningSinks, write_identity

nginx = pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed")
haproxy = pytest.mark.skipif(not Path(HAPROXY).exists(), reason="HAProxy is not installed")
NONE = "OCSP response: no response sent"
GOOD = "Cert Status: good"
STAPLE = "staple.der"


class StaplingNginx(Nginx):
    """nginx that staples what the file holds."""

    files: ClassVar = {**Nginx.files, "ocsp_staple": STAPLE}

    def configure(self):
        super().configure()
        path = self.directory / "nginx.conf"
        depth = "ssl_verify_depth 2;"
        more = f"{depth} ssl_stapling on; ssl_stapling_file {self.current}/{STAPLE};"
        path.write_text(path.read_text().replace(depth, more))


class StaplingHAProxy(HAProxy):
    """HAProxy, which looks for a response beside each certificate by itself."""

    files: ClassVar = {**HAProxy.files, "ocsp_staple": "combined.pem.ocsp"}


@asynccontextmanager
async def serving(server, issued):
    """Run a server with a sink for it."""
    await server.begin(issued)
    try:
        async with RunningSinks(issued, server.sink()) as running:
            yield running
    finally:
        server.stop()


@pytest.fixture
def client(issued, short_path):
    """Return what a server says about its certificate, as `openssl s_client` has it."""
    chain, key = write_identity(issued.certify("/caller"), short_path)
    roots = short_path / "roots.pem"
    roots.write_bytes(issued.bundle.to_pem())

    async def status(server):
        _, out, _ = await run(
            "openssl", "s_client", "-status", "-connect", f"127.0.0.1:{server.port}",
            "-CAfile", str(roots), "-cert", str(chain), "-key", str(key),
            stdin=b"",
        )  # fmt: skip
        assert b"Verify return code: 0 (ok)" in out, out
        return out.decode()

    return status


async def until(client, server, *words):
    """Ask until the server says all of this."""
    async with asyncio.timeout(15):
        while True:
            said = await client(server)
            if all(word in said for word in words):
                return said
            await asyncio.sleep(0.05)


def ends(response):
    """Return the end of a response as `openssl` writes it."""
    return f"Next Update: {next_update_of(response):%b %e %H:%M:%S %Y} GMT"


@pytest.mark.parametrize(
    "kind",
    [pytest.param(StaplingNginx, marks=nginx), pytest.param(StaplingHAProxy, marks=haproxy)],
)
async def test_a_server_staples_the_newest_response(kind, issued, client, short_path):
    """The first, the next one, the next certificate's, and none when there is none any more."""
    first = issued.current[0]
    issued.respond(first)
    server = kind(short_path)
    async with serving(server, issued) as running:
        said = await until(client, server, GOOD)
        assert serial_line(first.serial) in said
        following = issued.respond(first, span=timedelta(hours=2))
        await until(client, server, GOOD, ends(following))
        new = issued.certify("/web")
        issued.respond(new)
        issued.put(new)
        assert (await running.next_event()).in_force in {first.serial, new.serial}
        await until(client, server, GOOD, serial_line(new.serial))
        issued.respond(new, span=timedelta(hours=3))
        await until(client, server, GOOD, ends(issued.staples[new.serial]))
        del issued.staples[new.serial]
        issued.state.bans[new.spiffe_id] = Ban(
            spiffe_id=new.spiffe_id, reason="", since=new.not_before
        )
        issued.changed()
        said = await until(client, server, NONE if kind is StaplingHAProxy else "trylater")
        assert GOOD not in said
        assert not [note for note in running.status.notes if "OCSP" in note]


async def request(streams):
    """Send a request on an open connection; return the answer's status."""
    reader, writer = streams
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    await reader.readexactly(2)  # "ok"
    return head.split()[1]


async def process_of(server):
    """Return the process id of HAProxy's current worker."""
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    writer.write(b"show info\n")
    info = (await reader.read()).decode()
    writer.close()
    return next(line for line in info.splitlines() if line.startswith("Pid:"))


@haproxy
async def test_haproxy_renews_a_response_at_runtime(issued, client, short_path):
    """The same worker goes on, and so do its open connections."""
    identity = issued.current[0]
    issued.respond(identity)
    server = StaplingHAProxy(short_path)
    await server.begin(issued)
    try:
        context = ssl.create_default_context(cadata=issued.bundle.to_pem().decode())
        context.load_cert_chain(*write_identity(issued.certify("/other"), short_path, "other"))
        async with RunningSinks(issued, server.sink()):
            issued.respond(identity, span=timedelta(hours=2))
            await until(client, server, ends(issued.staples[identity.serial]))
            worker = await process_of(server)
            streams = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
            )
            for hours in (3, 4, 5):
                issued.respond(identity, span=timedelta(hours=hours))
                await until(client, server, GOOD, ends(issued.staples[identity.serial]))
                assert await request(streams) == b"200"
            assert await process_of(server) == worker
            streams[1].close()
    finally:
        server.stop()


@haproxy
async def test_haproxy_takes_a_response_that_comes_late(issued, client, short_path, monkeypatch):
    """It had none for its certificate, so it takes a commit; a wrong one is not stapled."""
    monkeypatch.setattr(stapling, "WAIT", timedelta())
    identity = issued.current[0]
    server = StaplingHAProxy(short_path)
    async with serving(server, issued) as running:
        assert NONE in await client(server)
        issued.respond(identity, about=1)
        await running.until(lambda status: status.state)
        assert NONE in await client(server)
        issued.respond(identity)
        await until(client, server, GOOD)


@nginx
@pytest.mark.parametrize("revoked", [True, False])
async def test_what_an_earlier_agent_has_left_is_taken_away(issued, client, short_path, revoked):
    """A response that is over, or whose certificate was revoked: nginx would staple it for ever."""
    identity = issued.current[0]
    issued.respond(identity)
    server = StaplingNginx(short_path)
    await server.begin(issued)
    try:
        issued.staples.clear()  # the new run has nothing, and the authority is away
        issued.current.clear()
        async with RunningSinks(issued, server.sink()) as running:
            await running.until(lambda status: status.problem)
            assert GOOD in await client(server)
        if revoked:
            issued.revoke(identity.serial)
        clock = FixedClock(identity.not_before + timedelta(minutes=0 if revoked else 61))
        async with RunningSinks(issued, server.sink(), clock=clock):
            await until(client, server, "trylater")
    finally:
        server.stop()


# --- the file ----------------------------------------------------------------------------------


class Told:
    """A server that counts, and fails when told to."""

    acknowledges = True
    capabilities = notes = ()

    def __init__(self):
        self.loads, self.error = 0, None

    async def load(self, _):
        self.loads += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def sink(tmp_path):
    """A sink with a response among its files, that nobody looks at."""
    return Sink.model_validate(
        {
            "name": "web",
            "directory": str(tmp_path / "web"),
            "files": {"chain": "chain.pem", "key": "key.pem", "ocsp_staple": STAPLE},
            "mode": "0640",
        }
    )


async def staple_is(sink, wanted):
    """Wait until the file holds this."""
    async with asyncio.timeout(5):
        while (sink.directory / "current" / STAPLE).read_bytes() != wanted:
            await asyncio.sleep(0.01)


async def test_a_new_certificate_waits_for_its_response(issued, sink, told):
    """So that both come in one step; the certificate before serves for these moments."""
    async with RunningSinks(issued, sink, server=told) as running:
        async with asyncio.timeout(5):
            while running.status.next_attempt is None:
                await asyncio.sleep(0.01)
        assert running.status.issued == issued.current[0].serial
        assert not sink.directory.joinpath("current").exists()
        response = issued.respond(issued.current[0])
        assert (await running.next_event()).outcome is Outcome.DELIVERED
        await staple_is(sink, response)
        assert told.loads == 1


async def test_it_does_not_wait_for_ever(issued, sink, told, monkeypatch):
    """Without any response the certificate is delivered with one that says nothing."""
    monkeypatch.setattr(stapling, "WAIT", timedelta(milliseconds=50))
    async with RunningSinks(issued, sink, server=told) as running:
        assert (await running.next_event()).outcome is Outcome.DELIVERED
        await staple_is(sink, NO_STAPLE)


async def test_a_renewed_response_replaces_one_file(issued, sink, told):
    """Nothing else is written, its mode is that of the others, and the server is told once."""
    issued.respond(issued.current[0])
    async with RunningSinks(issued, sink, server=told) as running:
        await running.next_event()
        directory = sink.directory / "current"
        before = {path.name: path.stat().st_ino for path in directory.iterdir()}
        response = issued.respond(issued.current[0], span=timedelta(hours=2))
        await staple_is(sink, response)
        after = {path.name: path.stat().st_ino for path in directory.iterdir()}
        assert {name for name in after if after[name] != before.get(name)} == {STAPLE}
        assert directory.joinpath(STAPLE).stat().st_mode & 0o777 == 0o640
        async with asyncio.timeout(5):
            while told.loads < 2:
                await asyncio.sleep(0.01)
        issued.changed()
        await asyncio.sleep(0)
        assert told.loads == 2
        assert running.events == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unavailable("nobody listens"), "the OCSP response is not in use: nobody listens"),
        (RuntimeError("secret"), "a RuntimeError"),
    ],
)
async def test_a_server_that_cannot_be_told_is_told_again(issued, sink, told, error, words):
    """The reason is a note of the sink until then; the certificate is not touched for it."""
    issued.respond(issued.current[0])
    async with RunningSinks(issued, sink, server=told) as running:
        await running.next_event()
        told.error = error
        issued.respond(issued.current[0], span=timedelta(hours=2))
        async with asyncio.timeout(5):
            while not any(words in note for note in running.status.notes):
                await asyncio.sleep(0.01)
        assert not any("secret" in note for note in running.status.notes)
        told.error = None
        issued.changed()
        async with asyncio.timeout(5):
            while any(words in note for note in running.status.notes):
                await asyncio.sleep(0.01)
        assert running.events == []


async def test_a_sink_without_the_file_says_that_it_cannot_staple(issued, sink, told):
    """Where the certificate must be stapled; nothing is waited for."""
    files = sink.files.model_copy(update={"ocsp_staple": None})
    plain = sink.model_copy(update={"files": files})
    issued.put(issued.certify("/web", must_staple=True))
    async with RunningSinks(issued, plain, server=told) as running:
        await running.next_event()
        assert any("must be stapled" in note for note in running.status.notes)
        issued.rotate()
        await running.next_event()
        assert not any("must be stapled" in note for note in running.status.notes)
        assert not sink.directory.joinpath("current", STAPLE).exists()


def test_a_file_is_replaced_or_left(tmp_path):
    """A disk that refuses is an error in words, and what was there is there still."""
    generations = Generations(tmp_path / "gone", Access())
    generation = type("Numbered", (), {"number": 1})()
    assert generations.read(generation, STAPLE) == b""
    with pytest.raises(Unavailable, match="cannot be written"):
        generations.replace(generation, STAPLE, b"x")


def test_haproxys_name_for_the_response_is_fixed(sink):
    """Another name than HAProxy looks for is refused before anything is written."""
    value = {
        "name": "web",
        "directory": "/run/web",
        "files": {"combined": "tls.pem", "ocsp_staple": "tls.pem.ocsp"},
        "reload": {"kind": "haproxy"},
    }
    assert Sink.model_validate(value).files.ocsp_staple == "tls.pem.ocsp"
    value["files"]["ocsp_staple"] = "tls.ocsp"
    with pytest.raises(ValidationError, match=r"beside files.combined, as .ocsp"):
        Sink.model_validate(value)
