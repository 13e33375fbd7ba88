"""What a point states when the kernel does not let the agent end what must end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from legation.agent.discovery import proxies
from legation.agent.discovery.cutting import Cutter
from legation.envoy import Protocol
from legation.errors import LegationError
from tests.support.envoy import (
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    port_of,
    running_proxy,
    serving,
    tcp_app,
)

pytestmark = pytest.mark.envoy


async def test_a_revision_is_stated_once_what_it_forbids_has_ended(
    agent: Agent,
    authorities: Authorities,
    feed: Feed,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not before: a revoked peer with an open connection is not refused. It is tried again."""
    cut, failures = Cutter.cut_inbound, 0

    async def cut_inbound(self: Cutter, *args: Any, **named: Any) -> int:
        nonlocal failures
        if failing.is_set():
            failures += 1
            raise LegationError("the socket table cannot be read")
        return await cut(self, *args, **named)

    failing = asyncio.Event()
    monkeypatch.setattr(Cutter, "cut_inbound", cut_inbound)
    monkeypatch.setattr(proxies, "_CUT_AGAIN_S", 0.05)
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        leaf = authorities.leaf(WEB)
        doomed = await Caller.connect(
            port_of(server.spec), authorities.client_context(leaf, short_path)
        )
        assert await doomed.say(b"one") == b"one"
        (before,) = agent.board.points()
        failing.set()
        feed.revoke(leaf)
        async with asyncio.timeout(10):
            while failures < 3:
                await asyncio.sleep(0.01)
        (point,) = agent.board.points()
        assert point.revision == before.revision
        assert point.notes == ("open connections were not cut: the socket table cannot be read",)
        assert await doomed.say(b"two") == b"two"

        failing.clear()
        await agent.in_force()
        (point,) = agent.board.points()
        assert point.notes == ("cut 1 connection",)
        assert await doomed.ended()
        await doomed.close()
