"""A whole agent following the feed of an authority over mutual TLS."""

import asyncio
import base64
import logging
from datetime import UTC, datetime, timedelta

import pytest

from legation.agent.model import PointState, RefusalReport
from legation.agent.upstream import sync
from legation.clock import to_rfc3339
from legation.errors import NotAuthenticated, Unavailable
from legation.wire.feed import Kind
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.scripted_authority import AGENT_ID

BAD = "spiffe://example.org/bad"
BAN = {"spiffe_id": BAD, "reason": "test", "since": "2026-01-01T00:00:00.000Z"}


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch):
    """Back-offs are tested on their own; here they would only cost time."""
    monkeypatch.setattr(sync, "reconnect_delay_s", lambda failures, *, jitter: 0.01)


async def until(agent, condition):
    async with asyncio.timeout(10):
        async for _ in agent.identities.watch():
            if condition():
                return


def agent_point(acknowledgement):
    (point,) = (point for point in acknowledgement.points if point.kind == "agent")
    return point


async def test_events_are_folded_and_acknowledged(authority, start_agent):
    """An event is in force, and acknowledged by the agent as a point, within a round trip."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        authority.publish(Kind.BAN, BAD, BAN)
        await authority.until_acknowledged()
        assert BAD in agent.identities.state.bans
        point = agent_point(authority.acknowledgements[-1])
        assert (point.spiffe_id, point.revision) == (str(AGENT_ID), authority.revision)


async def test_points_are_stated_in_full_and_coalesced(authority, start_agent):
    """Several changes in one moment make one statement of all points."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        said = len(authority.acknowledgements)
        now = datetime.now(UTC)
        for revision in (1, 2, 3):
            for name in ("envoy-1", "envoy-2"):
                agent.board.put(
                    PointState(
                        id=name, kind="envoy", spiffe_id=BAD, revision=revision, applied_at=now
                    )
                )
        await authority.until(lambda: len(authority.acknowledgements) > said)
        last = authority.acknowledgements[-1]
        assert {(point.id, point.revision) for point in last.points if point.kind == "envoy"} == {
            ("envoy-1", 3),
            ("envoy-2", 3),
        }
        assert len(authority.acknowledgements) == said + 1
        agent.board.remove("envoy-1")
        await authority.until(lambda: len(authority.acknowledgements) > said + 1)
        assert "envoy-1" not in {point.id for point in authority.acknowledgements[-1].points}


async def test_refusals_are_reported(authority, start_agent, monkeypatch):
    """Refused handshakes reach the authority, counted, by cause."""
    monkeypatch.setattr(sync, "REPORT_EVERY_S", 0.01)
    async with start_agent() as agent:
        await authority.until_acknowledged()
        for _ in range(3):
            agent.board.refuse(
                RefusalReport(
                    point="envoy-1", cause="certificate_revoked", peer=BAD, serial="0a", raw="x"
                )
            )
        await authority.until(lambda: authority.reports)
        (report,) = authority.reports
        assert (report.cause, report.count, report.serial) == ("certificate_revoked", 3, "0a")


