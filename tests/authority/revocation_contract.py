"""What every store promises about revocations of many certificates, holds and banned keys."""

import dataclasses
import hashlib
from datetime import timedelta
from typing import Any

import pytest

from legation.authority.model import JoinToken, Operator, Role
from legation.authority.revoking.scopes import (
    HOLD,
    AgentScope,
    IdentityScope,
    JoinTokenScope,
    KeyScope,
    PatternScope,
    RequestState,
    RevocationRequest,
    Scope,
    SerialScope,
)
from legation.authority.store import (
    BegunRevocation,
    CommittedEvent,
    EnrolledAgent,
    Issuance,
    JoinTokenUse,
    Requester,
    Store,
)
from legation.causes import Cause
from legation.errors import Conflict, NotFound, NotPermitted
from legation.pki.spiffe_id import SpiffeID
from legation.policy import SpiffeIDPattern
from legation.wire.feed import Kind
from tests.authority import store_contract
from tests.authority.store_contract import ADMIN, API, HOUR, NOW, StoreFixtures, audit

AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/two")
WEB = "spiffe://example.org/ns/prod/web"
OTHER = "spiffe://example.org/legation/agent/other"
BOB = "spiffe://example.org/legation/operator/bob"
X = Requester(spiffe_id="x")


def asked_for_by(requester: str, spiffe_id: str = API, **changes: Any) -> Issuance:
    """Return a certificate that `requester` has asked for."""
    item = store_contract.issuance(spiffe_id)
    return dataclasses.replace(
        item, record=dataclasses.replace(item.record, requester=requester, **changes)
    )


def issuance(spiffe_id: str = API) -> Issuance:
    """Return a certificate that the agent of these tests has asked for."""
    return asked_for_by(str(AGENT), spiffe_id)


def token() -> tuple[JoinToken, bytes]:
    """Return a join token for the agent of these tests, and the digest of its secret."""
    return store_contract.token(AGENT)


def request(scope: Scope, reason: str = "keyCompromise", **changes: Any) -> RevocationRequest:
    """Return a revocation as a service asks for it."""
    fields = {
        "id": hashlib.sha256(f"{scope}{reason}{changes}".encode()).hexdigest()[:16],
        "scope": scope,
        "reason": reason,
        "requested_by": str(ADMIN),
        "requested_at": NOW,
        "expires_at": NOW + HOUR,
        "state": RequestState.RUNNING,
        "count": 0,
    }
    return RevocationRequest(**{**fields, **changes})


async def begin(
    store: Store, scope: Scope, reason: str = "keyCompromise", *, most: int = 100, **changes: Any
) -> BegunRevocation:
    """Begin a revocation that needs nobody else."""
    begun = await store.begin_revocation(
        request(scope, reason, **changes),
        ask_above=None,
        most=most,
        audit=audit("revocation.create"),
    )
    assert isinstance(begun, BegunRevocation)
    return begun


async def ask(store: Store, scope: Scope) -> RevocationRequest:
    """Ask for a revocation that someone else has to agree to."""
    asked = await store.begin_revocation(
        request(scope), ask_above=0, most=100, audit=audit("revocation.create")
    )
    assert isinstance(asked, RevocationRequest)
    return asked


def pattern(text: str, before: timedelta = timedelta()) -> PatternScope:
    """Return the scope of a pattern."""
    return PatternScope(pattern=SpiffeIDPattern.parse(text), before=NOW - before)


