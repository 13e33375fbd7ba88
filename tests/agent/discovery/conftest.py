"""An agent in this process, and real Envoys behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.envoy import API, MOBILE, WEB, Agent, Authorities, Feed, running_agent


@pytest.fixture
def authorities() -> Authorities:
    """The trust domain's authorities."""
    return Authorities()


@pytest.fixture
def feed(authorities: Authorities) -> Feed:
    """A feed in which the web and mobile front ends may call the API."""
    feed = Feed(authorities)
    feed.hold(authorities.identity(API))
    feed.hold(authorities.identity(WEB))
    feed.allow(WEB, MOBILE)
    return feed


@pytest.fixture
async def agent(feed: Feed, short_path: Path) -> AsyncIterator[Agent]:
    """A running agent."""
    async with running_agent(feed, short_path) as agent:
        yield agent