async def test_a_broken_stream_resumes_where_it_was(authority, start_agent):
    """After the authority was away, the agent asks for what follows its last revision."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        held = authority.revision
        await authority.stop()
        authority.publish(Kind.BAN, BAD, BAN)
        await authority.start()
        await authority.until_acknowledged()
        assert [hello.revision for hello in authority.hellos] == [0, held]
        assert authority.hellos[1].feed_id == authority.feed_id
        assert BAD in agent.identities.state.bans


async def test_a_restart_during_an_outage_remembers(authority, start_agent, enrolled):
    """A restarted agent knows policies, bans and entries before it has reached anyone."""
    authority.publish(Kind.BAN, BAD, BAN)
    async with start_agent():
        await authority.until_acknowledged()
    await authority.stop()
    async with start_agent() as agent:
        assert BAD in agent.identities.state.bans
        assert agent.board.points()[0].revision == authority.revision
        assert not agent.sync.connected


async def test_a_new_feed_replaces_the_state(authority, start_agent):
    """When the authority has begun a new feed, its snapshot replaces what was held."""
    authority.publish(Kind.BAN, BAD, BAN)
    async with start_agent() as agent:
        await authority.until_acknowledged()
        await authority.stop()
        authority.feed_id = "feed-2"
        del authority.current[Kind.BAN, BAD]
        await authority.start()
        await until(agent, lambda: BAD not in agent.identities.state.bans)
    async with start_agent() as agent:
        assert agent.status()["feed"]["id"] == "feed-2"


def revoke(authority, *, until):
    value = {
        "serial": "2a",
        "spiffe_id": BAD,
        "issuer": "00",
        "reason": "superseded",
        "revoked_at": to_rfc3339(datetime.now(UTC)),
        "expires_at": to_rfc3339(until),
    }
    authority.publish(Kind.REVOCATION, "2a", value)


async def restored(authority, feed_id=None):
    """Replace the authority by an older copy of itself, that has never revoked anything."""
    await authority.stop()
    for place in [place for place in authority.current if place[0] in (Kind.REVOCATION, Kind.BAN)]:
        del authority.current[place]
    if feed_id is None:
        authority.revision, authority.events = 1, authority.events[:1]
    else:
        authority.feed_id = feed_id
    await authority.start()


def is_up_to_date(agent, authority):
    feed = agent.status()["feed"]
    return (feed["id"], feed["revision"]) == (authority.feed_id, authority.revision)


@pytest.mark.parametrize("feed_id", [None, "feed-2"])
async def test_a_restart_after_a_restore_goes_on_refusing(authority, start_agent, feed_id):
    """What was revoked before the authority went back is refused after the agent restarts, too."""
    revoke(authority, until=datetime.now(UTC) + timedelta(hours=1))
    authority.publish(Kind.BAN, BAD, BAN)
    async with start_agent() as agent:
        await authority.until_acknowledged()
        await restored(authority, feed_id)
        await until(agent, lambda: is_up_to_date(agent, authority))
        assert 42 in agent.identities.state.revocations
    await authority.stop()
    for _ in range(2):
        async with start_agent() as agent:
            state = agent.identities.state
            assert 42 in state.revocations
            # A new feed says itself who is banned; one that merely went back does not.
            assert set(state.bans) == (set() if feed_id else {BAD})
            assert state.revision == authority.revision
            assert agent.status()["feed"]["id"] == authority.feed_id


async def test_a_restart_after_a_restore_forgets_the_expired(authority, start_agent):
    """A revocation that was kept ends with its certificate, on the disk as in memory."""
    revoke(authority, until=datetime.now(UTC) - timedelta(seconds=1))
    async with start_agent() as agent:
        await authority.until_acknowledged()
        await restored(authority, "feed-2")
        await until(agent, lambda: is_up_to_date(agent, authority))
    await authority.stop()
    async with start_agent() as agent:
        assert agent.identities.state.revocations == {}


async def test_a_tampered_event_ends_the_stream_and_is_fetched_anew(authority, start_agent):
    """A forged event is not folded; the genuine one comes with the next connection."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        good = authority.publish(Kind.BAN, BAD, BAN, skip=True)
        forged = pb.Event(body=good.body.replace(b"/bad", b"/sad"), signature=good.signature)
        authority.push(authority.part([forged]))
        await authority.until(lambda: len(authority.hellos) == 2)
        await authority.until_acknowledged()
        assert set(agent.identities.state.bans) == {BAD}


async def test_a_silent_connection_is_given_up(authority, start_agent, monkeypatch):
    """A stream that says nothing for too long is replaced by another."""
    monkeypatch.setattr(sync, "SILENCE_S", 0.05)
    async with start_agent():
        await authority.until(lambda: len(authority.hellos) >= 2)


async def test_a_gap_is_noticed_by_heartbeats(authority, start_agent):
    """When heartbeats keep naming a revision that never comes, the agent asks again."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        authority.publish(Kind.BAN, BAD, BAN, skip=True)
        now_ms = round(datetime.now(UTC).timestamp() * 1000)
        for _ in range(3):
            authority.push(
                pb.SyncResponse(heartbeat=pb.Heartbeat(now_ms=now_ms, revision=authority.revision))
            )
        await authority.until_acknowledged()
        assert len(authority.hellos) == 2
        assert BAD in agent.identities.state.bans


async def test_a_skewed_clock_is_measured_and_noted(authority, start_agent):
    """A heartbeat from an hour ahead is seen as clock skew, and noted on the agent's point."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        ahead = datetime.now(UTC) + timedelta(hours=1)
        authority.push(
            pb.SyncResponse(
                heartbeat=pb.Heartbeat(
                    now_ms=round(ahead.timestamp() * 1000), revision=authority.revision
                )
            )
        )
        await authority.until(lambda: agent_point(authority.acknowledgements[-1]).notes)
        (note,) = agent_point(authority.acknowledgements[-1]).notes
        assert note in {"clock_skew_s:+3600", "clock_skew_s:+3599"}
        assert agent.sync.clock_skew_s == pytest.approx(3600, abs=1)


