"""Whom a real Envoy let in and refused, and from where: once for each connection."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.support.envoy import (
    API,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    http_app,
    port_of,
    running_proxy,
    serving,
)

pytestmark = pytest.mark.envoy

REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


async def test_connections_are_seen_and_requests_are_not(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Two connections with three requests each are two; a refused one comes with its cause."""
    certificate = authorities.leaf(WEB)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        port = port_of(server.spec)
        tls = authorities.client_context(certificate, short_path)
        for _ in range(2):
            caller = await Caller.connect(port, tls)
            for _ in range(3):
                assert (await caller.get()).status == 200
            await caller.close()
        rows, overflow = agent.board.sightings.take()
        assert (sum(row.count for row in rows), overflow) == (2, 0)
        (case,) = {row.case for row in rows}
        assert (case.point, case.service, case.peer, case.cause) == ("envoy/api", API, WEB, "")
        assert int(case.serial, 16) == certificate.certificate.serial_number
        assert case.address == "127.0.0.1"

        feed.revoke(certificate)
        await agent.in_force()
        with pytest.raises(REFUSED):
            await Caller.once(port, tls)
        await agent.refusal("certificate_revoked")
        (row,), _ = agent.board.sightings.take()
        assert (row.case.cause, row.count) == ("certificate_revoked", 1)
        assert (row.case.serial, row.case.address) == (case.serial, case.address)


async def test_who_is_refused_without_proof_is_not_seen(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """A certificate that anybody can make up says nothing, and fills no table."""
    forged = Authorities().leaf(WEB)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        with pytest.raises(REFUSED):
            await Caller.once(port_of(server.spec), authorities.client_context(forged, short_path))
        await agent.refusal("unknown_authority")
        assert agent.board.sightings.take() == ((), 0)
