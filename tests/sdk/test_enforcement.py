"""The agent's EnforcementService: what a process may say, and what it is sent."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest
from grpc import StatusCode as Status
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.local import enforcement
from legation.agent.local.enforcement_log import SERIALS_IN_A_PART, EnforcementLog
from legation.clock import SystemClock
from legation.pki import SpiffeID
from legation.sdk.enforcement import Enforcement
from legation.wire.feed import FeedState, Kind, PublishedCRL, Revocation
from legation.wire.protobuf import enforcement_pb2 as pb

HEADER = (("workload.spiffe.io", "true"),)
API = "spiffe://example.org/api"


@pytest.fixture
async def channel(agent, socket):
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        yield channel


class Follower:
    """One stream of Follow, by hand."""

    def __init__(self, channel, *, metadata=HEADER):
        self._call = channel.stream_stream(
            f"{enforcement.SERVICE}/Follow",
            request_serializer=pb.FollowRequest.SerializeToString,
            response_deserializer=pb.FollowResponse.FromString,
        )(metadata=metadata)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._call.cancel()

    async def say(self, **message):
        await self._call.write(pb.FollowRequest(**message))

    async def hello(self, spiffe_id="", **fields):
        hello = {"kind": "sdk", "name": "shop", "spiffe_id": spiffe_id} | fields
        await self.say(hello=pb.Hello(**hello))

    async def hear(self, field):
        """Return the next message of this kind."""
        async with asyncio.timeout(10):
            async for message in self._call:
                if message.WhichOneof("message") == field:
                    return getattr(message, field)
        raise AssertionError("the stream has ended")

    async def refusal(self):
        """Return the status that the stream ends with."""
        with pytest.raises(grpc.RpcError) as caught:
            await self.hear("nothing")
        return caught.value.code(), caught.value.details()


@pytest.fixture
async def identity(agent, entry):
    """Wait until this process has its identity."""
    entry()
    async with asyncio.timeout(10):
        async for _ in agent.identities.watch():
            if any(row.serial for row in agent.identities.status()):
                break


def points(agent):
    return [point for point in agent.board.points() if point.kind == "sdk"]


async def test_a_process_is_a_point(agent, channel, identity):
    """From its Hello on a process is on the board, with nothing in force; it leaves with it."""
    async with Follower(channel) as follower:
        await follower.hello(name="my shop/1")
        changes = await follower.hear("changes")
        assert changes.snapshot
        assert changes.complete
        (point,) = points(agent)
        assert point.id.startswith("sdk/my_shop_1#")
        assert (point.spiffe_id, point.revision) == (API, 0)
        await follower.say(applied=pb.Applied(revision=changes.revision, notes=["n" * 999] * 99))
        async for _ in agent.board.changes.watch():
            if points(agent)[0].revision:
                break
        assert len(points(agent)[0].notes) == 16
        assert len(points(agent)[0].notes[0]) == 300
    async with asyncio.timeout(10):
        async for _ in agent.board.changes.watch():
            if not points(agent):
                break


@pytest.mark.parametrize(
    ("messages", "status", "words"),
    [
        ([{"applied": pb.Applied()}], Status.INVALID_ARGUMENT, "begins with a Hello"),
        ([{"hello": pb.Hello(kind="envoy")}], Status.INVALID_ARGUMENT, "begins with a Hello"),
        (
            [{"hello": pb.Hello(kind="sdk", spiffe_id="spiffe://example.org/web")}],
            Status.PERMISSION_DENIED,
            "may not act as 'spiffe://example.org/web'",
        ),
        (
            [{"hello": pb.Hello(kind="sdk")}, {"hello": pb.Hello(kind="sdk")}],
            Status.INVALID_ARGUMENT,
            "second Hello",
        ),
        (
            [{"hello": pb.Hello(kind="sdk")}, {"applied": pb.Applied(revision=1 << 60)}],
            Status.INVALID_ARGUMENT,
            "was the last one sent",
        ),
        (
            [
                {"hello": pb.Hello(kind="sdk")},
                {"in_force": pb.InForce(spiffe_id="spiffe://example.org/web", serial="1")},
            ],
            Status.INVALID_ARGUMENT,
            "as somebody else",
        ),
        (
            [
                {"hello": pb.Hello(kind="sdk")},
                {"in_force": pb.InForce(spiffe_id=API, serial="0xFF")},
            ],
            Status.INVALID_ARGUMENT,
            "hexadecimal",
        ),
    ],
)
async def test_rules_of_the_protocol(agent, channel, identity, messages, status, words):
    """A process that breaks a rule is told which, and is no point any more."""
    async with Follower(channel) as follower:
        for message in messages:
            await follower.say(**message)
        code, details = await follower.refusal()
    assert code is status
    assert words in details
    assert points(agent) == []


async def test_without_the_security_header(channel, identity):
    """A call that might be relayed HTTP is refused."""
    async with Follower(channel, metadata=()) as follower:
        await follower.hello()
        code, details = await follower.refusal()
    assert code is Status.INVALID_ARGUMENT
    assert "security header" in details


async def test_without_an_entry(agent, channel):
    """A process without identity gets no revocations and no place on the board."""
    async with Follower(channel) as follower:
        await follower.hello()
        code, _ = await follower.refusal()
    assert code is Status.PERMISSION_DENIED
    assert points(agent) == []


async def test_an_identity_that_ends(authority, agent, channel, identity):
    """When the identity is banned, the process's stream ends and its point goes."""
    async with Follower(channel) as follower:
        await follower.hello(API)
        await follower.hear("changes")
        ban = {"spiffe_id": API, "reason": "x", "since": "2026-01-01T00:00:00Z"}
        authority.publish(Kind.BAN, API, ban)
        assert (await follower.refusal())[0] is Status.PERMISSION_DENIED
    assert points(agent) == []


