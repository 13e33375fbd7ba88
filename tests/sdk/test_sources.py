"""The sources for threads and for asyncio, against our agent."""

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from legation.causes import Cause
from legation.errors import Conflict, InvalidInput, NotFound, NotPermitted, TimedOut, Unavailable
from legation.pki import SpiffeID
from legation.policy import Request
from legation.sdk import AsyncBundleSource, AsyncX509Source, BundleSource, X509Source
from legation.sdk.endpoint import endpoint_target
from legation.sdk.knowledge import RevocationData
from legation.sdk.model import Aspect, Refusal
from legation.wire.feed import Kind, Revocation

PEER = SpiffeID.parse("spiffe://example.org/peer")


class Threaded:
    """Makes a source for threads usable from a test that shares its loop with the agent."""

    x509, bundles = X509Source, BundleSource

    def __init__(self, source):
        self.source = source

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await asyncio.to_thread(self.source.close)

    async def ready(self, timeout=10):
        await asyncio.to_thread(self.source.wait_ready, timeout)

    close = __aexit__


class OnLoop(Threaded):
    x509, bundles = AsyncX509Source, AsyncBundleSource

    async def __aenter__(self):
        await self.source.start()
        return self

    async def __aexit__(self, *_):
        await self.source.close()

    async def ready(self, timeout=10):
        await self.source.wait_ready(timeout)

    close = __aexit__


@pytest.fixture(params=[Threaded, OnLoop])
def kind(request):
    return request.param


@pytest.fixture
def make(kind, address):
    return lambda cls="x509", **options: kind(getattr(kind, cls)(address, **options))


async def until(source, condition, *, timeout_s=10):
    """Wait until `condition()` holds; it is looked at after each change of the source."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    unsubscribe = source.subscribe(lambda _: loop.call_soon_threadsafe(changed.set))
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await changed.wait()
                changed.clear()
    finally:
        unsubscribe()


async def until_board(agent, condition, *, timeout_s=10):
    async with asyncio.timeout(timeout_s):
        async for _ in agent.board.changes.watch():
            points = [point for point in agent.board.points() if point.kind == "sdk"]
            if condition(points):
                break
    return points


def revoke(authority, serial):
    now = datetime.now(UTC)
    row = Revocation(
        serial=serial,
        spiffe_id=str(PEER),
        issuer="ab",
        reason="unspecified",
        revoked_at=now,
        expires_at=now + timedelta(hours=1),
    )
    authority.publish(Kind.REVOCATION, format(serial, "x"), row.to_value())


async def test_identity_and_revocations_arrive(authority, agent, entry, make):
    """A process that has an entry gets its SVID and live revocations from one socket."""
    entry()
    async with make() as held:
        await held.ready()
        view = held.source.view()
        assert str(view.svid.spiffe_id) == "spiffe://example.org/api"
        bundle = view.bundles[view.svid.spiffe_id.trust_domain]
        assert bundle.x509_authorities == authority.bundle.x509_authorities
        assert held.source.revocation_data is RevocationData.LIVE
        assert held.source.refusal(serial=7, spiffe_id=PEER) is None


async def test_a_rotation_makes_a_new_view(agent, entry, make):
    """A renewed certificate appears in a new view; the old view object stays as it was."""
    entry()
    async with make() as held:
        await held.ready()
        before = held.source.view()
        agent.identities.rotate_now()
        await until(held.source, lambda: held.source.view().generation > before.generation)
        assert held.source.view().svid.serial != before.svid.serial


async def test_a_revocation_is_in_force_and_acknowledged(authority, agent, entry, make):
    """A revocation refuses at once; the agent's board and the authority hear that it does."""
    entry()
    async with make(name="shop") as held:
        await held.ready()
        changes = []
        held.source.subscribe(changes.append)
        revoke(authority, 0xABC)
        await until(
            held.source, lambda: held.source.refusal(serial=0xABC, spiffe_id=PEER) is not None
        )
        assert held.source.refusal(serial=0xABC, spiffe_id=PEER) is Cause.CERTIFICATE_REVOKED
        assert frozenset({Aspect.REVOCATIONS}) in changes
        (point,) = await until_board(
            agent, lambda points: points and points[0].revision == authority.revision
        )
        assert point.id.startswith("sdk/shop#")
        assert point.spiffe_id == "spiffe://example.org/api"
        await authority.until(
            lambda: any(
                told.kind == "sdk" and told.revision == authority.revision
                for told in authority.acknowledgements[-1].points
            )
        )
    assert await until_board(agent, lambda points: not points) == []