async def test_heartbeats_that_run_ahead_of_events_for_others_are_no_gap(authority, start_agent):
    """Each names what the agent is told a moment later: it stays on its stream."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        now_ms = round(datetime.now(UTC).timestamp() * 1000)
        for _ in range(8):
            authority.revision += 1
            named = pb.Heartbeat(now_ms=now_ms, revision=authority.revision)
            authority.push(pb.SyncResponse(heartbeat=named))
            authority.push(authority.part([]))
            await authority.until_acknowledged()
        assert (len(authority.hellos), agent.sync.problem) == (1, None)


async def test_expired_revocations_are_forgotten_with_the_heartbeat(authority, start_agent):
    """A revocation of a certificate that has expired since does not stay in memory."""
    past = to_rfc3339(datetime.now(UTC) - timedelta(minutes=1))
    value = {
        "serial": "2a",
        "spiffe_id": BAD,
        "issuer": "00",
        "reason": "superseded",
        "revoked_at": past,
        "expires_at": past,
    }
    authority.publish(Kind.REVOCATION, "2a", value)
    async with start_agent() as agent:
        await authority.until_acknowledged()
        assert 42 in agent.identities.state.revocations
        now_ms = round(datetime.now(UTC).timestamp() * 1000)
        heartbeat = pb.Heartbeat(now_ms=now_ms, revision=authority.revision)
        authority.push(pb.SyncResponse(heartbeat=heartbeat))
        await until(agent, lambda: not agent.identities.state.revocations)


async def test_a_cache_signed_by_forgotten_keys_is_dropped(
    authority, start_agent, settings, caplog
):
    """A cached feed that no current feed key has signed is not believed, and fetched anew."""
    authority.publish(Kind.BAN, BAD, BAN)
    async with start_agent():
        await authority.until_acknowledged()
    path = settings.data_dir / "membership.json"
    other = type(authority)().signer.public_key
    mine = base64.b64encode(authority.signer.public_key).decode()
    path.write_text(path.read_text().replace(mine, base64.b64encode(other).decode()))
    caplog.set_level(logging.WARNING)
    async with start_agent() as agent:
        assert agent.identities.state.revision == 0
        assert "cached feed" in caplog.text


async def test_a_defect_does_not_stop_the_feed(authority, start_agent, monkeypatch):
    """An exception nobody foresaw is logged, and the feed is followed again."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        heartbeat = agent.sync._heartbeat

        def fail_once(message):
            monkeypatch.setattr(agent.sync, "_heartbeat", heartbeat)
            raise ZeroDivisionError

        monkeypatch.setattr(agent.sync, "_heartbeat", fail_once)
        authority.push(pb.SyncResponse(heartbeat=pb.Heartbeat(now_ms=0, revision=0)))
        await authority.until(lambda: len(authority.hellos) == 2)


async def test_the_connection_state_says_why(authority, start_agent):
    """While the authority refuses, the agent's status tells its words."""
    authority.down = True
    async with start_agent() as agent:
        async with asyncio.timeout(10):
            while agent.sync.problem is None:
                await asyncio.sleep(0.005)
        assert isinstance(agent.sync.problem, Unavailable)
        assert "down for maintenance" in agent.status()["authority"]["problem"]
        authority.down = False
        await authority.until_acknowledged()
        assert agent.sync.problem is None


async def test_another_server_than_the_authority_is_refused(authority, start_agent, make_entry):
    """A server with a good certificate of the trust domain, but not the authority's, hears
    nothing.
    """
    await authority.stop()
    authority.server_id = AGENT_ID
    await authority.start()
    async with start_agent() as agent:
        async with asyncio.timeout(10):
            while agent.sync.problem is None:
                await asyncio.sleep(0.005)
        assert "wrong_identity" in str(agent.sync.problem)
        assert authority.hellos == []


async def test_a_server_of_another_authority_is_refused(authority, start_agent, enrolled):
    """A server whose chain does not end in the trust bundle hears nothing."""
    stranger = type(authority)()
    stranger.api_port = authority.api_port
    await authority.stop()
    async with stranger, start_agent() as agent:
        async with asyncio.timeout(10):
            while agent.sync.problem is None:
                await asyncio.sleep(0.005)
        assert isinstance(agent.sync.problem, NotAuthenticated)
        assert stranger.hellos == []


@pytest.mark.parametrize(("ahead_s", "complaints"), [(59, 0), (-59, 0), (62, 1), (-62, 1)])
async def test_a_clock_beyond_the_bound_is_an_error(
    authority, start_agent, caplog, ahead_s, complaints
):
    """Up to a minute of clock skew is tolerated; beyond it the log says so, once."""
    async with start_agent() as agent:
        await authority.until_acknowledged()
        for _ in range(2):
            moment = datetime.now(UTC) + timedelta(seconds=ahead_s)
            now_ms = round(moment.timestamp() * 1000)
            agent.sync._heartbeat(pb.Heartbeat(now_ms=now_ms, revision=authority.revision))
    said = [record for record in caplog.records if "the clock differs" in record.message]
    assert len(said) == complaints
