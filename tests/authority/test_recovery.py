"""What agents bring back to an authority that was restored from an old copy."""

import asyncio
import contextlib
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from legation.agent.wiring import Agent as RunningAgent
from legation.agent.wiring import AgentSettings
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.model import RECOVERED
from legation.authority.revoking.recovery import Recovery
from legation.authority.revoking.scopes import HOLD, KeyScope, SerialScope
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import restore
from legation.clock import SystemClock
from legation.errors import NotAuthenticated
from legation.pki import PrivateKey, SpiffeID, build_request, generate_key
from legation.wire.agent_calls import KEPT_PATH, MAX_KEPT
from legation.wire.feed import FeedEvent, FeedSigner, Kind, PageRow, RevocationPage
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import (
    ADMIN,
    KEK,
    Agent,
    Caller,
    World,
    certificate_of,
    running,
    settings_for,
)
from tests.support.issuers import issuers, revoke, signing, until_state
from tests.support.rest_server import Answer

API = "spiffe://example.org/api"
BAD = SpiffeID.parse("spiffe://example.org/bad")
HOUR_MS = 3_600_000


def back_up(settings: AuthoritySettings, copy: Path) -> Path:
    """Copy the store as the documentation says."""
    with contextlib.closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


@dataclass
class Lost:
    """What an authority did after the copy that it is restored from, and who knows of it."""

    agent: Agent
    settings: AuthoritySettings
    copy: Path
    kept: list[pb.Event]

    @contextlib.asynccontextmanager
    async def restored(self) -> AsyncIterator[tuple[World, Caller]]:
        """Run the authority from its copy, with the agent connected."""
        await restore(self.settings, clock=SystemClock(), kek=KEK, copy=self.copy)
        async with running(self.settings, new=False) as world:
            self.agent.port = world.api.port
            async with self.agent.connected() as caller:
                yield world, caller


async def refusals(world: World, agent: Agent) -> list[pb.Event]:
    """Return the signed events that refuse someone, as an agent has them."""
    found = []
    async with agent.connected() as caller:
        stream = await caller.sync()
        while True:
            part = await stream.events()
            assert not part.pages
            for event in part.events:
                known = FeedEvent.from_bytes(event.body)
                if known.value and known.kind in {Kind.REVOCATION, Kind.BAN, Kind.KEY_BAN}:
                    found.append(event)
            if part.complete:
                return found


@contextlib.asynccontextmanager
async def losing(tmp_path: Path) -> AsyncIterator[tuple[World, Lost]]:
    """Run an authority of which there is a copy; what follows in the body will be lost."""
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        agent = await world.enrol()
        copy = back_up(settings, tmp_path / "copy")
        lost = Lost(agent=agent, settings=settings, copy=copy, kept=[])
        yield world, lost
        lost.kept = lost.kept or await refusals(world, agent)


async def tell(caller: Caller, events: Sequence[pb.Event], **more: object) -> Answer:
    message = pb.Events(events=events, **more)  # type: ignore[arg-type] # fields of Events
    return await caller.post(KEPT_PATH, message.SerializeToString())


def fingerprint_of(key: PrivateKey) -> bytes:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def recorded(answer: Answer) -> int:
    assert answer.status == 200, answer.body
    return pb.KeptResponse.FromString(answer.body).recorded


async def entries(world: World) -> list[dict[str, object]]:
    """Return the details of the audit entries about what was brought back."""
    found = await world.services.audit.read(after=0, limit=1000)
    return [dict(each.detail) for each in found if each.action == "revocation.recover"]


async def test_a_revocation_is_on_record_again(tmp_path: Path) -> None:
    """Of a certificate that the copy knows, and of one that was issued after it: both are on the
    list again, with their reason and time, once, and the audit log says who brought them.
    """
    async with losing(tmp_path) as (world, lost):
        entry = await world.entry(lost.agent)
        async with lost.agent.connected() as caller:
            (issued,) = await caller.issue((entry.id, build_request(generate_key())))
        later, known = certificate_of(issued).serial_number, (await world.enrol("two")).serial
        for serial in (later, known):
            await world.services.revocations.revoke_serial(
                serial, reason="keyCompromise", actor=ADMIN
            )
        before = await world.services.certificates.get(known)
    async with lost.restored() as (world, caller):
        assert recorded(await tell(caller, lost.kept)) == 2
        assert recorded(await tell(caller, lost.kept)) == 0
        held = await world.services.certificates.get(later)
        assert (held.profile, held.spiffe_id, held.der) == (RECOVERED, API, b"")
        row = await world.services.certificates.get(known)
        assert (row.reason, row.revoked_at) == ("keyCompromise", before.revoked_at)
        issuer = await signing(world)
        store = world.authority.services.certificates._store
        listed = await store.revoked(issuer, 0, unexpired_at=world.clock.now())
        assert {row.serial for row in listed} == {later, known}
        ocsp = world.authority.ocsp
        assert ocsp is not None
        name = ocsp._responders.name_of(issuer, hash_name="sha256", serial=later)
        answered = await ocsp.response(issuer, name)
        assert answered is not None
        assert answered.known.reason == "keyCompromise"
        admin = world.connect(world.admin)
        shown = (await admin.ask("GET", f"/v1/certificates/{later:x}")).json
        assert (shown["state"], shown["pem"]) == ("revoked", "")
        (told,) = await entries(world)
        assert sorted(told["serials"]) == sorted(f"{serial:x}" for serial in (later, known))