async def test_a_revision_counts_when_connections_are_dealt_with(authority, agent, entry, make):
    """With a part attached, the agent hears of a revision when that part has applied it."""
    entry()
    async with make() as held:
        await held.ready()
        detach = held.source.attach("connections", ["cuts-connections"])
        with pytest.raises(Conflict, match="attached"):
            held.source.attach("connections")
        revoke(authority, 0xABC)
        revision = authority.revision
        await until(held.source, lambda: held.source.revision == revision)
        points = await until_board(
            agent, lambda points: points and points[0].capabilities == ("cuts-connections",)
        )
        assert points[0].revision < revision
        held.source.applied("connections", revision, ["one would not close"])
        (point,) = await until_board(
            agent, lambda points: points and points[0].revision == revision
        )
        assert point.notes == ("one would not close",)
        # What concerns nobody's connections needs no answer of the part.
        authority.put_entry(agent.identities.state.entries["e1"].model_copy(update={"owner": "me"}))
        await until_board(agent, lambda points: points[0].revision == authority.revision)
        detach()
        await until_board(agent, lambda points: points[0].capabilities == ())
        with pytest.raises(NotFound, match="attached"):
            held.source.applied("connections", revision)


async def test_a_ban_of_a_peer(authority, agent, entry, make):
    """A banned identity is refused whatever its serial, until the ban is lifted."""
    entry()
    async with make() as held:
        await held.ready()
        ban = {"spiffe_id": str(PEER), "reason": "x", "since": "2026-01-01T00:00:00Z"}
        authority.publish(Kind.BAN, str(PEER), ban)
        await until(held.source, lambda: held.source.refusal(serial=1, spiffe_id=PEER))
        assert held.source.refusal(serial=1, spiffe_id=PEER) is Cause.IDENTITY_BANNED
        authority.publish(Kind.BAN, str(PEER), None)
        await until(held.source, lambda: not held.source.refusal(serial=1, spiffe_id=PEER))


async def test_policies_arrive_live(authority, agent, entry, make):
    """Policies whose target is this process decide; those of others are not even sent."""
    entry()
    call = Request(
        source=str(PEER), target="spiffe://example.org/api", method="GET", path="/", port=443
    )
    async with make() as held:
        await held.ready()
        assert not held.source.decide(call).allowed
        for name in ("api", "other"):
            authority.publish(Kind.POLICY, name, _policy(name))
        await until(held.source, lambda: held.source.decide(call).allowed)
        assert held.source.decide(call).decided_by == "api"
        assert len(held.source.knowledge.enforcement._documents) == 1
        authority.publish(Kind.POLICY, "api", None)
        await until(held.source, lambda: not held.source.decide(call).allowed)


def _policy(target):
    return {
        "apiVersion": "legation/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": target},
        "spec": {
            "target": {"spiffeIDs": [f"spiffe://example.org/{target}"]},
            "action": "ALLOW",
            "rules": [{}],
        },
    }


async def test_refusals_are_reported(authority, agent, entry, make):
    """What a process refuses ends up with the authority, with cause, peer and count."""
    entry()
    async with make() as held:
        await held.ready()
        for _ in range(2):
            held.source.refused(
                Refusal(cause=Cause.CERTIFICATE_REVOKED, peer=str(PEER), serial=0xABC, raw="words")
            )
        await authority.until(lambda: any(r.peer == str(PEER) for r in authority.reports))
        (row,) = [r for r in authority.reports if r.peer == str(PEER)]
        assert (row.cause, row.serial, row.count) == ("certificate_revoked", "abc", 2)
        assert row.point.startswith("sdk/")


