"""Replacing the issuer: no step without its proof, and none that cannot be gone on with."""

import asyncio
import contextlib
import sqlite3
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import pytest

from legation.authority.events import IssuerMoved
from legation.authority.issuers import changes
from legation.authority.issuers.states import IssuerLife
from legation.authority.revoking.scopes import HOLD, IssuerScope, RevocationRequest
from legation.authority.store.sqlite import SQLiteStore
from legation.authority.store.sqlite.database import migrations, open_database
from legation.errors import (
    Conflict,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Unavailable,
)
from legation.pki import RevocationList, build_request, certificate_from_der, generate_key
from legation.pki.ocsp import CertificateID
from tests.support.authority import (
    ADMIN,
    Agent,
    Refused,
    World,
    agent_id,
    begin,
    certificate_of,
    running,
    settings_for,
)
from tests.support.issuers import (
    SECOND,
    following,
    in_step,
    issuers,
    renewed,
    replace,
    revoke,
    signing,
    until_state,
)


async def actions(world: World) -> list[str]:
    entries = await world.services.audit.read(after=0, limit=1000)
    return [entry.action for entry in entries if entry.action.startswith("issuer.")]


def the_list(world: World, issuer: str, shard: int = 0) -> RevocationList:
    return RevocationList.from_der(world.services.status.crl(issuer, shard))


async def test_a_new_issuer_signs_when_everybody_has_its_lists(world: World) -> None:
    """Published first, it signs from the moment on that agent and point have acknowledged it."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    old = await signing(world)
    async with following(agent) as follower:
        await follower.acknowledge(0)
        new = (await replace(world)).key_id
        published = await until_state(world, new, "published")
        assert published.unready is not None
        assert published.life.revision is not None
        assert the_list(world, new).entries == {}
        with pytest.raises(Conflict, match=r"not in force everywhere: .*agent/one"):
            await world.services.issuers.activate(new, now=False, actor=ADMIN)
        # The agent has it, and the Envoy behind it has not: still nobody is signed for.
        await follower.acknowledge(published.life.revision, point=0)
        with pytest.raises(Conflict, match="envoy/api of spiffe"):
            await world.services.issuers.activate(new, now=False, actor=ADMIN)
        (before,) = await follower.caller.issue((entry.id, build_request(generate_key())))
        assert await signing(world) == old
        await follower.acknowledge(published.life.revision)
        await until_state(world, new, "active")
        (after,) = await follower.caller.issue((entry.id, build_request(generate_key())))
    assert (await issuers(world))["retiring"].key_id == old
    certificates = world.services.certificates
    records = [await certificates.get(certificate_of(r).serial_number) for r in (before, after)]
    assert [record.issuer for record in records] == [old, new]
    chain = [certificate_from_der(der) for der in after.certificate.certificates]
    assert chain[0].issuer == chain[1].subject
    assert await actions(world) == ["issuer.prepare", "issuer.publish", "issuer.activate"]
    assert [e.state for e in world.heard(IssuerMoved)] == ["prepared", "published", "active"]


async def test_an_agent_that_is_away_and_holds_a_certificate_is_waited_for(world: World) -> None:
    """What runs behind it would refuse whoever comes with a certificate of the new issuer."""
    await world.enrol()
    new = (await replace(world)).key_id
    published = await until_state(world, new, "published")
    assert published.unready is not None
    assert published.unready.disconnected == (str(agent_id("one")),)
    with pytest.raises(Conflict, match="agent/one") as caught:
        await world.services.issuers.activate(new, now=False, actor=ADMIN)
    assert "--now" in (caught.value.remedy or "")
    assert (await world.services.issuers.activate(new, now=True, actor=ADMIN)).state == "active"
    # Once more changes nothing.
    await world.services.issuers.activate(new, now=True, actor=ADMIN)
    assert (await actions(world)).count("issuer.activate") == 1


async def test_what_was_signed_before_is_re_issued_at_the_pace_that_was_asked_for(
    world: World,
) -> None:
    """A rotation order follows, once, and the authority's own certificate with it."""
    await world.entry(await world.enrol())
    serial = world.authority.serving.credentials.serial
    new = (await replace(world, now=True, rate=4.0)).key_id
    await until_state(world, new, "active")
    async with asyncio.timeout(5):
        while world.authority.serving.credentials.serial == serial:
            await asyncio.sleep(0.02)
        while not (orders := world.services.rotations.list()):
            await asyncio.sleep(0.02)
    (ordered,) = orders
    assert (ordered.id, ordered.count) == (f"issuer-{new[:16]}", 2)
    assert ordered.order.spread_s == pytest.approx(2 / 4.0 * 1.25)
    record = await world.services.certificates.get(world.authority.serving.credentials.serial)
    assert record.issuer == new
    await world.stop()
    await world.start()
    assert len(world.services.rotations.list()) == 1


