"""OCSP responses that Envoy staples."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from legation.pki import private_key_to_pem
from legation.pki.ocsp import CertificateID, Good, StatusRequest, build_response
from tests.support.envoy import (
    API,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    calling,
    certificates_to_pem,
    http_app,
    port_of,
    running_proxy,
    serving,
)
from tests.support.openssl import serial_line
from tests.support.rest_server import run
from tests.support.sdk_tls import MUST_STAPLE

pytestmark = pytest.mark.envoy

NONE = "OCSP response: no response sent"


class Client:
    """Asks a server for its status, as `openssl s_client` does."""

    def __init__(self, authorities: Authorities, directory: Path, port: int) -> None:
        leaf = authorities.leaf(WEB)
        self._identity, self._roots = directory / "client.pem", directory / "roots.pem"
        self._identity.write_bytes(
            certificates_to_pem([leaf.certificate, authorities.issuer.certificate])
            + private_key_to_pem(leaf.key)
        )
        self._roots.write_bytes(certificates_to_pem([authorities.root.certificate]))
        self._port = port

    async def status(self) -> str:
        """Return what the server says about its certificate."""
        said = await self.said()
        assert "Verify return code: 0 (ok)" in said, said
        return said

    async def said(self) -> str:
        """Return all that is said of a handshake, a failed one as well."""
        _, out, error = await run(
            "openssl", "s_client", "-status", "-connect", f"127.0.0.1:{self._port}",
            "-CAfile", str(self._roots), "-cert", str(self._identity),
            stdin=b"",
        )  # fmt: skip
        return (out + error).decode()

    async def until(self, words: str) -> str:
        """Ask until the server says this."""
        async with asyncio.timeout(10):
            while words not in (said := await self.status()):
                await asyncio.sleep(0.05)
        return said


def response(authorities: Authorities, serial: int, *, ends_in: timedelta) -> bytes:
    now = datetime.now(UTC)
    issuer = authorities.issuer
    wanted = CertificateID.of(issuer.certificate, serial, hash_name="sha1")
    return build_response(
        issuer.issuer,
        StatusRequest(certificate_id=wanted),
        Good(),
        this_update=now - timedelta(hours=1),
        next_update=now + ends_in,
    )


async def test_envoy_staples_what_it_is_given(
    agent: Agent, feed: Feed, authorities: Authorities, tmp_path: Path
) -> None:
    """Nothing at first, then the response, then the next, and nothing for the next certificate."""
    serial = feed.held[API].serial
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            client = Client(authorities, tmp_path, port_of(spec))
            assert NONE in await client.status()
            assert agent.discovery is not None
            agent.staples[serial] = response(authorities, serial, ends_in=timedelta(hours=1))
            agent.discovery.refresh()
            said = await client.until("OCSP Response Status: successful")
            assert "Cert Status: good" in said
            assert serial_line(serial) in said
            feed.hold(authorities.identity(API))
            await client.until(NONE)


async def test_envoy_drops_a_staple_at_its_end(
    agent: Agent, feed: Feed, authorities: Authorities, tmp_path: Path
) -> None:
    """Even if nobody takes it away: a stale response is sent to nobody."""
    serial = feed.held[API].serial
    agent.staples[serial] = response(authorities, serial, ends_in=timedelta(seconds=2))
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            await Client(authorities, tmp_path, port_of(spec)).until(NONE)


async def test_a_staple_that_envoy_refuses_holds_nothing_up(
    agent: Agent,
    feed: Feed,
    authorities: Authorities,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is left out, and revocations are in force as before."""
    serial = feed.held[API].serial
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            await agent.in_force()
            agent.staples[serial] = response(authorities, serial + 1, ends_in=timedelta(hours=1))
            await agent.in_force(feed.revoke(authorities.leaf(WEB)))
            assert NONE in await Client(authorities, tmp_path, port_of(spec)).status()
    assert "OCSP response does not match its TLS certificate" in caplog.text


async def test_a_calling_proxy_takes_no_harm(
    agent: Agent, feed: Feed, authorities: Authorities, tmp_path: Path
) -> None:
    """Its certificate is a client's, and nobody asks clients; calls go through all the same."""
    for name in (API, WEB):
        serial = feed.held[name].serial
        agent.staples[serial] = response(authorities, serial, ends_in=timedelta(hours=1))
    async with http_app() as app:
        spec = serving(app)
        front = calling(spec.inbound[0].listen)
        async with running_proxy(agent, spec, tmp_path), running_proxy(agent, front, tmp_path):
            await agent.in_force()
            assert (await Caller.once(port_of(front))).status == 200


def obliged(feed: Feed, authorities: Authorities) -> int:
    """Let the API hold a certificate that must be stapled; return its serial number."""
    identity = authorities.identity(API, leaf=authorities.leaf(API, extra=MUST_STAPLE))
    feed.hold(identity)
    return identity.serial


async def test_a_certificate_that_must_be_stapled_keeps_its_last_response(
    agent: Agent, feed: Feed, authorities: Authorities, tmp_path: Path
) -> None:
    """When the agent has none any more: Envoy would refuse it without, and the revocations too."""
    serial = obliged(feed, authorities)
    agent.staples[serial] = response(authorities, serial, ends_in=timedelta(hours=1))
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            client = Client(authorities, tmp_path, port_of(spec))
            await client.until("Cert Status: good")
            del agent.staples[serial]
            await agent.in_force(feed.revoke(authorities.leaf(WEB)))
            assert "Cert Status: good" in await client.status()


async def test_who_must_staple_and_has_a_stale_response_answers_nobody_who_asks(
    agent: Agent, feed: Feed, authorities: Authorities, tmp_path: Path
) -> None:
    """Envoy takes the certificate's word for the strictest of its policies."""
    serial = obliged(feed, authorities)
    agent.staples[serial] = response(authorities, serial, ends_in=timedelta(seconds=2))
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            client = Client(authorities, tmp_path, port_of(spec))
            async with asyncio.timeout(10):
                while "handshake failure" not in (said := await client.said()):
                    await asyncio.sleep(0.05)
            assert "no peer certificate available" in said


async def test_a_certificate_that_must_be_stapled_is_nothing_without(
    agent: Agent,
    feed: Feed,
    authorities: Authorities,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Envoy refuses it and serves what it had; the agent does not let it come to this."""
    before = feed.held[API].serial
    async with http_app() as app:
        spec = serving(app)
        async with running_proxy(agent, spec, tmp_path):
            await agent.in_force()
            obliged(feed, authorities)
            await agent.in_force(feed.revoke(authorities.leaf(WEB)))
            agent.staples[before] = response(authorities, before, ends_in=timedelta(hours=1))
            agent.discovery.refresh()
            client = Client(authorities, tmp_path, port_of(spec))
            await client.until(serial_line(before))
    assert "OCSP response is required for must-staple certificate" in caplog.text