async def test_the_agent_may_restart(authority, start_agent, entry, make):
    """While the agent is away the view stays; when it is back, changes arrive again."""
    entry()
    async with start_agent():
        held = make()
        await held.__aenter__()
        await held.ready()
        revoke(authority, 0xABC)
        await until(held.source, lambda: held.source.refusal(serial=0xABC, spiffe_id=PEER))
        view = held.source.view()
    assert held.source.view() is view
    assert held.source.refusal(serial=0xABC, spiffe_id=PEER) is Cause.CERTIFICATE_REVOKED
    async with start_agent():
        revoke(authority, 0xDEF)
        await until(held.source, lambda: held.source.refusal(serial=0xDEF, spiffe_id=PEER))
        assert held.source.refusal(serial=0xABC, spiffe_id=PEER) is Cause.CERTIFICATE_REVOKED
        await held.close()


async def test_an_agent_that_comes_later(start_agent, entry, make):
    """A source may be made before there is an agent; until then it says what is missing."""
    entry()
    async with make() as held:
        with pytest.raises(TimedOut, match=r"no view within 0.2 s: no answer from the agent"):
            await held.ready(0.2)
        with pytest.raises(Unavailable, match="no answer from the agent"):
            held.source.view()
        async with start_agent():
            await held.ready()
            assert held.source.view().svid.serial


async def test_a_process_without_entry(agent, make):
    """Who has no entry is told so, by the agent's own words."""
    async with make() as held:
        with pytest.raises(TimedOut, match="no identity is issued to this process"):
            await held.ready(0.5)
        with pytest.raises(NotPermitted, match="no identity is issued"):
            held.source.view()


async def test_a_ban_of_this_process(authority, agent, entry, make):
    """A process whose own identity is banned loses it on the open stream."""
    entry()
    async with make() as held:
        await held.ready()
        own = "spiffe://example.org/api"
        ban = {"spiffe_id": own, "reason": "x", "since": "2026-01-01T00:00:00Z"}
        authority.publish(Kind.BAN, own, ban)
        await until(held.source, lambda: held.source.knowledge.held is None)
        with pytest.raises(NotPermitted):
            held.source.view()


async def test_one_of_several(agent, entry, make):
    """The wanted identity is used and enforced under; one that is not there is named."""
    entry()
    entry("/web", identifier="e2")
    async with make(spiffe_id="spiffe://example.org/web") as held:
        await held.ready()
        assert str(held.source.view().svid.spiffe_id) == "spiffe://example.org/web"
        await until_board(
            agent, lambda points: points and points[0].spiffe_id == "spiffe://example.org/web"
        )
    async with make(hint="none such") as held:
        with pytest.raises(TimedOut, match="no identity with the hint"):
            await held.ready(0.5)


async def test_trust_bundles_alone(authority, agent, entry, make):
    """A source of bundles follows them, and revocations too."""
    entry()
    async with make("bundles") as held:
        await held.ready()
        assert held.source.view().svids == ()
        revoke(authority, 0xABC)
        await until(held.source, lambda: held.source.refusal(serial=0xABC, spiffe_id=PEER))
        authority.publish(Kind.BUNDLE, "partner.test", authority.bundle.to_document())
        await until(held.source, lambda: len(held.source.view().bundles) == 2)


async def test_closing_is_prompt_and_leaves_nothing(agent, entry, make):
    """Close ends every thread and stream at once; afterwards there is no view."""
    entry()
    before = set(threading.enumerate())
    held = make()
    await held.__aenter__()
    await held.ready()
    async with asyncio.timeout(2):
        await held.close()
    with pytest.raises(Unavailable, match="closed"):
        held.source.view()
    with pytest.raises(Unavailable, match="closed"):
        await held.ready()
    async with asyncio.timeout(5):
        # Other tests' threads come and go; those of grpc's own pool stay.
        while [t for t in {*threading.enumerate()} - before if _is_ours(t)]:
            await asyncio.sleep(0.01)


def _is_ours(thread):
    return "legation" in thread.name or "consume" in thread.name


async def test_a_failing_listener_harms_nobody(authority, agent, entry, make, caplog):
    """A listener that raises is logged; the others, and the source, go on."""
    entry()
    async with make() as held:
        await held.ready()
        heard = []
        held.source.subscribe(lambda _: 1 / 0)
        unsubscribe = held.source.subscribe(heard.append)
        revoke(authority, 1)
        await until(held.source, lambda: held.source.refusal(serial=1, spiffe_id=PEER))
        assert heard
        assert "a listener failed" in caplog.text
        unsubscribe()
        count = len(heard)
        revoke(authority, 2)
        await until(held.source, lambda: held.source.refusal(serial=2, spiffe_id=PEER))
        assert len(heard) == count