async def test_asked_for_twice_it_is_one_replacement(world: World) -> None:
    """While a successor waits, asking again returns it; tried out, nothing is made."""
    await world.enrol()
    old = await signing(world)
    tried = await world.services.issuers.replace(rate=None, now=False, dry_run=True, actor=ADMIN)
    assert (tried.key_id, tried.signed and tried.signed.count) == (old, 3)
    assert await actions(world) == []
    first = await replace(world)
    assert (await replace(world)).key_id == first.key_id
    with pytest.raises(InvalidInput, match="days"):
        await replace(world, rate=0.0000001)


async def test_an_issuer_that_is_needed_is_not_removed(world: World) -> None:
    """As long as somebody's newest certificate is of it, it stays, and the refusal says whose."""
    await world.enrol()
    old = await signing(world)
    with pytest.raises(Conflict, match="is active"):
        await world.services.issuers.remove(old, actor=ADMIN)
    new = (await replace(world, now=True)).key_id
    await until_state(world, new, "active")
    with pytest.raises(Conflict, match=r"still needed: .*agent/one, .*operator/admin"):
        await world.services.issuers.remove(old, actor=ADMIN)
    with pytest.raises(NotFound, match="no issuer"):
        await world.services.issuers.remove("00" * 20, actor=ADMIN)
    (root,) = [each for each in await world.services.issuers.list() if each.role == "root"]
    with pytest.raises(NotFound, match="no issuer"):
        await world.services.issuers.remove(root.key_id, actor=ADMIN)


async def test_a_removed_issuer_is_on_its_roots_list_and_its_key_is_gone(world: World) -> None:
    """Its last lists stay until its last certificate ends, its certificates are refused, and no
    trace of its private key is left in the store.
    """
    agent = await world.enrol()
    stale = Agent(**{f: getattr(agent, f) for f in agent.__dataclass_fields__})
    old = await signing(world)
    new = (await replace(world, now=True)).key_id
    await until_state(world, new, "active")
    agent = await renewed(world, agent)
    gone = await world.services.issuers.remove(old, actor=ADMIN)
    assert (gone.state, gone.life.reason) == ("removed", "superseded")
    (root,) = [each for each in await world.services.issuers.list() if each.role == "root"]
    serial = certificate_from_der(stale.chain[1]).serial_number
    async with asyncio.timeout(5):
        while the_list(world, root.key_id).reason_for(serial) != "superseded":
            await asyncio.sleep(0.02)
    # The last list of the issuer outlives what it has signed.
    longest = certificate_from_der(stale.chain[0]).not_valid_after_utc
    assert the_list(world, old).next_update >= longest
    assert gone.lists_until == the_list(world, old).next_update
    async with stale.connected() as caller:
        answer = await caller.post("/agent/v1/renew", b"")
    assert answer.status == 401
    assert "revoked" in answer.json["detail"]
    name = certificate_from_der(stale.chain[0]).issuer.rfc4514_string()
    with pytest.raises(NotAuthenticated, match="revoked"):
        world.services.operators.authenticate(ADMIN.spiffe_id, 1, issuer_name=name)
    async with agent.connected() as caller:
        await caller.renew(build_request(generate_key()))
    # Once more changes nothing, and after a restart it is as it was.
    await world.services.issuers.remove(old, actor=ADMIN)
    await world.stop()
    with contextlib.closing(sqlite3.connect(world.settings.database)) as connection, connection:
        keys = connection.execute("SELECT id FROM keys").fetchall()
    assert old not in [key for (key,) in keys]
    await world.start()
    assert (await world.services.issuers.get(old)).state == "removed"
    assert the_list(world, old).next_update == gone.lists_until
    assert await signing(world) == new


