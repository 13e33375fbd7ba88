"""A running authority with its metrics, an agent of it, and Prometheus' own tool."""

import contextlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from legation.agent.wiring import Agent, AgentSettings
from legation.clock import SystemClock
from legation.config.values import Address
from legation.observe.authority import authority_metrics
from tests.support.authority import ADMIN, World, running, settings_for
from tests.support.rest_server import Answer, Connection

ANYWHERE = Address("127.0.0.1", 0)
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A metrics page that was read.

    Attributes:
        samples: value by what stands before it on its line.
        names: of every metric, those without samples included.
    """

    text: str
    samples: Mapping[str, float]
    names: frozenset[str]

    @classmethod
    def of(cls, text: str) -> "Page":
        """Read a page."""
        samples = {
            f"{name}{{{labels}}}" if labels else name: float(value)
            for name, labels, value in _SAMPLE.findall(text)
        }
        names = frozenset(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
        return cls(text=text, samples=samples, names=names)

    def __getitem__(self, sample: str) -> float:
        return self.samples[sample]


async def ask(port: int, method: str = "GET", path: str = "/metrics") -> Answer:
    """Ask a listener once."""
    connection = Connection(port, None)
    try:
        return await connection.ask(method, path)
    finally:
        connection.close()


async def read(port: int) -> Page:
    """Read the metrics page of a listener."""
    answer = await ask(port)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Page.of(answer.body.decode())


def check_metrics(page: Page) -> None:
    """Have promtool look at a page."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page.text, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """An authority and where its metrics are."""

    world: World
    port: int

    async def page(self) -> Page:
        """Read its metrics."""
        return await read(self.port)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """A new authority, running, with its metrics."""
    async with (
        running(settings_for(tmp_path)) as world,
        authority_metrics(world.authority, ANYWHERE, clock=SystemClock()) as port,
    ):
        yield Watched(world=world, port=port)


@contextlib.asynccontextmanager
async def joined(world: World, directory: Path) -> AsyncIterator[Agent]:
    """Run an agent of an authority, with one identity for this very process."""
    settings = AgentSettings(
        data_dir=directory / "agent",
        socket=directory / "agent.sock",
        enrolment=await world.invitation(),
    )
    async with await Agent.open(settings) as agent:
        await world.services.entries.create(
            {
                "spiffe_id": "spiffe://example.org/api",
                "selectors": [f"unix:uid:{os.getuid()}"],
                "agents": [str(agent.own.identity.spiffe_id)],
            },
            actor=ADMIN,
        )
        async for _ in agent.identities.watch():
            if any(row.serial for row in agent.identities.status()):
                break
        yield agent
