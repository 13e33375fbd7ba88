"""What was issued and what is in force: an agent, a real Envoy, and certificates it refuses."""

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace

import pytest

from legation.agent.discovery import identity
from legation.agent.identities import confirmation
from legation.agent.identities.probe import served_chain
from legation.pki import certificate_from_der, generate_key, private_key_to_pem
from legation.wire.feed import Kind
from tests.support.envoy import http_app, port_of, running_proxy, serving

pytestmark = pytest.mark.envoy
API = "spiffe://example.org/api"
POLICY = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "callers"},
    "spec": {
        "target": {"spiffeIDs": [API]},
        "action": "ALLOW",
        "rules": [{"from": [{"spiffeIDs": ["spiffe://example.org/web"]}]}],
    },
}


@pytest.fixture
async def quick(monkeypatch):
    """Less patience than usual, so that what never comes is given up within the test."""
    monkeypatch.setattr(confirmation, "PATIENCE_S", 1.0)
    monkeypatch.setattr(confirmation, "FIRST_LOOK_S", 0.05)


@contextlib.asynccontextmanager
async def deployed(authority, start_agent, settings, directory, entry):
    """Yield an agent with one entry, and the Envoy that serves it."""
    authority.put_entry(entry)
    async with start_agent() as agent, http_app() as app:
        await until(agent, lambda: agent.identities.newest(API))
        behind = SimpleNamespace(socket=settings.socket)
        spec = serving(app)
        async with running_proxy(behind, spec, directory) as proxy:
            await until(agent, lambda: in_force(agent))
            yield agent, proxy, port_of(spec)


async def until(agent, condition, *, timeout_s=20):
    async with asyncio.timeout(timeout_s):
        while not condition():
            changes = [agent.in_force.changes.watch(), agent.identities.watch()]
            for watch in changes:
                await anext(watch)
            waits = [asyncio.ensure_future(anext(watch)) for watch in changes]
            _, pending = await asyncio.wait(waits, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def revision_of(authority, point):
    said = authority.acknowledgements[-1].points
    return next((each.revision for each in said if each.id == point), 0)


def row_of(agent):
    (row,) = agent.in_force.rows()
    return row


def in_force(agent):
    rows = agent.in_force.rows()
    return rows and all(row.serial_issued == row.serial_in_force for row in rows)


async def shown(port):
    chain = await served_chain("127.0.0.1", port)
    return certificate_from_der(chain[0]).serial_number


async def test_what_is_in_force_is_seen_from_outside(
    authority, start_agent, settings, run_directory, make_entry, quick
):
    """After a rotation the serial in force is the one that was issued, as the wire shows it."""
    entry = make_entry()
    async with deployed(authority, start_agent, settings, run_directory, entry) as (agent, _, port):
        first = row_of(agent)
        assert await shown(port) == first.serial_in_force
        agent.identities.rotate_now()
        await until(agent, lambda: in_force(agent) and row_of(agent).since > first.since)
        second = row_of(agent)
        assert second.serial_in_force != first.serial_in_force
        assert await shown(port) == second.serial_in_force
        assert second.problem == ""
        # Nobody was refused, and no call was recorded: a look is no call.
        assert agent.board.refusals() == ()


@pytest.fixture
def spoil(monkeypatch):
    """Spoil, while told to, what lies between the proof and Envoy: it gets another key."""
    spoilt = []
    other = private_key_to_pem(generate_key())
    monkeypatch.setattr(
        identity,
        "private_key_to_pem",
        lambda key: other if spoilt else private_key_to_pem(key),
    )
    return spoilt


async def test_a_certificate_that_envoy_refuses_is_rolled_back(
    authority, start_agent, settings, run_directory, make_entry, quick, spoil
):
    """A certificate that Envoy refuses is taken back at once; issued and in force differ visibly
    until one comes that serves, and the feed is acknowledged meanwhile.
    """
    entry = make_entry()
    async with deployed(authority, start_agent, settings, run_directory, entry) as (agent, _, port):
        first = row_of(agent).serial_in_force
        spoil.append(True)
        agent.identities.rotate_now()
        await until(agent, lambda: agent.identities.status()[0].rejected is not None)
        row = row_of(agent)
        assert row.serial_issued != row.serial_in_force == first
        assert "KEY_VALUES_MISMATCH" in row.problem
        assert await shown(port) == first
        (status,) = agent.identities.status()
        assert status.serial == first
        assert "does not serve" in status.problem
        assert agent.status()["in_force"][0]["problem"] == row.problem

        authority.publish(Kind.POLICY, "callers", POLICY)
        await authority.until(lambda: revision_of(authority, "envoy/api") >= authority.revision)

        spoil.clear()
        await until(agent, lambda: in_force(agent) and row_of(agent).serial_in_force != first)
        assert row_of(agent).problem == ""
        assert agent.identities.status()[0].rejected is None


async def test_a_certificate_that_is_never_applied_is_rolled_back(
    authority, start_agent, settings, run_directory, make_entry, quick
):
    """A proxy that hangs serves nothing new: after a bound that is an alarm and a way back, and
    when it runs again the newest is in force.
    """
    entry = make_entry()
    async with deployed(authority, start_agent, settings, run_directory, entry) as (
        agent,
        proxy,
        port,
    ):
        first = row_of(agent).serial_in_force
        os.kill(proxy.pid, signal.SIGSTOP)
        try:
            agent.identities.rotate_now()
            await until(agent, lambda: agent.identities.status()[0].rejected is not None)
            assert agent.identities.status()[0].serial == first
            row = row_of(agent)
            assert row.serial_issued != first
            assert row.problem
        finally:
            os.kill(proxy.pid, signal.SIGCONT)
        await until(agent, lambda: in_force(agent) and row_of(agent).serial_in_force != first)
        assert await shown(port) == row_of(agent).serial_in_force


async def test_a_proxy_that_is_gone_leaves_no_row(
    authority, start_agent, settings, run_directory, make_entry, quick
):
    """When the process ends there is nothing in force there any more."""
    entry = make_entry()
    async with deployed(authority, start_agent, settings, run_directory, entry) as (
        agent,
        proxy,
        _,
    ):
        await proxy.stop(grace_s=0)
        await until(agent, lambda: not agent.in_force.rows())