async def test_changes_are_an_iterator(authority, agent, entry, address):
    """On a loop the changes may be read one after the other."""
    entry()
    async with AsyncX509Source(address) as source:
        await source.wait_ready(10)
        changes = source.changes()
        following = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        revoke(authority, 1)
        async with asyncio.timeout(5):
            assert await following == {Aspect.REVOCATIONS}
        await changes.aclose()


def test_a_source_does_not_survive_a_fork(tmp_path):
    """In a forked child nobody follows, so the child gets an error instead of old answers."""
    code = """
import os, sys
from legation.clock import SystemClock
from legation.sdk.core import SourceCore
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.pki import SpiffeID
source = SourceCore(Knowledge(SystemClock()))
source.knowledge.revocation_data = RevocationData.LISTS
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    assert source.refusal(serial=1, spiffe_id=SpiffeID.parse("spiffe://a/b")) is None
else:
    try:
        source.view()
    except Exception as error:
        print(error)
    print(source.refusal(serial=1, spiffe_id=SpiffeID.parse("spiffe://a/b")))
    sys.stdout.flush()
    os._exit(0)
"""
    script = tmp_path / "forks.py"
    script.write_text(code)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "made before the process was forked" in run.stdout
    assert "revocation_data_missing" in run.stdout


def test_an_unclosed_source_does_not_hold_up_the_exit(tmp_path):
    """A program that forgets to close ends all the same, without a traceback."""
    script = tmp_path / "forgets.py"
    script.write_text(
        "from legation.sdk import X509Source\n"
        f"source = X509Source('unix://{tmp_path}/none.sock')\n"
        "print('done')\n"
    )
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=20
    )
    assert run.stdout == "done\n"
    assert not {line for line in run.stderr.splitlines() if "no answer from the agent" not in line}


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:///run/legation/agent.sock", "unix:/run/legation/agent.sock"),
        ("unix:/run/agent.sock", "unix:/run/agent.sock"),
    ],
)
def test_addresses_of_the_standard(address, target):
    """Both spellings of a Unix socket are understood, from an argument or the environment."""
    assert endpoint_target(address) == target
    assert endpoint_target(None, environment={"SPIFFE_ENDPOINT_SOCKET": address}) == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix://host/run/agent.sock", "three slashes"),
        ("unix:relative.sock", "not absolute"),
        ("unix:///run/agent.sock?x=1", "neither query"),
        ("unix:///run/agent.sock#x", "neither query"),
        ("unix:/", "not absolute"),
        ("http://127.0.0.1:80", "not unix"),
        ("/run/agent.sock", "not unix"),
        ("tcp://127.0.0.1:8000", "do not travel over TCP"),
    ],
)
def test_other_addresses_are_refused(address, words):
    """What is none of the forms is refused in words, TCP among them."""
    with pytest.raises(InvalidInput, match=words):
        X509Source(address)


@pytest.mark.parametrize(
    ("address", "target"),
    [("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000"), ("tcp://[::1]:8000", "ipv6:[::1]:8000")],
)
def test_tcp_on_demand(address, target):
    """Somebody who says that it is unsafe may use TCP, with an IP address and a port."""
    assert endpoint_target(address, unsafe_tcp=True) == target
    for bad in ("tcp://localhost:8000", "tcp://127.0.0.1", "tcp://127.0.0.1:8000/x", "tcp://[::1"):
        with pytest.raises(InvalidInput):
            endpoint_target(bad, unsafe_tcp=True)


def test_no_address_at_all():
    """Without argument and variable the error names the variable."""
    with pytest.raises(NotFound, match="SPIFFE_ENDPOINT_SOCKET"):
        X509Source(environment={})


def test_the_environment_is_read(monkeypatch):
    """Without arguments the process's own environment counts."""
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/x.sock")
    assert endpoint_target(None) == "unix:/run/x.sock"