async def test_a_banned_key_is_never_certified_again(tmp_path: Path) -> None:
    """Although the copy does not know that it was banned."""
    key = generate_key()
    async with losing(tmp_path) as (world, lost):
        asked = await world.services.revocations.revoke(
            KeyScope(fingerprint=fingerprint_of(key)), reason="keyCompromise", actor=ADMIN
        )
        assert asked.revision > 0
    async with lost.restored() as (world, caller):
        entry = await world.entry(lost.agent)
        (before,) = await caller.issue((entry.id, build_request(key)))
        assert before.WhichOneof("outcome") == "certificate"
        assert recorded(await tell(caller, lost.kept)) == 1
        (after,) = await caller.issue((entry.id, build_request(key)))
        assert "key_banned" in after.problem.message
        assert [each.fingerprint for each in await world.services.revocations.banned_keys()] == [
            fingerprint_of(key)
        ]


async def test_a_ban_of_the_lost_time_counts_once(tmp_path: Path) -> None:
    """It comes back; and who lifts it has lifted it, whatever an agent repeats."""
    async with losing(tmp_path) as (world, lost):
        await world.services.revocations.revoke_identity(
            BAD, reason="unspecified", ban=True, actor=ADMIN
        )
    async with lost.restored() as (world, caller):
        assert recorded(await tell(caller, lost.kept)) == 1
        assert [ban.spiffe_id for ban in world.services.revocations.bans()] == [str(BAD)]
        await world.services.revocations.lift(BAD, actor=ADMIN)
        assert recorded(await tell(caller, lost.kept)) == 0
        with sqlite3.connect(lost.settings.database) as connection:
            connection.execute("DELETE FROM events WHERE kind = 'ban'")  # as compaction does
        assert recorded(await tell(caller, lost.kept)) == 0
        assert list(world.services.revocations.bans()) == []


async def test_without_a_restore_nothing_that_was_taken_back_returns(world: World) -> None:
    """An agent that repeats a lifted ban, or a hold that was released, is not listened to."""
    agent, other = await world.enrol(), await world.enrol("two")
    revocations = world.services.revocations
    await revocations.revoke_identity(BAD, reason="unspecified", ban=True, actor=ADMIN)
    await revocations.revoke_serial(other.serial, reason=HOLD, actor=ADMIN)
    kept = await refusals(world, agent)
    assert len(kept) == 2
    await revocations.lift(BAD, actor=ADMIN)
    await revocations.release(SerialScope(serial=other.serial), actor=ADMIN)
    async with agent.connected() as caller:
        assert recorded(await tell(caller, kept)) == 0
    assert list(revocations.bans()) == []
    assert (await world.services.certificates.get(other.serial)).revoked_at is None


async def test_an_issuer_that_was_revoked_signs_no_more(tmp_path: Path) -> None:
    """The copy has it as the one that signs; its own revocation ends that, and its certificates."""
    async with losing(tmp_path) as (world, lost):
        old = await signing(world)
        await revoke(world, old, at_once=True)
        await until_state(world, old, "removed")
        # That agent's own certificate is of the issuer, so it cannot ask any more.
        lost.kept = [
            pb.Event(body=row.signed.body, signature=row.signed.signature)
            for row in await world.authority.services.certificates._store.events_after(0, limit=999)
            if row.event.kind is Kind.REVOCATION and row.event.value
        ]
    async with lost.restored() as (world, caller):
        assert await signing(world) == old
        assert recorded(await tell(caller, lost.kept)) == 1
        await until_state(world, old, "removed")
        assert (await issuers(world))["active"].key_id != old


def forged(kind: Kind, key: str, value: dict[str, str]) -> pb.Event:
    """Return an event that somebody else has signed."""
    signer = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
    signed = signer.sign(FeedEvent(revision=5, time_ms=0, kind=kind, key=key, value=value))
    return pb.Event(body=signed.body, signature=signed.signature)