async def test_the_last_lists_leave_when_nobody_can_need_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all that it has signed has expired, they are neither served nor in the feed."""
    old = await signing(world)
    new = (await replace(world, now=True)).key_id
    await until_state(world, new, "active")
    key = generate_key()
    await world.services.operators.renew(build_request(key), actor=ADMIN)
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Conflict):
                gone = await world.services.issuers.remove(old, actor=ADMIN)
                break
            await asyncio.sleep(0.05)
    assert gone.lists_until is not None
    later = gone.lists_until + timedelta(seconds=1)
    monkeypatch.setattr(world.authority.services.issuers._steps, "_clock", At(later))
    await world.services.issuers.advance()
    with pytest.raises(NotFound):
        world.services.status.crl(old, 0)
    assert (await world.services.issuers.get(old)).lists_until is None


class At:
    """A clock that stands still."""

    def __init__(self, at) -> None:
        self._at = at

    def now(self):
        return self._at


async def test_revoking_an_issuer_needs_a_second_operator(world: World) -> None:
    """Who asks for it cannot agree to it; nothing has happened until someone does."""
    await world.enrol()
    old = await signing(world)
    scope = IssuerScope(key_id=old)
    with pytest.raises(NotFound, match="no issuing CA"):
        await world.services.revocations.preview(
            IssuerScope(key_id="00" * 20), reason="cACompromise"
        )
    preview = await world.services.revocations.preview(scope, reason="cACompromise")
    assert (preview.count, preview.second_operator) == (3, True)
    asked = await world.services.revocations.revoke(scope, reason="cACompromise", actor=ADMIN)
    assert isinstance(asked, RevocationRequest)
    with pytest.raises(NotPermitted, match="cannot agree"):
        await world.services.revocations.approve(asked.id, actor=ADMIN)
    assert (await world.services.issuers.get(old)).state == "active"
    await world.services.revocations.approve(asked.id, actor=SECOND)
    assert (await world.services.issuers.get(old)).state == "tainted"
    # Again, there is nothing left to agree to.
    again = await world.services.revocations.revoke(scope, reason="cACompromise", actor=ADMIN)
    assert not isinstance(again, RevocationRequest)
    assert again.count == 0


async def test_what_cannot_be_revoked_as_an_issuer_is_refused(world: World) -> None:
    """Neither a root, nor one that nobody knows, nor with a reason that can be taken back."""
    revocations = world.services.revocations
    (root,) = [each for each in await world.services.issuers.list() if each.role == "root"]
    for unknown in ("00" * 20, root.key_id):
        with pytest.raises(NotFound, match="no issuing CA"):
            await revocations.revoke(
                IssuerScope(key_id=unknown), reason="cACompromise", actor=ADMIN
            )
    with pytest.raises(InvalidInput, match="on hold"):
        await revocations.revoke(IssuerScope(key_id=await signing(world)), reason=HOLD, actor=ADMIN)


async def test_a_tainted_issuer_never_signs_again(world: World) -> None:
    """From the moment on that two operators agree another one signs, after a restart as well."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    old = await signing(world)
    async with in_step(agent) as follower:
        await revoke(world, old)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(Refused):  # nobody signs for a moment
                    (result,) = await follower.caller.issue(
                        (entry.id, build_request(generate_key()))
                    )
                    break
        record = await world.services.certificates.get(certificate_of(result).serial_number)
        assert record.issuer != old
    with pytest.raises(Conflict, match="never signs again"):
        await world.services.issuers.activate(old, now=True, actor=ADMIN)
    await world.stop()
    await world.start()
    assert await signing(world) == record.issuer
    assert (await world.services.issuers.get(old)).state == "tainted"


async def test_the_store_refuses_what_a_tainted_issuer_signs(world: World) -> None:
    """Whatever the rest of the authority believes: nothing of it is recorded, so none leaves."""
    old = await signing(world)
    certifier = world.authority.services.issuers._certifier
    issuer, serials = certifier.issuer, certifier._signing.serials
    new = (await replace(world, now=True)).key_id
    await until_state(world, new, "active")
    certifier.sign_with(issuer, serials)
    with pytest.raises(Unavailable, match=f"{old} signs no more"):
        await world.services.operators.renew(build_request(generate_key()), actor=ADMIN)
    with pytest.raises(Unavailable, match="signs no more"):
        await world.authority.serving.renew()


async def test_an_incident_does_not_wait_for_those_who_are_away(world: World) -> None:
    """It waits for who is connected, and for them a bounded time."""
    await world.enrol("away")
    old = await signing(world)
    await revoke(world, old)
    async with asyncio.timeout(10):
        while "active" not in await issuers(world):
            await asyncio.sleep(0.02)
    assert await signing(world) != old