@pytest.mark.parametrize("name", ["MAX_STREAMS", "MAX_STREAMS_PER_USER"])
async def test_streams_are_bounded(agent, channel, identity, monkeypatch, name):
    """Beyond the bound, of all and of one user, a process is turned away."""
    monkeypatch.setattr(enforcement, name, 1)
    async with Follower(channel) as first:
        await first.hello()
        await first.hear("changes")
        async with Follower(channel) as second:
            await second.hello()
            assert (await second.refusal())[0] is Status.RESOURCE_EXHAUSTED


async def test_refusals_are_bounded(agent, channel, identity):
    """Unknown causes, long texts and absurd counts are cut to size."""
    async with Follower(channel) as follower:
        await follower.hello()
        row = pb.Refusal(cause="nonsense", serial="-1", raw="x" * 9999, count=1 << 60)
        await follower.say(refusals=pb.Refusals(refusals=[row]))
        async with asyncio.timeout(10):
            async for _ in agent.board.changes.watch():
                if agent.board.refusals():
                    break
    (report,) = agent.board.refusals()
    assert (report.cause, report.serial, len(report.raw)) == ("unknown", "", 300)
    assert report.count == 1_000_000


async def test_what_is_served_is_in_the_status(agent, channel, identity):
    """The certificate that a process shows stands in `legation status` until it leaves."""
    async with Follower(channel) as follower:
        await follower.hello()
        (row,) = agent.identities.status()
        await follower.say(in_force=pb.InForce(spiffe_id=API, serial=format(row.serial, "x")))
        async with asyncio.timeout(10):
            while not agent.status()["in_force"]:
                await asyncio.sleep(0.01)
        (served,) = agent.status()["in_force"]
        assert served["serial_in_force"] == format(row.serial, "x")


async def test_freshness_follows_the_newest_list(authority, agent, channel, identity):
    """The newest revocation list says until when the data may be believed; before it, nothing."""
    now = datetime.now(UTC).replace(microsecond=0)
    async with Follower(channel) as follower:
        await follower.hello()
        assert (await follower.hear("freshness")).as_of_ms == 0
        for number, hours in ((1, 1), (2, 2)):
            crl = PublishedCRL(
                issuer="ab",
                shard=number,
                number=number,
                this_update=now,
                next_update=now + timedelta(hours=hours),
                url="",
                der=None,
            )
            authority.publish(Kind.CRL, crl.key, crl.to_value())
            message = await follower.hear("freshness")
            assert message.as_of_ms == round(now.timestamp() * 1000)
            assert message.bound_ms == hours * 3_600_000
            assert message.action == pb.Freshness.REFUSE