async def test_no_agent_can_revoke_what_it_likes(world: World) -> None:
    """Only what this authority has signed counts, and with one forged event nothing does."""
    agent, other = await world.enrol(), await world.enrol("two")
    row = {
        "serial": f"{other.serial:x}",
        "spiffe_id": str(other.spiffe_id),
        "issuer": await signing(world),
        "reason": "keyCompromise",
        "revoked_at": "2026-01-01T00:00:00.000Z",
        "expires_at": "2036-01-01T00:00:00.000Z",
    }
    ban = {"spiffe_id": str(BAD), "reason": "x", "since": "2026-01-01T00:00:00.000Z"}
    async with agent.connected() as caller:
        for event in (
            forged(Kind.REVOCATION, row["serial"], row),
            forged(Kind.BAN, str(BAD), ban),
        ):
            answer = await tell(caller, [event])
            assert (answer.status, answer.json["code"]) == (401, "not_authenticated")
        other_kind = forged(Kind.POLICY, "p", {"x": "y"})
        answer = await tell(caller, [other_kind])
        assert (answer.status, answer.json["code"]) == (400, "invalid_input")
        answer = await tell(caller, [other_kind] * (MAX_KEPT + 1))
        assert answer.json["code"] == "limit_exceeded"
        page = pb.RevocationPage(document=b"legation-revocation-page-1\n", signature=bytes(64))
        answer = await tell(caller, [], pages=[page])
        assert answer.json["code"] == "not_authenticated"
    assert not (await world.services.certificates.get(other.serial)).is_revoked
    assert await entries(world) == []


async def test_pages_are_taken_like_events(tmp_path: Path) -> None:
    """What agents hold in pages, of certificates that have not expired; signed by the feed key."""
    signer, stranger = (FeedSigner(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    async with running(settings_for(tmp_path)) as world:
        agent = await world.enrol()
        now, issuer = world.clock.now(), await signing(world)
        rows = [
            PageRow(
                serial=agent.serial + number,
                spiffe_id=API,
                issuer=issuer,
                reason="keyCompromise",
                revoked_ms=round(now.timestamp() * 1000) - 5000,
                expires_ms=round(now.timestamp() * 1000) + ends,
            )
            for number, ends in ((1, HOUR_MS), (2, HOUR_MS), (3, -1000))
        ]
        document = RevocationPage.make(rows).document
        services = world.authority.services
        recovery = Recovery(
            services.certificates._store,
            services.entries._hub,
            feed_keys=(signer.public_key,),
            clock=world.clock,
            actor="spiffe://example.org/legation/authority",
            tainted=lambda: None,
        )
        caller = AgentCaller(spiffe_id=agent.spiffe_id, serial=agent.serial)
        with pytest.raises(NotAuthenticated):
            await recovery.take(caller, [], [(document, stranger.sign_document(document))])
        signed = (document, signer.sign_document(document))
        assert await recovery.take(caller, [], [signed]) == 2
        assert await recovery.take(caller, [], [signed]) == 0
        for number, refused in ((1, True), (2, True), (3, False)):
            known = agent.serial + number in services.entries._hub.state.revocations
            assert known is refused


async def test_an_agent_brings_back_what_it_knows(tmp_path: Path, short_path: Path) -> None:
    """A running agent, cut off from the authority and connected to the restored one: it tells by
    itself, and whoever joins later knows as well.
    """
    settings = settings_for(tmp_path)
    async with running(settings) as world:
        its = AgentSettings(
            data_dir=tmp_path / "agent",
            socket=short_path / "agent.sock",
            enrolment=await world.invitation(),
        )
        async with await RunningAgent.open(its) as agent:
            copy = back_up(settings, tmp_path / "copy")
            bad = await world.enrol("bad")
            await world.services.revocations.revoke(
                KeyScope(fingerprint=fingerprint_of(bad.key)), reason="keyCompromise", actor=ADMIN
            )
            revocations = world.services.revocations
            await revocations.revoke_identity(BAD, reason="unspecified", ban=True, actor=ADMIN)
            await until(lambda: bool(agent.identities.state.bans))
            await world.stop()
            await restore(settings, clock=SystemClock(), kek=KEK, copy=copy)
            await world.start()
            feed = world.services.entries._hub
            assert not feed.state.bans
            await until(lambda: bool(feed.state.bans and feed.state.key_bans))
            assert bad.serial in feed.state.revocations
            await until(lambda: bool(agent.identities.state.bans))
            joined = await world.enrol("later")
            kinds = {FeedEvent.from_bytes(e.body).kind for e in await refusals(world, joined)}
            assert kinds == {Kind.REVOCATION, Kind.BAN, Kind.KEY_BAN}
            (told,) = await entries(world)
            assert (told["banned"], told["serials"]) == ([str(BAD)], [f"{bad.serial:x}"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)
