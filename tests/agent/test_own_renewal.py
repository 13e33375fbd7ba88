"""Renewal of the agent's own certificate."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from legation.agent.identities import renewal
from legation.agent.identities.renewal import OwnRenewal
from legation.agent.identity import IdentityStore
from legation.clock import FixedClock
from legation.errors import NotAuthenticated, NotPermitted, Unavailable
from tests.support.scripted_authority import ScriptedAuthority


async def test_the_connection_goes_over_to_the_new_certificate(authority, start_agent, settings):
    """After a renewal the feed goes on over a connection with the new certificate, from where
    it was, and the new identity is on the disk.
    """
    async with start_agent() as agent:
        await authority.until_acknowledged()
        old = agent.own.identity
        agent.own.renew_now()
        await authority.until(lambda: len(authority.hellos) == 2)
        new = agent.own.identity
        assert new.serial != old.serial
        assert int(authority.peers[-1]["serialNumber"], 16) == new.serial
        assert authority.hellos[1].revision == authority.revision
        assert IdentityStore(settings.data_dir).load()[0].serial == new.serial


async def test_new_feed_keys_are_kept(authority, start_agent, settings):
    """Feed keys that come with a renewal are believed from then on, also after a restart."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        authority.signer = ScriptedAuthority().signer
        agent.own.renew_now()
        await authority.until(lambda: len(authority.hellos) == 2)
    _, membership = IdentityStore(settings.data_dir).load()
    assert membership.feed_keys == (authority.signer.public_key,)


class Failing:
    """A certifier that never answers well."""

    def __init__(self):
        self.calls = asyncio.Semaphore(0)
        self.error = Unavailable("down")

    async def renew_agent(self, csr):
        self.calls.release()
        raise self.error

    async def renew_expired(self, identity, csr):
        self.calls.release()
        raise NotPermitted("it may not come back this way")


@pytest.fixture
def own():
    stub = ScriptedAuthority()
    return OwnRenewal(
        stub.identity(lifetime_s=60),
        certifier=Failing(),
        bundle=lambda: stub.bundle,
        renewed=lambda identity, keys: None,
        clock=FixedClock(datetime.now(UTC)),
    )


async def attempt(own):
    task = asyncio.create_task(own.run())
    own.renew_now()
    await asyncio.wait_for(own._certifier.calls.acquire(), 10)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failure_keeps_the_old_identity(own):
    """When the authority fails, the identity stays and the reason is known."""
    before = own.identity
    await attempt(own)
    assert own.identity is before
    assert own.problem.code == Unavailable.code


async def test_after_expiry_the_way_back_is_named(own, monkeypatch):
    """Once the agent's own certificate has expired, the one command to run is named."""
    own._clock.advance(timedelta(hours=1).total_seconds())
    await attempt(own)
    assert isinstance(own.problem, NotAuthenticated)
    assert "may not come back" in own.problem.message
    assert "legation agent enrol --again" in own.problem.remedy


async def test_an_identity_that_an_operator_put_on_the_disk_is_taken_up(own):
    """After the expiry an agent that was enrolled again goes on with what is on its disk."""
    stub = ScriptedAuthority()
    taken = asyncio.Queue()
    own._renewed = lambda identity, keys: taken.put_nowait(identity)
    own._clock.advance(7200)
    fresh = stub.identity(begin=own._clock.now())
    own._on_disk = lambda: fresh
    task = asyncio.create_task(own.run())
    own.renew_now()
    assert await asyncio.wait_for(taken.get(), 10) is fresh
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert own.identity is fresh


async def test_an_order_renews_what_is_older(own):
    """A certificate from before an order is renewed within its time; one from after is not."""
    after = own.identity.not_before - timedelta(seconds=1)
    own.rotate_within(1, 0.0, before=after)
    assert not own.has_to_rotate
    own.rotate_within(2, 0.0, before=own._clock.now() + timedelta(seconds=1))
    assert own.has_to_rotate
    task = asyncio.create_task(own.run())
    await asyncio.wait_for(own._certifier.calls.acquire(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert own.has_to_rotate  # it failed


async def test_a_defect_does_not_stop_renewal(own):
    """An exception nobody foresaw counts as a failure."""
    own._certifier.error = ZeroDivisionError()
    await attempt(own)
    assert "ZeroDivisionError" in str(own.problem)


async def test_the_schedule_is_looked_at_in_naps(own, monkeypatch):
    """After the machine slept past the renewal, the next look at the clock finds it due."""
    monkeypatch.setattr(renewal, "_LONGEST_NAP_S", 0.01)
    task = asyncio.create_task(own.run())
    await asyncio.sleep(0)
    own._clock.advance(50)
    await asyncio.wait_for(own._certifier.calls.acquire(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