class RevocationContract(StoreFixtures):
    """The tests."""

    async def revoked(self, store: Store, *items: Issuance) -> list[bool]:
        rows = [await store.certificate(item.record.serial) for item in items]
        return [row.revoked_at is not None for row in rows]

    async def test_an_agent_goes_with_everything_behind_it(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """One transaction: ban, its own and all that it asked for, its unused join tokens."""
        own, mine = asked_for_by(str(AGENT), str(AGENT)), asked_for_by(str(AGENT), WEB)
        theirs, other = asked_for_by(OTHER, API), asked_for_by(OTHER, OTHER)
        await begun.record_issuance([own, mine, theirs, other], requester=X)
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        begun_now = await begin(begun, AgentScope(agent=AGENT))
        assert await self.revoked(begun, own, mine, theirs, other) == [True, True, False, False]
        assert (begun_now.request.count, begun_now.left) == (2, ())
        assert begun_now.request.state is RequestState.DONE
        assert begun_now.outcome.banned == str(AGENT)
        kinds = [committed.event.kind for committed in delivered]
        assert kinds == [Kind.BAN, Kind.REVOCATION, Kind.REVOCATION]
        assert begun_now.outcome.revision == delivered[-1].event.revision
        assert await begun.tokens() == []
        (entry,) = await begun.audit_entries(after=await begun.audit_size() - 1, limit=9)
        assert (entry.action, entry.subject) == ("revocation.create", str(AGENT))
        serials = [format(item.record.serial, "x") for item in (own, mine)]
        assert (entry.detail["count"], entry.detail["serials"]) == (2, serials)
        assert (entry.detail["tokens"], entry.detail["banned"]) == (1, str(AGENT))
        assert await begun.revocation_requests(at=NOW) == []

    async def test_an_agent_that_is_shut_out_does_not_come_back(self, begun: Store) -> None:
        """Neither for certificates nor to join, until the ban is lifted."""
        await begin(begun, AgentScope(agent=AGENT))
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())

        async def join() -> None:
            await begun.enrol(
                EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence=f"join-token {row.id}"),
                issuance(str(AGENT)),
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit(),
            )

        with pytest.raises(NotPermitted, match="is banned"):
            await join()
        await begun.lift_ban(str(AGENT), at=NOW, audit=audit())
        await join()

    async def test_the_same_again_changes_nothing(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """No event, no audit entry, and the newest revision, which has it all."""
        await begun.record_issuance([issuance()], requester=X)
        first = await begin(begun, AgentScope(agent=AGENT))
        size, seen = await begun.audit_size(), len(delivered)
        again = await begin(begun, AgentScope(agent=AGENT))
        assert (again.outcome.count, again.outcome.revoked) == (0, ())
        assert again.outcome.revision == first.outcome.revision
        assert (await begun.audit_size(), len(delivered)) == (size, seen)

    async def test_what_a_join_token_let_in_goes(self, begun: Store) -> None:
        """The agent, even if it came again with another token, and what it asked for."""
        for _ in range(2):
            row, digest = token()
            await begun.create_token(row, digest=digest, audit=audit())
            await begun.enrol(
                EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence=f"join-token {row.id}"),
                issuance(str(AGENT)),
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit(),
            )
        first, _ = sorted(known.id for known in await begun.tokens())
        mine, theirs = asked_for_by(str(AGENT)), asked_for_by(OTHER)
        await begun.record_issuance([mine, theirs], requester=X)
        done = await begin(begun, JoinTokenScope(token=first))
        assert (done.request.count, done.outcome.banned) == (3, str(AGENT))
        assert await self.revoked(begun, mine, theirs) == [True, False]

    async def test_an_unused_join_token_just_goes(self, begun: Store) -> None:
        """Nobody is banned; a token that nobody knows is not found."""
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        done = await begin(begun, JoinTokenScope(token=row.id))
        assert (done.outcome.banned, done.outcome.count, await begun.tokens()) == (None, 0, [])
        with pytest.raises(NotFound, match="no join token with this id"):
            await begin(begun, JoinTokenScope(token=row.id))

    async def test_a_key_is_never_certified_again(self, begun: Store) -> None:
        """By no path: not for an agent, not at enrolment, not for an operator."""
        old = issuance()
        await begun.record_issuance([old], requester=X)
        key = old.record.key_fingerprint
        done = await begin(begun, KeyScope(fingerprint=key))
        assert (done.outcome.count, done.outcome.key) == (1, key.hex())
        assert await self.revoked(begun, old) == [True]
        bad, good = issuance(), issuance(WEB)
        refused = await begun.record_issuance([bad, good], requester=X)
        assert set(refused) == {bad.record.serial}
        assert refused[bad.record.serial].message.startswith(f"{Cause.KEY_BANNED}: the key ")
        assert refused[bad.record.serial].remedy == Cause.KEY_BANNED.remedy
        operator = Operator(spiffe_id=SpiffeID.parse(BOB), role=Role.VIEWER, created_at=NOW)
        certified = asked_for_by(str(ADMIN), BOB, key_fingerprint=key)
        with pytest.raises(NotPermitted, match=Cause.KEY_BANNED):
            await begun.certify_operator(operator, certified, audit=audit())
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        with pytest.raises(NotPermitted, match=Cause.KEY_BANNED):
            await begun.enrol(
                EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence=f"join-token {row.id}"),
                asked_for_by(str(AGENT), str(AGENT), key_fingerprint=key),
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit(),
            )
        assert [known.used_at for known in await begun.tokens()] == [None]
        (banned,) = await begun.banned_keys()
        assert (banned.fingerprint, banned.reason, banned.since) == (key, "keyCompromise", NOW)

    async def test_a_key_that_nobody_has_can_be_banned(self, begun: Store) -> None:
        """It is refused when it comes; banned twice it is banned once."""
        key = hashlib.sha256(b"leaked").digest()
        await begin(begun, KeyScope(fingerprint=key))
        size = await begun.audit_size()
        await begin(begun, KeyScope(fingerprint=key))
        assert (len(await begun.banned_keys()), await begun.audit_size()) == (1, size)
        assert await begun.record_issuance([asked_for_by("x", key_fingerprint=key)], requester=X)

    @pytest.mark.parametrize(
        ("text", "hit"),
        [
            ("spiffe://example.org/*", ["/a", "/ns/prod/api", "/ns/prod/api/1", "/ns/test/api"]),
            ("spiffe://example.org/ns/prod/*", ["/ns/prod/api", "/ns/prod/api/1"]),
            ("spiffe://example.org/ns/*/api", ["/ns/prod/api", "/ns/test/api"]),
            ("spiffe://example.org/ns/*/api/*", ["/ns/prod/api/1"]),
            ("spiffe://example.org/a", ["/a"]),
            ("spiffe://example.org/legation/agent/*", ["/legation/agent/one"]),
            ("spiffe://example.org/*/agent/*", []),
        ],
    )
    async def test_a_pattern_means_what_it_means_in_policies(
        self, begun: Store, text: str, hit: list[str]
    ) -> None:
        """Only that agents, operators and the authority have to be named by their prefix."""
        paths = ["/a", "/ns/prod/api", "/ns/prod/api/1", "/ns/test/api", "/legation/agent/one"]
        items = {path: issuance(f"spiffe://example.org{path}") for path in paths}
        foreign = issuance("spiffe://example.orgs/a")
        await begun.record_issuance([*items.values(), foreign], requester=X)
        await begin(begun, pattern(text))
        found = [path for path, item in items.items() if (await self.revoked(begun, item))[0]]
        assert found == hit
        assert await self.revoked(begun, foreign) == [False]

    async def test_what_was_issued_later_stays(self, begun: Store) -> None:
        """Before counts, the same moment does not; the expired are left alone; nobody is banned."""
        old = asked_for_by("x", not_before=NOW - HOUR)
        new = asked_for_by("x", not_before=NOW - timedelta(minutes=1))
        over = asked_for_by("x", not_before=NOW - HOUR, not_after=NOW - timedelta(seconds=1))
        await begun.record_issuance([old, new, over], requester=X)
        done = await begin(begun, pattern(API, before=timedelta(minutes=1)))
        assert await self.revoked(begun, old, new, over) == [True, False, False]
        assert (done.outcome.banned, done.outcome.count) == (None, 1)

    async def test_many_go_in_batches_with_one_audit_entry(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """The first transaction says how many; the rest follows, and survives a crash between."""
        items = [issuance() for _ in range(7)]
        await begun.record_issuance(items, requester=X)
        size = await begun.audit_size()
        first = await begin(begun, AgentScope(agent=AGENT), most=3)
        assert (first.outcome.count, first.request.count, len(first.left)) == (3, 7, 4)
        (entry,) = await begun.audit_entries(after=size, limit=9)
        assert (entry.detail["count"], entry.detail["request"]) == (7, first.request.id)
        assert "serials" not in entry.detail
        # As after a restart:
        ((unfinished, left),) = await begun.unfinished_revocations(at=NOW)
        assert (unfinished.state, tuple(left)) == (RequestState.RUNNING, first.left)
        await begun.go_on_revoking(unfinished.id, left[:3], last=False, at=NOW)
        done = await begun.go_on_revoking(unfinished.id, left[3:], last=True, at=NOW)
        assert all(await self.revoked(begun, *items))
        assert await begun.unfinished_revocations(at=NOW) == []
        (known,) = await begun.revocation_requests(at=NOW)
        assert (known.state, known.revision) == (RequestState.DONE, done.revision)
        assert done.revision == delivered[-1].event.revision
        assert await begun.audit_size() == size + 1

    async def test_what_comes_after_the_beginning_is_not_hit_by_the_rest(
        self, begun: Store
    ) -> None:
        """A re-issued certificate is younger than the revocation, whatever its notBefore says."""
        items = [issuance() for _ in range(3)]
        await begun.record_issuance(items, requester=X)
        await begin(begun, pattern(API), most=1)
        again = issuance()
        await begun.record_issuance([again], requester=X)
        ((unfinished, left),) = await begun.unfinished_revocations(at=NOW)
        await begun.go_on_revoking(unfinished.id, left, last=True, at=NOW)
        assert await self.revoked(begun, *items, again) == [True, True, True, False]

    async def test_a_preview_changes_nothing(self, begun: Store) -> None:
        """It says whose they are and who has asked, the newest first."""
        items = [issuance(), issuance(WEB), asked_for_by(OTHER)]
        await begun.record_issuance(items, requester=X)
        before = await begun.position(), await begun.audit_size()
        found, newest = await begun.preview_revocation(
            AgentScope(agent=AGENT), reason="keyCompromise", at=NOW, most=1
        )
        assert [(who, by) for _, who, by in found] == [(API, str(AGENT)), (WEB, str(AGENT))]
        assert list(newest) == [items[1].record]
        assert (await begun.position(), await begun.audit_size()) == before
        with pytest.raises(NotFound):
            await begun.preview_revocation(SerialScope(serial=1), reason=HOLD, at=NOW, most=1)
        # A slip in the name of a token must not look like a token that nobody has used.
        mistyped = JoinTokenScope(token="5f0c")
        with pytest.raises(NotFound, match="no join token"):
            await begun.preview_revocation(mistyped, reason="superseded", at=NOW, most=1)

    # A second operator

    async def test_a_large_one_waits_for_someone_else(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Nothing happens but the audit entry; asked again, the same request waits."""
        item = issuance()
        await begun.record_issuance([item], requester=X)
        asked = await ask(begun, AgentScope(agent=AGENT))
        assert (asked.state, asked.count) == (RequestState.PENDING, 1)
        assert (await self.revoked(begun, item), delivered) == ([False], [])
        entries = await begun.audit_entries(after=await begun.audit_size() - 1, limit=9)
        assert [(e.action, e.detail["count"]) for e in entries] == [("revocation.request", 1)]
        assert (await ask(begun, AgentScope(agent=AGENT))).id == asked.id
        assert [known.id for known in await begun.revocation_requests(at=NOW)] == [asked.id]

    async def test_someone_else_agrees(self, begun: Store) -> None:
        """Then it counts anew and is done; agreeing again changes nothing."""
        items = [issuance()]
        await begun.record_issuance(items, requester=X)
        asked = await ask(begun, AgentScope(agent=AGENT))
        items.append(issuance())
        await begun.record_issuance(items[1:], requester=X)

        async def agree(actor: str, moment: Any = NOW) -> Any:
            entry = dataclasses.replace(audit("revocation.approve"), actor=actor)
            return await begun.approve_revocation(asked.id, at=moment, most=100, audit=entry)

        with pytest.raises(NotPermitted, match="cannot agree to it") as refused:
            await agree(str(ADMIN))
        assert "second_operator_above" in (refused.value.remedy or "")
        done = await agree(BOB, NOW + timedelta(minutes=1))
        assert (done.request.count, done.outcome.count) == (2, 2)
        assert all(await self.revoked(begun, *items))
        again = await agree(BOB)
        assert (again.state, again.revision) == (RequestState.DONE, done.outcome.revision)
        assert (again.decided_by, again.requested_at) == (BOB, NOW)
        with pytest.raises(Conflict, match="has agreed to it already"):
            await agree(OTHER)
        (entry,) = await begun.audit_entries(after=await begun.audit_size() - 1, limit=9)
        assert (entry.action, entry.actor) == ("revocation.approve", BOB)
        assert (entry.detail["requested_by"], entry.detail["count"]) == (str(ADMIN), 2)

    @pytest.mark.parametrize("shut_out", [str(ADMIN), BOB])
    @pytest.mark.parametrize("how", ["banned", "disabled"])
    async def test_the_word_of_who_was_shut_out_counts_no_more(
        self, begun: Store, shut_out: str, how: str
    ) -> None:
        """Of who asked, and of who agrees: a stolen credential may have asked before its end."""
        item = issuance()
        await begun.record_issuance([item], requester=X)
        asked = await ask(begun, AgentScope(agent=AGENT))
        for name in (BOB, f"{BOB}by"):  # so that an administrator is left
            bob = Operator(spiffe_id=SpiffeID.parse(name), role=Role.ADMIN, created_at=NOW)
            await begun.certify_operator(bob, issuance(name), audit=audit())
        if how == "banned":
            await begun.revoke_identity(
                shut_out, reason="keyCompromise", ban=True, at=NOW, audit=audit()
            )
        else:
            await begun.disable_operator(shut_out, at=NOW, audit=audit())
        entry = dataclasses.replace(audit("revocation.approve"), actor=BOB)
        with pytest.raises(Conflict, match=f"{shut_out} was shut out"):
            await begun.approve_revocation(asked.id, at=NOW, most=9, audit=entry)
        assert await self.revoked(begun, item) == [False]

    async def test_it_is_turned_down_or_too_late(self, begun: Store) -> None:
        """Neither can be agreed to any more, and an unknown one is not found."""
        note = dataclasses.replace(audit("revocation.reject"), actor=BOB)

        async def agree(request_id: str, moment: Any = NOW) -> Any:
            return await begun.approve_revocation(request_id, at=moment, most=9, audit=note)

        await begun.record_issuance([issuance(), issuance(WEB)], requester=X)
        asked = await ask(begun, AgentScope(agent=AGENT))
        for _ in range(2):
            rejected = await begun.reject_revocation(asked.id, at=NOW, audit=note)
            assert (rejected.state, rejected.decided_by) == (RequestState.REJECTED, BOB)
        with pytest.raises(Conflict, match="is rejected"):
            await agree(asked.id)
        late = await ask(begun, pattern("spiffe://example.org/*"))
        with pytest.raises(Conflict, match="is expired"):
            await agree(late.id, NOW + HOUR)
        with pytest.raises(Conflict, match="is expired"):
            await begun.reject_revocation(late.id, at=NOW + HOUR, audit=note)
        with pytest.raises(NotFound):
            await agree("0" * 16)

    # Holds

    async def test_what_is_on_hold_is_released(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """The event deletes the revocation; the ban that was a hold goes as well."""
        item = issuance()
        await begun.record_issuance([item], requester=X)
        await begun.revoke_identity(API, reason=HOLD, ban=True, at=NOW, audit=audit())
        scope = IdentityScope(spiffe_id=SpiffeID.parse(API), ban=False)
        delivered.clear()
        outcome, more = await begun.release_held(scope, most=9, at=NOW, audit=audit())
        assert (outcome.count, outcome.banned, more) == (1, API, False)
        assert await self.revoked(begun, item) == [False]
        told = [(event.event.kind, event.event.key, event.event.value) for event in delivered]
        serial = format(item.record.serial, "x")
        assert told == [(Kind.BAN, API, None), (Kind.REVOCATION, serial, None)]
        assert await begun.revoked("aa", 0, unexpired_at=NOW) == []
        size = await begun.audit_size()
        again, _ = await begun.release_held(scope, most=9, at=NOW, audit=audit())
        assert (again.count, again.banned, await begun.audit_size()) == (0, None, size)

    async def test_only_a_hold_is_released(self, begun: Store) -> None:
        """What is revoked for good stays so, by serial with an error; so does its ban."""
        item = issuance()
        await begun.record_issuance([item], requester=X)
        await begun.revoke_identity(API, reason="superseded", ban=True, at=NOW, audit=audit())
        with pytest.raises(Conflict, match="revoked for good: superseded"):
            await begun.release_held(
                SerialScope(serial=item.record.serial), most=9, at=NOW, audit=audit()
            )
        scope = IdentityScope(spiffe_id=SpiffeID.parse(API), ban=False)
        outcome, _ = await begun.release_held(scope, most=9, at=NOW, audit=audit())
        assert (outcome.count, outcome.banned) == (0, None)
        assert await self.revoked(begun, item) == [True]
        with pytest.raises(NotFound):
            await begun.release_held(SerialScope(serial=1), most=9, at=NOW, audit=audit())

    async def test_a_hold_becomes_a_revocation(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """With the date of the hold, the new reason, and no way back (X.509, section 9.5.3.1)."""
        item = issuance()
        await begun.record_issuance([item], requester=X)
        serial = item.record.serial
        await begun.revoke_serial(serial, reason=HOLD, at=NOW, audit=audit())
        later = NOW + timedelta(minutes=1)
        done = await begun.revoke_serial(serial, reason="keyCompromise", at=later, audit=audit())
        assert done.count == 1
        (row,) = await begun.revoked("aa", 0, unexpired_at=NOW)
        assert (row.reason, row.revoked_at) == ("keyCompromise", NOW)
        assert (delivered[-1].event.value or {})["reason"] == "keyCompromise"
        again = await begun.revoke_serial(serial, reason=HOLD, at=later, audit=audit())
        assert again.count == 0

    async def test_a_large_hold_is_released_in_batches(self, begun: Store) -> None:
        """So many at most at a time, and it says that there is more."""
        items = [issuance() for _ in range(3)]
        await begun.record_issuance(items, requester=X)
        await begin(begun, AgentScope(agent=AGENT), HOLD)
        first, more = await begun.release_held(
            AgentScope(agent=AGENT), most=2, at=NOW, audit=audit()
        )
        assert (first.count, first.banned, more) == (2, str(AGENT), True)
        last, more = await begun.release_held(
            AgentScope(agent=AGENT), most=2, at=NOW, audit=audit()
        )
        assert (last.count, last.banned, more) == (1, None, False)
        assert not any(await self.revoked(begun, *items))

    async def test_a_hold_under_way_is_not_released(self, begun: Store) -> None:
        """Its next batch would hold again what was released; and nobody has to agree to it."""
        items = [issuance() for _ in range(3)]
        await begun.record_issuance(items, requester=X)
        first = await begin(begun, AgentScope(agent=AGENT), HOLD, most=1)
        with pytest.raises(Conflict, match="nobody has to agree"):
            await begun.approve_revocation(first.request.id, at=NOW, most=9, audit=audit())
        for scope in (AgentScope(agent=AGENT), SerialScope(serial=items[0].record.serial)):
            with pytest.raises(Conflict, match="still under way"):
                await begun.release_held(scope, most=9, at=NOW, audit=audit())
        await begun.go_on_revoking(first.request.id, first.left, last=True, at=NOW)
        released, _ = await begun.release_held(
            AgentScope(agent=AGENT), most=9, at=NOW, audit=audit()
        )
        assert (released.count, await self.revoked(begun, *items)) == (3, [False] * 3)

    async def test_what_is_revoked_is_listed_page_by_page(self, begun: Store) -> None:
        """By serial number as text; what was released is not in it."""
        items = [issuance() for _ in range(4)]
        await begun.record_issuance(items, requester=X)
        serials = sorted(format(item.record.serial, "x") for item in items)
        for serial in serials:
            await begun.revoke_serial(int(serial, 16), reason=HOLD, at=NOW, audit=audit())
        released = SerialScope(serial=int(serials[1], 16))
        await begun.release_held(released, most=9, at=NOW, audit=audit())
        listed, after = [], None
        while page := await begun.revocations(after=after, limit=2):
            assert len(page) <= 2
            listed += page
            after = format(page[-1].serial, "x")
        assert [format(row.serial, "x") for row in listed] == [serials[0], *serials[2:]]
        assert {row.reason for row in listed} == {HOLD}

    async def test_an_identity_that_has_nothing_left_keeps_its_revision(self, begun: Store) -> None:
        """Revoked once more it is answered with what did it; what has expired does not count."""
        item, over = issuance(), asked_for_by(str(AGENT), API, not_after=NOW - HOUR)
        await begun.record_issuance([item, over], requester=X)
        for count in (1, 0):
            done = await begun.revoke_identity(
                API, reason="keyCompromise", ban=False, at=NOW, audit=audit()
            )
            assert done.count == count
            assert done.revision == await self.revision_of(begun, item)

    async def revision_of(self, store: Store, item: Issuance) -> int:
        place = (Kind.REVOCATION, format(item.record.serial, "x"))
        found = await store.events_after(0, limit=99)
        return max(e.event.revision for e in found if (e.event.kind, e.event.key) == place)