# --- the log ----------------------------------------------------------------------------------


REVOCATION = Revocation(
    serial=1,
    spiffe_id="spiffe://example.org/x",
    issuer="aa",
    reason="superseded",
    revoked_at=datetime(2031, 1, 1, tzinfo=UTC),
    expires_at=datetime(2031, 1, 2, tzinfo=UTC),
)


class State:
    """A feed state whose values do not matter."""

    def __init__(self):
        self.state = FeedState()

    def set(self, *, revoked=(), banned=(), forgotten=(), unbanned=()):
        for serial in revoked:
            self.state.revision += 1
            self.state.revocations[serial] = REVOCATION
        for name in banned:
            self.state.revision += 1
            self.state.bans[name] = None
        for name in unbanned:
            self.state.revision += 1
            self.state.bans.pop(name, None)
        for serial in forgotten:  # expiry takes no revision
            self.state.revocations.pop(serial, None)
        return self.state


def name(number):
    return f"spiffe://example.org/{number}"


class Reader:
    """A process, without a socket."""

    def __init__(self, log):
        self.log, self.position, self.known, self.messages = log, -1, Enforcement(), 0

    def read(self):
        messages, self.position = self.log.read(self.position)
        for message in messages:
            self.messages += 1
            assert len(message) < 128 << 10
            self.known.accept(message, clock=SystemClock())
        return self

    def holds(self, state):
        return (
            self.known.current
            and self.known.revision == state.revision
            and self.known.revoked_count == len(state.revocations)
            and all(
                self.known.refusal(serial, SpiffeID.parse(name("none")))
                for serial in state.revocations
            )
            and self.known._banned == set(state.bans)
        )


_STEPS = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {},
            optional={
                "revoked": st.lists(st.integers(1, 30) | st.just(1 << 140), max_size=6),
                "forgotten": st.lists(st.integers(1, 30) | st.just(1 << 140), max_size=6),
                "banned": st.lists(st.integers(1, 9).map(name), max_size=3),
                "unbanned": st.lists(st.integers(1, 9).map(name), max_size=3),
            },
        ),
        st.booleans(),  # whether the slow reader reads
        st.integers(0, 9),  # 0: a snapshot of the authority replaces the state
    ),
    max_size=12,
)


@given(_STEPS, st.integers(2, 5))
def test_every_reader_comes_to_the_same_state(steps, kept):
    """Fast, slow and new readers know what the feed says, however short the log is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("legation.agent.local.enforcement_log._ENTRIES_KEPT", kept)
        feed, log = State(), EnforcementLog()
        log.advance(feed.state)
        fast, slow = Reader(log), Reader(log)
        for change, reads, replaced in steps:
            if replaced == 0:
                feed = State()
            log.advance(feed.set(**change))
            assert fast.read().holds(feed.state)
            if reads:
                assert slow.read().holds(feed.state)
            assert Reader(log).read().holds(feed.state)
        assert slow.read().holds(feed.state)


def test_a_change_costs_what_it_says():
    """With 100,000 revocations a new one is one message of a few bytes, the same for all."""
    feed, log = State(), EnforcementLog()
    log.advance(feed.set(revoked=range(1, 100_001)))
    readers = [Reader(log).read() for _ in range(2)]
    assert readers[0].messages == -(-100_000 // SERIALS_IN_A_PART) + 1
    log.advance(feed.set(revoked=[1 << 100]))
    (first,), _ = log.read(readers[0].position)
    assert len(first) < 40
    for reader in readers:
        reader.read()
        assert reader.messages == -(-100_000 // SERIALS_IN_A_PART) + 2
        assert reader.holds(feed.state)
    Reader(log).read()
    snapshot = log._snapshot
    log.advance(feed.set(revoked=[1 << 101]))
    assert Reader(log).read().holds(feed.state)
    assert log._snapshot is snapshot


def test_nothing_new_is_no_entry():
    """Waking up without a change of the feed adds nothing to the log."""
    feed, log = State(), EnforcementLog()
    log.advance(feed.set(revoked=[1]))
    end = log.end
    log.advance(feed.state)
    assert log.end == end