async def test_an_incident_waits_for_those_who_are_there_so_long_and_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that is connected and does not follow holds the new issuer up for a while only."""
    agent = await world.enrol()
    old = await signing(world)
    async with following(agent) as follower:
        await follower.acknowledge(0)
        await revoke(world, old)
        async with asyncio.timeout(5):
            while "published" not in await issuers(world):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        assert "active" not in await issuers(world)
        monkeypatch.setattr(changes, "INCIDENT_WAIT", timedelta(0))
        await world.services.issuers.advance()
        assert "active" in await issuers(world)


async def test_at_once_it_goes_whoever_needs_it(world: World) -> None:
    """Removed as soon as another signs, with an agent shut out that holds one of its own."""
    agent = await world.enrol()
    old = await signing(world)
    async with following(agent) as follower:
        keeping_up = asyncio.create_task(follower.keep_up())
        await revoke(world, old, at_once=True)
        removed = await until_state(world, old, "removed")
        assert removed.life.reason == "cACompromise"
        await keeping_up
    assert follower.stream.problem is not None
    assert "revoked" in follower.stream.problem.message
    assert follower.stream.problem.code == "not_authenticated"


async def test_a_crash_between_two_steps_is_gone_on_with(tmp_path: Path) -> None:
    """Whatever is on record when the authority ends, the next one takes up: a tainted issuer
    without a successor has one before anyone is served.
    """
    settings = settings_for(tmp_path)
    await begin(settings)
    async with running(settings, new=False) as world:
        old = await signing(world)
    with contextlib.closing(sqlite3.connect(settings.database)) as connection, connection:
        connection.execute(
            "UPDATE issuers SET state = 'tainted', reason = 'cACompromise' WHERE key_id = ?", (old,)
        )
    async with running(settings, new=False) as world:
        new = await signing(world)
        assert new != old
        assert (await issuers(world))["tainted"].key_id == old
        record = await world.services.certificates.get(world.authority.serving.credentials.serial)
        assert record.issuer == new
    # Prepared, and then the authority ended: it is published and signs.
    async with running(settings, new=False) as world:
        issuing = world.services.issuers
        async with issuing._turn:
            prepared = await issuing._steps.prepare(str(ADMIN.spiffe_id), rate=None, now=False)
    async with running(settings, new=False) as world:
        await until_state(world, prepared.key_id, "active")


async def test_a_store_of_before_has_an_issuer_that_signs(tmp_path: Path) -> None:
    """Brought up to date, its root and its issuer are active, as they always were."""
    path = tmp_path / "authority.db"
    scripts = list(takewhile(lambda script: "removed_issuers" not in script, migrations()))
    with contextlib.closing(open_database(path, scripts=scripts)) as connection:
        for name in ("root", "issuing"):
            connection.execute("INSERT INTO keys VALUES (?, ?, 'ec-p256', x'00', 0)", (name, name))
            connection.execute("INSERT INTO issuers VALUES (?, ?, ?, x'00', 0)", (name,) * 3)
    store = await SQLiteStore.open(path)
    try:
        found = await store.issuers()
        assert [(each.role, each.life) for each in found] == [
            ("root", IssuerLife()),
            ("issuing", IssuerLife()),
        ]
        assert await store.removed_issuers() == []
    finally:
        await store.close()


async def test_the_last_issuer_is_not_removed(tmp_path: Path) -> None:
    """A tainted one stays until another signs, however little it is needed; and readiness says
    that nobody is certified meanwhile.
    """
    async with running(settings_for(tmp_path)) as world:
        old = await signing(world)
        issuing = world.services.issuers
        async with issuing._turn:  # whatever goes on by itself comes after who is in line first
            removing = asyncio.create_task(issuing.remove(old, actor=ADMIN))
            await asyncio.sleep(0)
            await revoke(world, old)
            issuing._certifier.stop()
            ready, parts = world.services.status.ready()
            assert (ready, "no issuer may sign" in parts["issuer"]) == (False, True)
        with pytest.raises(Conflict, match="no other issuer signs yet"):
            await removing
        await issuing.advance()
        assert "active" in await issuers(world)
        assert world.services.status.ready()[0]


async def test_a_retiring_issuer_still_answers_for_what_it_has_signed(world: World) -> None:
    """Its OCSP responder and its lists go on until it is removed."""
    agent = await world.enrol()
    old = await signing(world)
    new = (await replace(world, now=True)).key_id
    await until_state(world, new, "active")
    ocsp = world.authority.ocsp
    assert ocsp is not None
    name = ocsp._responders.name_of(old, hash_name="sha256", serial=agent.serial)
    assert isinstance(name, CertificateID)
    held = await ocsp.response(old, name)
    assert held is not None
    await world.services.revocations.revoke_serial(
        agent.serial, reason="keyCompromise", actor=ADMIN
    )
    async with asyncio.timeout(5):
        while agent.serial not in the_list(world, old).entries:
            await asyncio.sleep(0.02)
