"""What a sink does when its server does not: detect, go back, alarm, try again, mend."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from legation.agent.sinks import Outcome, Step
from legation.agent.sinks import keeper as keeper_module
from tests.support.sinks import IssuedIdentities, RunningSinks, write_identity


def fast_retries(monkeypatch):
    """Try again at once, so that a test need not wait for the back-off."""
    monkeypatch.setattr(keeper_module.random, "random", lambda: 0.0)


async def test_a_rotation_is_seen_from_outside(running, issued):
    """A new certificate is confirmed, and stands as issued and in force."""
    new = issued.rotate()
    event = await running.next_event()
    assert (event.outcome, event.issued, event.in_force) == (
        Outcome.CONFIRMED,
        new.serial,
        new.serial,
    )
    status = running.status
    assert (status.issued, status.in_force, status.state) == (new.serial, new.serial, "confirmed")
    assert (status.problem, status.next_attempt, status.failures) == (None, None, 0)


async def test_a_bad_certificate_is_rolled_back(running, issued, sink):
    """A certificate that is not the key's fails the reload; the files and the server go back."""
    good = running.status.in_force
    bad = issued.certify("/web")
    bad = dataclasses.replace(bad, private_key=issued.certify("/web").private_key)
    before = sink.directory.joinpath("current/chain.pem").read_bytes()
    issued.put(bad)
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.ROLLED_BACK, Step.RELOAD)
    assert (event.issued, event.in_force) == (bad.serial, good)
    assert event.alarming
    assert "KEY_VALUES_MISMATCH" in event.problem
    assert sink.directory.joinpath("current/chain.pem").read_bytes() == before


async def test_a_failing_reload_is_rolled_back_and_alarmed(running, issued, reader):
    """When the reload fails, the files go back and the server is told of them again."""
    good, reader.failures = running.status.in_force, 1
    new = issued.rotate()
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.ROLLED_BACK, Step.RELOAD)
    assert (event.issued, event.in_force, event.alarming) == (new.serial, good, True)
    assert (running.status.issued, running.status.in_force) == (new.serial, good)


async def test_a_way_back_that_fails_is_no_way_back(running, issued, reader):
    """When the server cannot be told of the old files either, what it serves is looked up."""
    good, reader.failures = running.status.in_force, 2
    issued.rotate()
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.FAILED, Step.RELOAD)
    assert (event.in_force, event.problem) == (good, "reload: the server does not reload")


async def test_a_server_that_goes_on_with_the_old_certificate_is_found_out(
    running, issued, reader, caplog
):
    """A reload that changes nothing is detected from outside, rolled back, alarmed and shown."""
    good, reader.deaf = running.status.in_force, True
    new = issued.rotate()
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.ROLLED_BACK, Step.PROBE)
    assert (event.issued, event.in_force) == (new.serial, good)
    status = await running.until(lambda status: status.problem)
    assert (status.state, status.issued, status.in_force) == ("rolled_back", new.serial, good)
    assert f"does not serve {new.serial:x}" in status.problem
    assert status.next_attempt is not None
    assert f"issued {new.serial:x}, in force {good:x}" in running.point.notes
    assert any(record.levelname == "ERROR" for record in caplog.records)


async def test_it_mends_by_itself(running, issued, reader, monkeypatch):
    """Once the server follows again, the next attempt brings issued and in force together."""
    fast_retries(monkeypatch)
    reader.deaf = True
    new = issued.rotate()
    assert (await running.next_event()).outcome is Outcome.ROLLED_BACK
    reader.deaf = False
    while (event := await running.next_event()).outcome is not Outcome.CONFIRMED:
        pass
    assert event.in_force == new.serial
    status = await running.until(lambda status: status.problem is None)
    assert (status.issued, status.in_force, status.failures) == (new.serial, new.serial, 0)
    assert not any("in force" in note for note in running.point.notes)


async def test_what_failed_is_shown_until_a_newer_one_serves(running, issued, reader):
    """When the agent itself goes back to the certificate before, the alarm stays for people."""
    good = issued.current[0]
    await asyncio.sleep(1.1)  # certificates are told apart by age, in whole seconds
    reader.deaf = True
    bad = issued.rotate()
    assert (await running.next_event()).outcome is Outcome.ROLLED_BACK
    reader.deaf = False
    issued.put(good)
    await running.until(lambda status: status.revision == issued.state.revision)
    status = running.status
    assert (status.issued, status.in_force) == (bad.serial, good.serial)
    assert f"does not serve {bad.serial:x}" in status.problem
    new = issued.rotate()
    assert (await running.next_event()).outcome is Outcome.CONFIRMED
    status = await running.until(lambda status: status.problem is None)
    assert (status.issued, status.in_force) == (new.serial, new.serial)


