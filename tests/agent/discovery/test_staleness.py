"""Staleness behind real Envoys: refused by policy, or going on without lists."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from legation.agent.freshness import Verdict
from legation.envoy import Protocol
from tests.support.envoy import (
    API,
    MOBILE,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    calling,
    http_app,
    port_of,
    running_proxy,
    serving,
    tcp_app,
)

pytestmark = pytest.mark.envoy

REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
STALE = Verdict(refuses="payments")


async def judged(agent: Agent, verdict: Verdict, *, note: str, spiffe_id: str = API) -> None:
    """Give a verdict, and wait until the points that it concerns say so, or no longer do."""
    agent.verdicts[spiffe_id] = verdict
    assert agent.discovery is not None
    agent.discovery.refresh()
    async with asyncio.timeout(20):
        async for _ in agent.board.changes.watch():
            (point,) = agent.board.points()
            if note in point.notes or (not note and not point.notes):
                return


@asynccontextmanager
async def connected(
    agent: Agent, directory: Path, tls: ssl.SSLContext, protocol: Protocol = Protocol.HTTP
) -> AsyncIterator[Any]:
    """Run the API behind an Envoy; give the Envoy's port and an open connection."""
    app = tcp_app() if protocol.is_tcp else http_app()
    async with app as port, running_proxy(agent, serving(port, protocol), directory) as proxy:
        at = port_of(proxy.spec)
        caller = await Caller.connect(at, tls)
        try:
            yield at, caller
        finally:
            await caller.close()


NOTE = "refuses everyone: revocation data is stale (policy payments)"


async def test_stale_http_says_which_policy_refuses_and_comes_back(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """On open connections and new ones; back in contact, who was revoked meanwhile stays out."""
    good, bad = authorities.leaf(WEB), authorities.leaf(MOBILE)
    tls = authorities.client_context(good, short_path)
    async with connected(agent, short_path, tls) as (port, caller):
        assert (await caller.get()).status == 200
        await judged(agent, STALE, note=NOTE)
        for answer in (await caller.get(), await Caller.once(port, tls)):
            assert answer.status == 403
            assert answer.headers["x-legation-cause"] == "revocation_data_stale"
            assert answer.headers["x-legation-policy"] == "payments"
        report = await agent.refusal("revocation_data_stale")
        assert (report.peer, report.raw) == (WEB, "policy payments")

        agent.verdicts.clear()
        feed.revoke(bad)
        await agent.in_force()
        assert (await caller.get()).status == 200
        with pytest.raises(REFUSED):
            await Caller.once(port, authorities.client_context(bad, short_path))


async def test_a_deny_policy_does_not_hide_the_staleness_policy(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Both are told by the same mechanism, and each by its own name."""
    feed.put_policy("no-admin", action="DENY", rules=[{"to": [{"paths": ["/admin"]}]}])
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    async with connected(agent, short_path, tls) as (_, caller):
        denied = await caller.get("/admin")
        assert denied.headers["x-legation-policy"] == "no-admin"
        await judged(agent, STALE, note=NOTE)
        stale = await caller.get("/admin")
        assert stale.headers["x-legation-cause"] == "revocation_data_stale"
        assert stale.headers["x-legation-policy"] == "payments"


async def test_stale_tcp_ends_what_is_open_and_lets_nobody_in(
    agent: Agent, authorities: Authorities, short_path: Path
) -> None:
    """And it comes back."""
    tls = authorities.client_context(authorities.leaf(WEB), short_path)
    async with connected(agent, short_path, tls, Protocol.TCP) as (port, caller):
        assert await caller.say(b"one") == b"one"
        await judged(agent, STALE, note=NOTE)
        assert await caller.ended()
        with pytest.raises(REFUSED):
            await Caller.once(port, tls)
        assert (await agent.refusal("revocation_data_stale")).peer == WEB
        await judged(agent, Verdict(), note="")
        again = await Caller.connect(port, tls)
        assert await again.say(b"two") == b"two"
        await again.close()


async def test_a_stale_caller_calls_nobody(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Its upstream may be revoked by now; the one with news goes on serving."""
    async with (
        http_app() as app,
        running_proxy(agent, serving(app), short_path) as api,
        running_proxy(agent, spec := calling(f"127.0.0.1:{port_of(api.spec)}"), short_path),
    ):
        caller = await Caller.connect(port_of(spec))
        assert (await caller.get()).status == 200
        agent.verdicts[WEB] = STALE
        assert agent.discovery is not None
        agent.discovery.refresh()
        async with asyncio.timeout(10):
            while (await caller.get()).status != 503:
                await asyncio.sleep(0.02)
        agent.verdicts.clear()
        agent.discovery.refresh()
        async with asyncio.timeout(10):
            while (await caller.get()).status != 200:
                await asyncio.sleep(0.02)
        await caller.close()


@pytest.mark.parametrize("lists", [False, True], ids=["without", "with"])
async def test_lists_that_end_refuse_everyone_unless_they_were_taken_out(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path, lists: bool
) -> None:
    """Going on means going on without lists; who was revoked before stays refused."""
    good, bad = authorities.leaf(WEB), authorities.leaf(MOBILE)
    tls, revoked = (authorities.client_context(one, short_path) for one in (good, bad))
    agent.verdicts[API] = Verdict(lists=lists)
    async with connected(agent, short_path, tls) as (port, _):
        feed.revoke(bad, crl=False)
        feed.publish_crl(next_update=timedelta(seconds=1))
        await agent.in_force()
        await asyncio.sleep(1.2)  # the list is over, by the clock that Envoy reads
        if lists:
            with pytest.raises(REFUSED):
                await Caller.once(port, tls)
            assert await agent.refusal("revocation_data_stale")
        else:
            assert (await Caller.once(port, tls)).status == 200
        with pytest.raises(REFUSED):
            await Caller.once(port, revoked)