async def test_lists_reach_a_server_that_refuses_the_certificate(running, issued):
    """While a certificate fails, revocations go out with the one that is in force."""
    good = running.status.in_force
    bad = issued.certify("/web")
    issued.put(dataclasses.replace(bad, private_key=issued.certify("/web").private_key))
    assert (await running.next_event()).outcome is Outcome.ROLLED_BACK
    issued.revoke(issued.certify("/gone").serial)
    event = await running.next_event()
    while event.outcome is not Outcome.CONFIRMED:  # another attempt may come first
        event = await running.next_event()
    assert event.in_force == good
    await running.until(lambda status: status.revision == issued.state.revision)
    assert running.status.issued == bad.serial
    assert running.status.problem is not None


async def test_a_revision_is_stated_only_when_its_list_is_loaded(running, issued):
    """Between a revocation and its list the point stays at the revision before."""
    await running.until(lambda status: status.revision == issued.state.revision)
    before, gone = issued.state.revision, issued.certify("/gone").serial
    issued.revoke(gone, listed=False)
    new = issued.rotate()
    assert (await running.next_event()).in_force == new.serial
    assert running.point.revision == before
    issued.revoke(gone)
    await running.next_event()
    await running.until(lambda status: status.revision == issued.state.revision)


async def test_other_news_need_no_reload(running, issued, reader):
    """A revision that changes nothing for this server is stated without touching it."""
    await running.until(lambda status: status.revision == issued.state.revision)
    loads = reader.loads
    issued.changed()
    await running.until(lambda status: status.revision == issued.state.revision)
    assert reader.loads == loads


async def test_a_reload_for_a_list_alone_is_seen(running, issued, reader):
    """A server that does not read a new list is found out although its certificate is right."""
    await running.until(lambda status: status.revision == issued.state.revision)
    before, reader.deaf = issued.state.revision, True
    issued.revoke(issued.certify("/gone").serial)
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.ROLLED_BACK, Step.PROBE)
    assert running.point.revision == before


async def test_an_expired_generation_is_not_put_back(issued, sink, reader):
    """With nothing valid to go back to, the new files stay, and the state says failed."""
    issued.rotate(lifetime_s=2)
    async with RunningSinks(issued, sink, server=reader) as running:
        short = await running.next_event()
        await asyncio.sleep(2.1)
        reader.failures = 1
        new = issued.rotate()
        event = await running.next_event()
        assert (event.outcome, event.failed_at) == (Outcome.FAILED, Step.RELOAD)
        assert short.outcome is Outcome.CONFIRMED
        assert sink.directory.joinpath("current").readlink().name == f".{_generation_of(sink)}"
        assert running.status.issued == new.serial


def _generation_of(sink):
    return max(int(path.name[1:]) for path in sink.directory.glob(".[0-9]*"))


async def test_a_revoked_generation_is_not_put_back(running, issued, reader):
    """A revoked certificate is no fallback, whatever the server does with the new one."""
    old, reader.deaf = running.status.in_force, True
    issued.revoke(old, listed=False)
    issued.rotate()
    assert (await running.next_event()).outcome is Outcome.FAILED


async def test_a_restarted_server_with_other_files_is_noticed(running, monkeypatch, reader, issued):
    """A confirmed server that later presents something else is told again, with an alarm."""
    monkeypatch.setattr(keeper_module, "_LOOK_S", 0.05)
    issued.changed()  # wakes it, so that the shorter interval counts
    other = IssuedIdentities()
    reader._context.load_cert_chain(*_written(other.rotate(), running))
    event = await running.next_event()
    assert (event.outcome, event.failed_at) == (Outcome.FAILED, Step.PROBE)
    assert "has gone over to" in event.problem
    issued.changed()
    assert (await running.next_event()).outcome is Outcome.CONFIRMED


def _written(identity, running):
    directory = running.sinks._keepers[0]._sink.directory.parent
    return write_identity(identity, directory, "other")


@pytest.mark.parametrize(
    ("paths", "said"),
    [((), "no identity is issued to this sink"), (("/a", "/b"), "several identities fit")],
)
async def test_without_one_identity_nothing_is_delivered(sink, reader, paths, said):
    """No entry, or several, is a problem that names its remedy; no file is written."""
    issued = IssuedIdentities()
    for path in paths:
        issued.current.append(issued.certify(path))
    async with RunningSinks(issued, sink, server=reader) as running:
        status = await running.until(lambda status: status.problem)
        assert said in status.problem
        assert (status.state, status.in_force) == ("waiting", None)
        assert not (sink.directory / "current").exists()


async def test_one_of_several_is_chosen_by_name(sink, reader):
    """With `spiffe_id` a sink takes that identity and no other."""
    issued = IssuedIdentities()
    issued.current = [issued.certify("/a"), issued.certify("/b")]
    chosen = sink.model_copy(update={"spiffe_id": "spiffe://example.org/b"})
    async with RunningSinks(issued, chosen, server=reader) as running:
        assert (await running.next_event()).in_force == issued.current[1].serial


async def test_a_missing_list_holds_everything_back(issued, sink, reader):
    """Without the root's list a server would refuse every peer, so nothing is written."""
    issued.state.crls.pop(f"{issued.authority.root.key_id_hex}/0")
    async with RunningSinks(issued, sink, server=reader) as running:
        status = await running.until(lambda status: status.problem)
        assert "no revocation list of the issuer CN=root" in status.problem
        assert not (sink.directory / "current").exists()


async def test_without_lists_it_is_no_enforcement_point(issued, sink, reader):
    """A server that gets no lists refuses nobody, and does not claim to."""
    files = sink.files.model_copy(update={"crl": None})
    async with RunningSinks(
        issued, sink.model_copy(update={"files": files}), server=reader
    ) as running:
        assert (await running.next_event()).outcome is Outcome.CONFIRMED
        assert running.board.points() == ()
        assert running.status.revision is None
        assert any("lets revoked peers in" in note for note in running.status.notes)


async def test_without_a_probe_nothing_is_confirmed(issued, sink, reader):
    """A delivery nobody looked at states no revision, and says why."""
    async with RunningSinks(
        issued, sink.model_copy(update={"probe": None}), server=reader
    ) as running:
        assert (await running.next_event()).outcome is Outcome.DELIVERED
        assert running.status.revision == 0
        assert any("not observed" in note for note in running.status.notes)


async def test_the_next_run_takes_up_where_this_one_ended(issued, sink, reader):
    """After a restart of the agent the files in force are known, and are the way back."""
    async with RunningSinks(issued, sink, server=reader) as running:
        first = await running.next_event()
    reader.deaf = True
    issued.rotate()
    async with RunningSinks(issued, sink, server=reader) as running:
        event = await running.next_event()
        assert (event.outcome, event.in_force) == (Outcome.ROLLED_BACK, first.in_force)


async def test_the_back_off_is_bounded(running, issued, reader):
    """The next attempt is never further away than a tenth of the certificate's lifetime."""
    reader.deaf = True
    issued.rotate(lifetime_s=100)
    await running.next_event()
    status = await running.until(lambda status: status.next_attempt)
    assert status.next_attempt <= datetime.now(UTC) + timedelta(seconds=10)


async def test_what_revoked_peers_have_open_is_ended_before_it_is_stated(running, issued, reader):
    """The server is told once for each change of the lists, after they are in force."""
    loads = reader.loads
    issued.revoke(issued.authority.serial())
    await running.until(lambda status: status.revision == issued.state.revision)
    assert reader.loads > loads
    issued.rotate()
    await running.until(lambda status: status.revision == issued.state.revision)
    assert reader.cuts == [frozenset(), frozenset(issued.state.revocations)]


async def test_a_server_that_holds_on_states_nothing(running, issued, reader, monkeypatch):
    """The new certificate is in force, the revision is not; the next attempt mends it."""
    fast_retries(monkeypatch)
    before, reader.stubborn = running.status.revision, 2
    issued.revoke(issued.authority.serial())
    new = issued.rotate()
    status = await running.until(lambda status: status.problem)
    assert status.problem == "the server holds on to its sessions"
    assert (status.revision, status.in_force) == (before, new.serial)
    assert "the server holds on to its sessions" in running.point.notes
    status = await running.until(lambda status: status.revision == issued.state.revision)
    assert status.problem is None


async def test_open_connections_are_looked_at_again(running, issued, reader, monkeypatch):
    """A handshake that had begun under the old lists may end after the first look."""
    monkeypatch.setattr(keeper_module, "_LOOK_S", 0.05)
    issued.changed()
    async with asyncio.timeout(10):
        while len(reader.cuts) < 3:
            await asyncio.sleep(0.01)
    assert set(reader.cuts) == {frozenset()}


async def test_waiting_for_an_identity_does_not_slow_down_what_comes_after(issued, sink, reader):
    """However often it was woken in vain, the first delivery that fails is tried again at once."""
    identity, issued.current = issued.current[0], []
    async with RunningSinks(issued, sink, server=reader) as running:
        for number in range(20):
            issued.changed()
            async with asyncio.timeout(5):
                while running.status.failures <= number:
                    await asyncio.sleep(0.001)
        reader.failures = 1
        issued.put(identity)
        assert (await running.next_event()).outcome is Outcome.FAILED
        assert running.status.failures == 1
        assert (await running.next_event(timeout_s=3)).outcome is Outcome.CONFIRMED
