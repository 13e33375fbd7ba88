"""What every store promises. An implementation's test module subclasses `StoreContract`."""

import asyncio
import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from legation.authority.model import IssuedRecord, JoinToken, Operator, Role
from legation.authority.revoking.scopes import SerialScope
from legation.authority.store import (
    AuditDraft,
    AuthorityIdentity,
    CommittedEvent,
    EnrolledAgent,
    EventDraft,
    InitialState,
    Issuance,
    IssuerRecord,
    JoinTokenUse,
    KeyChange,
    OneTimeUse,
    Requester,
    Store,
    StoredCRL,
    WrappedKey,
)
from legation.errors import Conflict, InternalError, NotAuthenticated, NotFound, NotPermitted
from legation.pki import SerialNumber, SpiffeID, TrustDomain
from legation.wire.canonical import canonical_json
from legation.wire.feed import FeedEvent, FeedSigner, Kind, SignedEvent, open_event

NOW = datetime(2031, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
API = "spiffe://example.org/api"
AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/one")
ADMIN = SpiffeID.parse("spiffe://example.org/legation/operator/admin")
_indices = count()


def audit(action: str = "test.done", **detail: Any) -> AuditDraft:
    """Return an audit entry."""
    return AuditDraft(time=NOW, actor=str(ADMIN), action=action, subject="subject", detail=detail)


def issuance(
    spiffe_id: str = API, *, until: datetime = NOW + HOUR, issuer: str = "aa", shard: int = 0
) -> Issuance:
    """Return a certificate to record; its DER is only bytes to a store."""
    serial = SerialNumber.generate(shard=shard, index=next(_indices)).to_int()
    record = IssuedRecord(
        serial=serial,
        spiffe_id=spiffe_id,
        profile="workload",
        issuer=issuer,
        not_before=NOW - timedelta(minutes=1),
        not_after=until,
        requester=str(AGENT),
        entry_id="e1",
        key_fingerprint=hashlib.sha256(spiffe_id.encode()).digest(),
        der=b"DER " + serial.to_bytes(16, "big"),
    )
    entry = {
        "action": "certificate.issue",
        "actor": str(AGENT),
        "detail": {"serial": format(serial, "x")},
        "subject": spiffe_id,
        "time": "2031-03-01T12:00:00.123Z",
    }
    return Issuance(record=record, audit=canonical_json(entry))


def token(agent: SpiffeID = AGENT, *, lifetime: timedelta = HOUR) -> tuple[JoinToken, bytes]:
    """Return a join token and the digest of its secret."""
    name = f"t{next(_indices)}"
    row = JoinToken(
        id=name, agent=agent, created_at=NOW, expires_at=NOW + lifetime, created_by=str(ADMIN)
    )
    return row, hashlib.sha256(name.encode()).digest()


def initial_state() -> InitialState:
    """Return what an authority begins with."""
    return InitialState(
        identity=AuthorityIdentity(
            trust_domain=TrustDomain("example.org"), feed_id="f1", salt=b"salt", created_at=NOW
        ),
        keys=(
            WrappedKey(
                id="k1", purpose="root", algorithm="ec-p256", envelope=b"sealed", created_at=NOW
            ),
        ),
        issuers=(IssuerRecord(key_id="aa", role="root", key="k1", der=b"root", created_at=NOW),),
        crls=(crl(1),),
        events=(EventDraft(kind=Kind.BUNDLE, key="example.org", value={"keys": []}),),
        operator=Operator(spiffe_id=ADMIN, role=Role.ADMIN, created_at=NOW),
        certificates=(issuance(str(ADMIN)),),
        next_serials={("aa", 0): 5},
        audit=audit("authority.initialise"),
    )


def crl(number: int) -> StoredCRL:
    """Return a revocation list; its DER is only bytes to a store."""
    return StoredCRL(
        issuer="aa",
        shard=0,
        number=number,
        this_update=NOW,
        next_update=NOW + HOUR,
        revision=number,
        der=b"CRL %d" % number,
        delta=b"delta of %d" % number if number > 1 else None,
        base=b"base" if number > 1 else None,
    )


class StoreFixtures:
    """`store` is a fixture of the subclass: an empty store, closed after the test."""

    @pytest.fixture
    def signer(self) -> FeedSigner:
        return FeedSigner(ec.generate_private_key(ec.SECP256R1()))

    @pytest.fixture
    def delivered(self, store: Store, signer: FeedSigner) -> list[CommittedEvent]:
        """Attach a feed; return what it is given."""
        received: list[CommittedEvent] = []
        store.attach(sign=signer.sign, deliver=received.extend)
        return received

    @pytest.fixture
    async def begun(self, store: Store, delivered: list[CommittedEvent]) -> Store:
        """A store that an authority was initialised in."""
        await store.initialise(initial_state())
        delivered.clear()
        return store


class StoreContract(StoreFixtures):
    """The tests."""

    # Beginnings

    async def test_what_an_authority_begins_with_is_read_back(
        self, store: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Everything of the initial state is there afterwards."""
        state = initial_state()
        await store.initialise(state)
        assert await store.identity() == state.identity
        assert tuple(await store.wrapped_keys()) == state.keys
        assert tuple(await store.issuers()) == state.issuers
        assert tuple(await store.crls()) == state.crls
        assert tuple(await store.operators()) == (state.operator,)
        current = await store.current_part(0, limit=9)
        assert current is not None
        assert [e.event.kind for e in current.events] == [Kind.BUNDLE]
        assert delivered == current.events
        assert await store.current_part(current.revision, limit=9) is None
        found = await store.certificate(state.certificates[0].record.serial)
        assert found == state.certificates[0].record
        assert await store.reserve_serials("aa", 0, 1) == 5
        actions = [entry.action for entry in await store.audit_entries(after=0, limit=10)]
        assert actions == ["authority.initialise", "certificate.issue"]

    async def test_an_authority_is_initialised_once(self, begun: Store) -> None:
        """A second beginning is refused and changes nothing."""
        before = await begun.audit_size()
        with pytest.raises(Conflict, match=r"holds the authority of example\.org already"):
            await begun.initialise(initial_state())
        assert await begun.audit_size() == before

    async def test_an_empty_store_belongs_to_nobody(self, store: Store) -> None:
        """Asking an empty store whose it is names the command that helps."""
        with pytest.raises(NotFound, match="legation server init"):
            await store.identity()

    async def test_a_feed_can_begin_anew(self, begun: Store) -> None:
        """It has another name then, and goes on far above what may have followed this copy."""
        for number in (1, 2):
            await begun.begin_feed(f"f{number}", audit=audit("feed.begin"))
            assert (await begun.identity()).feed_id == f"f{number}"
            assert (await begun.position()).revision == number * 1_000_000_000
        draft = EventDraft(kind=Kind.POLICY, key="a", value={})
        committed = await begun.set_value(draft, expected=0, at=NOW, audit=audit())
        assert committed.event.revision == 2_000_000_001
        entry = (await begun.audit_entries(after=0, limit=100))[-2]
        assert (entry.action, entry.detail) == ("feed.begin", {"feed_id": "f2"})

    async def test_a_feed_that_begins_anew_leaves_serial_numbers_out(self, begun: Store) -> None:
        """Indices go on far above what may have followed this copy, in shards it never saw, too."""
        assert await begun.reserve_serials("aa", 0, 10) == 5
        for number in (1, 2):
            await begun.begin_feed("f2", audit=audit("feed.begin"))
            assert await begun.reserve_serials("aa", 0, 10) == 5 + 10 * number + (number << 32)
        assert await begun.reserve_serials("aa", 1, 10) == 2 << 32
        assert await begun.reserve_serials("aa", 1, 10) == (2 << 32) + 10

    async def test_an_empty_store_has_no_feed_to_begin(self, store: Store) -> None:
        """It is not found, and nothing is written."""
        with pytest.raises(NotFound):
            await store.begin_feed("f2", audit=audit("feed.begin"))
        assert await store.audit_size() == 0

    # The feed

    async def test_revisions_rise_by_one_and_events_are_signed(
        self, begun: Store, delivered: list[CommittedEvent], signer: FeedSigner
    ) -> None:
        """Each event has the next revision, is delivered, and opens with the feed key."""
        for name in ("a", "b", "c"):
            await begun.set_value(
                EventDraft(kind=Kind.POLICY, key=name, value={"n": name}, audience=(str(AGENT),)),
                expected=0,
                at=NOW,
                audit=audit(),
            )
        assert [e.event.revision for e in delivered] == [2, 3, 4]
        for committed in delivered:
            assert open_event(committed.signed, [signer.public_key]) == committed.event
        assert delivered[0].event == FeedEvent(
            revision=2,
            time_ms=round(NOW.timestamp() * 1000),
            kind=Kind.POLICY,
            key="a",
            value={"n": "a"},
            audience=(str(AGENT),),
        )
        assert (await begun.position()).revision == 4
        assert list(await begun.events_after(2, limit=10)) == delivered[1:]
        assert list(await begun.events_after(1, limit=2)) == delivered[:2]

    async def test_concurrent_changes_are_delivered_in_order(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Many changes at once arrive in the order of their revisions, before they return."""

        async def change(name: str) -> None:
            committed = await begun.set_value(
                EventDraft(kind=Kind.POLICY, key=name, value={}),
                expected=0,
                at=NOW,
                audit=audit(),
            )
            assert committed in delivered

        await asyncio.gather(*(change(f"p{number}") for number in range(100)))
        assert [e.event.revision for e in delivered] == list(range(2, 102))

    @pytest.mark.parametrize(
        ("expected", "message"),
        [(0, "exists already"), (3, "was changed meanwhile")],
    )
    async def test_a_lost_update_is_refused(
        self, begun: Store, delivered: list[CommittedEvent], expected: int, message: str
    ) -> None:
        """Who expects another revision than the current one changes nothing."""
        draft = EventDraft(kind=Kind.POLICY, key="a", value={"n": 1})
        first = await begun.set_value(draft, expected=0, at=NOW, audit=audit())
        size = await begun.audit_size()
        with pytest.raises(Conflict, match=message):
            await begun.set_value(draft, expected=expected, at=NOW, audit=audit())
        assert delivered == [first]
        assert await begun.audit_size() == size

    async def test_a_deleted_value_can_be_created_again(self, begun: Store) -> None:
        """After a deletion a key has no value: 0 is expected, its old revision is not."""

        async def put(value: dict[str, Any] | None, expected: int) -> int:
            draft = EventDraft(kind=Kind.POLICY, key="a", value=value)
            return (
                await begun.set_value(draft, expected=expected, at=NOW, audit=audit())
            ).event.revision

        first = await put({}, 0)
        await put(None, first)
        with pytest.raises(Conflict, match="was deleted meanwhile"):
            await put({}, first)
        assert await put({}, 0) == first + 2
        current = await begun.current_part(0, limit=9)
        assert current is not None
        assert {e.event.key: e.event.revision for e in current.events}["a"] == first + 2

    async def test_without_a_feed_key_nothing_is_appended(self, store: Store) -> None:
        """A store that nobody attached a signer to refuses events."""
        with pytest.raises(InternalError, match="no feed key is attached"):
            await store.set_value(
                EventDraft(kind=Kind.POLICY, key="a", value={}), expected=0, at=NOW, audit=audit()
            )
        assert (await store.position()).revision == 0

    async def test_a_change_that_cannot_be_signed_does_not_happen(self, begun: Store) -> None:
        """If signing fails the whole unit fails, and the next change takes its revision."""

        def fail(event: FeedEvent) -> SignedEvent:
            raise RuntimeError("the key is gone")

        begun.attach(sign=fail)
        draft = EventDraft(kind=Kind.POLICY, key="a", value={})
        size = await begun.audit_size()
        with pytest.raises(InternalError, match="the key is gone"):
            await begun.set_value(draft, expected=0, at=NOW, audit=audit())
        assert (await begun.position()).revision == 1
        assert await begun.audit_size() == size

    async def test_compaction_forgets_what_no_reader_needs(self, begun: Store) -> None:
        """Superseded events, deletions up to the horizon and expired events go, others stay."""

        async def put(key: str, value: dict[str, Any] | None, expected: int) -> int:
            draft = EventDraft(kind=Kind.POLICY, key=key, value=value)
            return (
                await begun.set_value(draft, expected=expected, at=NOW, audit=audit())
            ).event.revision

        a = await put("a", {"n": 1}, 0)  # 2, superseded
        b = await put("b", {"n": 1}, 0)  # 3, superseded by its deletion
        await put("b", None, b)  # 4, a deletion up to the horizon
        await put("a", {"n": 2}, a)  # 5, current
        c = await put("c", {"n": 1}, 0)  # 6, beyond the horizon
        await put("c", None, c)  # 7
        draft = EventDraft(kind=Kind.REVOCATION, key="ff", value={}, expires_at=NOW - HOUR)
        await begun.set_value(draft, expected=0, at=NOW, audit=audit())  # 8, expired
        assert await begun.compact(upto=5, at=NOW, limit=3) == 3
        assert await begun.compact(upto=5, at=NOW, limit=3) == 1
        assert await begun.compact(upto=5, at=NOW, limit=3) == 0
        left = [e.event.revision for e in await begun.events_after(0, limit=100)]
        assert left == [1, 5, 6, 7]
        position = await begun.position()
        assert (position.revision, position.horizon) == (8, 5)
        assert await put("d", {}, 0) == 9  # a forgotten revision is not used again

    async def test_the_horizon_never_goes_back(self, begun: Store) -> None:
        """Compacting up to an older revision leaves the horizon where it is."""
        await begun.compact(upto=1, at=NOW, limit=1)
        await begun.compact(upto=0, at=NOW, limit=1)
        assert (await begun.position()).horizon == 1

    # Issuance

    async def test_serial_indices_are_given_out_once(self, begun: Store) -> None:
        """Blocks follow each other, for each issuer and shard by itself."""
        assert await begun.reserve_serials("aa", 0, 10) == 5
        assert await begun.reserve_serials("aa", 0, 1) == 15
        assert await begun.reserve_serials("aa", 1, 10) == 0
        assert await begun.reserve_serials("bb", 0, 10) == 0
        firsts = await asyncio.gather(*(begun.reserve_serials("cc", 0, 7) for _ in range(50)))
        assert sorted(firsts) == [7 * number for number in range(50)]

    async def test_issued_certificates_are_recorded_with_their_audit_entries(
        self, begun: Store
    ) -> None:
        """Rows and entries of many requests at once are all there, in one log."""
        requester = Requester(spiffe_id=str(AGENT))
        size = await begun.audit_size()
        crowds = [[issuance() for _ in range(n)] for n in (1, 1, 100, 7, 1, 64, 3)]
        answers = await asyncio.gather(
            *(begun.record_issuance(crowd, requester=requester) for crowd in crowds)
        )
        assert list(answers) == [{}] * len(answers)
        items = [item for crowd in crowds for item in crowd]
        for item in items:
            assert await begun.certificate(item.record.serial) == item.record
        entries = await begun.audit_entries(after=size, limit=1000)
        assert [entry.sequence for entry in entries] == list(range(size + 1, size + 1 + len(items)))
        logged = {entry.detail["serial"] for entry in entries}
        assert logged == {format(item.record.serial, "x") for item in items}

    async def test_a_request_for_nothing_is_fine(self, begun: Store) -> None:
        """No certificates are no problem."""
        size = await begun.audit_size()
        assert await begun.record_issuance([], requester=Requester(spiffe_id="x")) == {}
        assert await begun.audit_size() == size

    async def test_certificates_of_banned_identities_are_not_recorded(self, begun: Store) -> None:
        """The rest of the request is; the answer names what was left out."""
        await begun.revoke_identity(API, reason="keyCompromise", ban=True, at=NOW, audit=audit())
        bad, good = issuance(API), issuance("spiffe://example.org/web")
        refused = await begun.record_issuance([bad, good], requester=Requester(spiffe_id="x"))
        assert {serial: why.message for serial, why in refused.items()} == {
            bad.record.serial: f"{API} is banned"
        }
        with pytest.raises(NotFound):
            await begun.certificate(bad.record.serial)
        assert await begun.certificate(good.record.serial) == good.record

    async def test_a_banned_requester_gets_nothing(self, begun: Store) -> None:
        """Its requests fail, those of others in the same moment do not."""
        await begun.revoke_identity(
            str(AGENT), reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        mine, theirs = issuance(), issuance()
        first, second = await asyncio.gather(
            begun.record_issuance([mine], requester=Requester(spiffe_id=str(AGENT))),
            begun.record_issuance([theirs], requester=Requester(spiffe_id="other")),
            return_exceptions=True,
        )
        assert isinstance(first, NotAuthenticated)
        assert "is banned" in first.message
        assert second == {}
        with pytest.raises(NotFound):
            await begun.certificate(mine.record.serial)

    async def test_a_revoked_requester_gets_nothing(self, begun: Store) -> None:
        """What counts is the certificate that it asked with."""
        own = issuance(str(AGENT))
        await begun.record_issuance([own], requester=Requester(spiffe_id="x"))
        requester = Requester(spiffe_id=str(AGENT), serial=own.record.serial)
        assert await begun.record_issuance([issuance()], requester=requester) == {}
        await begun.revoke_serial(own.record.serial, reason="unspecified", at=NOW, audit=audit())
        with pytest.raises(NotAuthenticated, match="is revoked"):
            await begun.record_issuance([issuance()], requester=requester)

    async def test_a_serial_number_is_recorded_once(self, begun: Store) -> None:
        """The same number again fails, alone: its neighbours in the queue are recorded."""
        first, twin, neighbour = issuance(), issuance(), issuance()
        requester = Requester(spiffe_id="x")
        await begun.record_issuance([first], requester=requester)
        answers = await asyncio.gather(
            begun.record_issuance([twin], requester=requester),
            begun.record_issuance([first], requester=requester),
            begun.record_issuance([neighbour], requester=requester),
            return_exceptions=True,
        )
        assert answers[0] == {}
        assert isinstance(answers[1], InternalError)
        assert answers[2] == {}
        for item in (twin, neighbour):
            assert await begun.certificate(item.record.serial) == item.record
        logged = [
            entry.detail["serial"]
            for entry in await begun.audit_entries(after=0, limit=100)
            if entry.action == "certificate.issue"
        ]
        assert logged.count(format(first.record.serial, "x")) == 1

    async def test_a_token_that_leaves_is_in_the_audit_log(self, begun: Store) -> None:
        """So that one knows later who was given what."""
        await begun.record_token(
            API, requester=Requester(spiffe_id=str(AGENT)), audit=audit("jwt_svid.issue", jti="7")
        )
        *_, last = await begun.audit_entries(after=0, limit=100)
        assert (last.action, last.detail) == ("jwt_svid.issue", {"jti": "7"})

    async def test_a_token_of_or_for_a_banned_one_does_not_leave(self, begun: Store) -> None:
        """The last word is spoken in the transaction, and nothing is written."""
        await begun.revoke_identity(API, reason="keyCompromise", ban=True, at=NOW, audit=audit())
        size, asked = await begun.audit_size(), Requester(spiffe_id=str(AGENT))
        with pytest.raises(NotPermitted, match=f"{API} is banned"):
            await begun.record_token(API, requester=asked, audit=audit())
        with pytest.raises(NotAuthenticated, match=f"{API} is banned"):
            await begun.record_token(
                "spiffe://example.org/web", requester=Requester(spiffe_id=API), audit=audit()
            )
        assert await begun.audit_size() == size

    # Keys

    async def test_keys_change_together_with_the_bundle(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """One transaction has the keys that come and go, and the event."""
        before = list(await begun.wrapped_keys())
        new = WrappedKey(
            id="new", purpose="jwt", algorithm="ec-p256", envelope=b"x", created_at=NOW
        )
        bundle = EventDraft(kind=Kind.BUNDLE, key="example.org", value={"keys": []})
        committed = await begun.change_keys(
            KeyChange(added=(new,)), bundle, expected=1, audit=audit("keys")
        )
        assert list(await begun.wrapped_keys()) == [*before, new]
        assert delivered == [committed]
        assert committed.event.value == {"keys": []}
        revision = committed.event.revision
        await begun.change_keys(
            KeyChange(removed=("new",)), bundle, expected=revision, audit=audit("keys")
        )
        assert list(await begun.wrapped_keys()) == before

    async def test_keys_do_not_change_without_the_bundle(self, begun: Store) -> None:
        """Whoever read an older bundle changes nothing."""
        before = await begun.wrapped_keys()
        bundle = EventDraft(kind=Kind.BUNDLE, key="example.org", value={"keys": []})
        new = WrappedKey(
            id="new", purpose="jwt", algorithm="ec-p256", envelope=b"x", created_at=NOW
        )
        with pytest.raises(Conflict, match="was changed meanwhile"):
            await begun.change_keys(KeyChange(added=(new,)), bundle, expected=7, audit=audit())
        assert await begun.wrapped_keys() == before

    # The inventory

    async def test_the_inventory_is_read_in_pages_newest_first(self, begun: Store) -> None:
        """Pages follow the order of issue and leave nothing out."""
        items = [issuance() for _ in range(5)]
        await begun.record_issuance(items, requester=Requester(spiffe_id="x"))
        serials = [item.record.serial for item in items][::-1]
        search = self._search(begun)
        page = await search(spiffe_id=API, limit=2)
        assert [row.serial for row in page] == serials[:2]
        page = await search(spiffe_id=API, limit=3, after=serials[1])
        assert [row.serial for row in page] == serials[2:]
        with pytest.raises(NotFound):
            await search(after=1)

    async def test_the_inventory_knows_states(self, begun: Store) -> None:
        """Valid, expired and revoked certificates are told apart."""
        valid, expired, revoked = issuance(), issuance(until=NOW - HOUR), issuance()
        await begun.record_issuance([valid, expired, revoked], requester=Requester(spiffe_id="x"))
        await begun.revoke_serial(revoked.record.serial, reason="superseded", at=NOW, audit=audit())
        search = self._search(begun)
        found = {
            state: [row.serial for row in await search(spiffe_id=API, state=state)]
            for state in ("valid", "expired", "revoked")
        }
        assert found == {
            "valid": [valid.record.serial],
            "expired": [expired.record.serial],
            "revoked": [revoked.record.serial],
        }
        row = await begun.certificate(revoked.record.serial)
        assert (row.revoked_at, row.reason) == (NOW, "superseded")

    @pytest.mark.parametrize("serial", [1, 1 << 127, 1 << 128, 1 << 200])
    async def test_an_unknown_serial_number_is_not_found(self, begun: Store, serial: int) -> None:
        """However large it is."""
        with pytest.raises(NotFound, match=format(serial, "x")):
            await begun.certificate(serial)

    @staticmethod
    def _search(store: Store) -> Any:
        async def search(**wanted: Any) -> Any:
            filters = {"spiffe_id": None, "state": None, "after": None, "limit": 100, "at": NOW}
            return await store.search(**{**filters, **wanted})

        return search

    # Enrolment

    async def test_a_token_lets_one_agent_in_once(self, begun: Store) -> None:
        """Token, agent, certificate and audit entry go together; a replay changes nothing."""
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit("token.create"))
        assert await begun.find_token(digest) == (row, digest)
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
        own = issuance(str(AGENT))
        await begun.enrol(
            agent, own, spend=JoinTokenUse(token_id=row.id), at=NOW, audit=audit("agent.enrol")
        )
        assert list(await begun.agents()) == [agent]
        assert await begun.certificate(own.record.serial) == own.record
        assert [t.used_at for t in await begun.tokens()] == [NOW]
        size = await begun.audit_size()
        again = issuance(str(AGENT))
        with pytest.raises(NotAuthenticated, match="was used already"):
            await begun.enrol(
                agent,
                again,
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit("agent.enrol"),
            )
        assert await begun.audit_size() == size
        with pytest.raises(NotFound):
            await begun.certificate(again.record.serial)

    async def test_one_of_many_concurrent_enrolments_wins(self, begun: Store) -> None:
        """A token that is spent twenty times at once lets one in."""
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
        answers = await asyncio.gather(
            *(
                begun.enrol(
                    agent,
                    issuance(str(AGENT)),
                    spend=JoinTokenUse(token_id=row.id),
                    at=NOW,
                    audit=audit(),
                )
                for _ in range(20)
            ),
            return_exceptions=True,
        )
        assert answers.count(None) == 1
        assert sum(isinstance(answer, NotAuthenticated) for answer in answers) == 19

    async def test_tokens_that_let_nobody_in(self, begun: Store) -> None:
        """Expired, for another agent, withdrawn, unknown: each says which."""
        expired, other, withdrawn = token(lifetime=timedelta(0)), token(ADMIN), token()
        for row, digest in (expired, other, withdrawn):
            await begun.create_token(row, digest=digest, audit=audit())
        await begun.delete_token(withdrawn[0].id, audit=audit())
        for (row, _), message in (
            (expired, "expired at"),
            (other, "is for another agent"),
            (withdrawn, "was withdrawn"),
        ):
            agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
            with pytest.raises(NotAuthenticated, match=message):
                await begun.enrol(
                    agent,
                    issuance(str(AGENT)),
                    spend=JoinTokenUse(token_id=row.id),
                    at=NOW,
                    audit=audit(),
                )
        assert await begun.find_token(withdrawn[1]) is None
        assert list(await begun.agents()) == []

    async def test_a_banned_agent_does_not_join(self, begun: Store) -> None:
        """Its token stays unused."""
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        await begun.revoke_identity(
            str(AGENT), reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
        with pytest.raises(NotPermitted, match="is banned"):
            await begun.enrol(
                agent,
                issuance(str(AGENT)),
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit(),
            )
        assert [t.used_at for t in await begun.tokens()] == [None]

    async def test_evidence_lets_one_in_and_is_remembered_until_it_is_over(
        self, begun: Store
    ) -> None:
        """Twenty at once, again, after its time: one gets in, and what is over is forgotten."""
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="oidc ci")
        spend = OneTimeUse(digest=bytes(32), expires_at=NOW + HOUR)

        async def come(at: datetime, use: OneTimeUse = spend) -> None:
            await begun.enrol(agent, issuance(str(AGENT)), spend=use, at=at, audit=audit())

        answers = await asyncio.gather(*(come(NOW) for _ in range(20)), return_exceptions=True)
        assert answers.count(None) == 1
        assert all(
            isinstance(answer, NotAuthenticated) and "evidence_replayed" in str(answer)
            for answer in answers
            if answer is not None
        )
        size = await begun.audit_size()
        for at, word in ((NOW + HOUR / 2, "replayed"), (NOW + HOUR, "expired")):
            with pytest.raises(NotAuthenticated, match=f"evidence_{word}"):
                await come(at)
        assert await begun.audit_size() == size
        later = NOW + 2 * HOUR
        await come(later, OneTimeUse(digest=b"x" * 32, expires_at=later + HOUR))
        # Forgotten: a clock that went back would let it in, and nothing else could.
        await come(NOW, spend)

    async def test_refused_evidence_is_not_spent(self, begun: Store) -> None:
        """Whoever is banned has not used it up."""
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="oidc ci")
        spend = OneTimeUse(digest=bytes(32), expires_at=NOW + HOUR)
        await begun.revoke_identity(
            str(AGENT), reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        with pytest.raises(NotPermitted, match="is banned"):
            await begun.enrol(agent, issuance(str(AGENT)), spend=spend, at=NOW, audit=audit())
        await begun.lift_ban(str(AGENT), at=NOW, audit=audit())
        await begun.enrol(agent, issuance(str(AGENT)), spend=spend, at=NOW, audit=audit())

    async def test_a_used_token_is_not_deleted(self, begun: Store) -> None:
        """It is part of what happened."""
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=audit())
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
        await begun.enrol(
            agent, issuance(str(AGENT)), spend=JoinTokenUse(token_id=row.id), at=NOW, audit=audit()
        )
        with pytest.raises(NotFound, match="no unused join token"):
            await begun.delete_token(row.id, audit=audit())

    # Revocation

    async def test_revoking_a_certificate(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Row, event and audit entry; once more changes nothing and names the same revision."""
        item = issuance(shard=3)
        serial = item.record.serial
        await begun.record_issuance([item], requester=Requester(spiffe_id="x"))
        outcome = await begun.revoke_serial(
            serial, reason="keyCompromise", at=NOW, audit=audit("revocation.create")
        )
        assert [row.serial for row in outcome.revoked] == [serial]
        (committed,) = delivered
        assert committed.event.revision == outcome.revision
        assert committed.event.kind is Kind.REVOCATION
        assert committed.event.key == format(serial, "x")
        assert committed.event.value == outcome.revoked[0].to_value()
        rows = await begun.revoked("aa", 3, unexpired_at=NOW)
        assert [(row.serial, row.revoked_at, row.reason) for row in rows] == [
            (serial, NOW, "keyCompromise")
        ]
        size = await begun.audit_size()
        again = await begun.revoke_serial(serial, reason="superseded", at=NOW + HOUR, audit=audit())
        assert (again.revision, again.revoked, again.at) == (outcome.revision, (), NOW)
        assert await begun.audit_size() == size
        assert len(delivered) == 1

    async def test_what_cannot_be_revoked(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """An unknown certificate is not found; an expired one needs nothing."""
        with pytest.raises(NotFound):
            await begun.revoke_serial(1, reason="unspecified", at=NOW, audit=audit())
        item = issuance(until=NOW - HOUR)
        await begun.record_issuance([item], requester=Requester(spiffe_id="x"))
        with pytest.raises(Conflict, match="has expired already"):
            await begun.revoke_serial(
                item.record.serial, reason="unspecified", at=NOW, audit=audit()
            )
        assert delivered == []

    async def test_revoking_an_identity(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Every unexpired certificate of it, of no other, and the ban, in one step."""
        mine = [issuance() for _ in range(3)]
        others = [issuance("spiffe://example.org/api2"), issuance(until=NOW - HOUR)]
        await begun.record_issuance([*mine, *others], requester=Requester(spiffe_id="x"))
        outcome = await begun.revoke_identity(
            API, reason="cessationOfOperation", ban=True, at=NOW, audit=audit("revocation.create")
        )
        assert {row.serial for row in outcome.revoked} == {item.record.serial for item in mine}
        assert outcome.banned == API
        assert [e.event.kind for e in delivered] == [Kind.BAN] + [Kind.REVOCATION] * 3
        assert outcome.revision == delivered[-1].event.revision
        (entry,) = (await begun.audit_entries(after=0, limit=100))[-1:]
        assert entry.detail["banned"] is True
        assert len(entry.detail["serials"]) == 3

    async def test_revoking_an_identity_again_names_the_same_revision(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Nothing new happens, and waiting for the answer's revision waits for the right one."""
        item = issuance()
        await begun.record_issuance([item], requester=Requester(spiffe_id="x"))

        async def revoke(*, ban: bool) -> Any:
            return await begun.revoke_identity(
                API, reason="unspecified", ban=ban, at=NOW, audit=audit()
            )

        first = await revoke(ban=True)
        draft = EventDraft(kind=Kind.POLICY, key="later", value={})
        await begun.set_value(draft, expected=0, at=NOW, audit=audit())
        for ban in (True, False):
            again = await revoke(ban=ban)
            assert (again.revision, again.revoked, again.banned) == (first.revision, (), API)
        assert len(delivered) == 3

    async def test_an_identity_without_certificates_can_be_banned(self, begun: Store) -> None:
        """So that it is never issued; revoking it without a ban has nothing to do."""
        outcome = await begun.revoke_identity(
            API, reason="unspecified", ban=False, at=NOW, audit=audit()
        )
        assert (outcome.revoked, outcome.banned) == ((), None)
        assert outcome.revision == (await begun.position()).revision
        outcome = await begun.revoke_identity(
            API, reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        assert (outcome.revoked, outcome.banned) == ((), API)

    async def test_a_list_that_lacks_a_revocation_is_known(self, begun: Store) -> None:
        """As after a crash between the two: that list and no other, and only until it is out."""
        mine, other = issuance(issuer="aa", shard=0), issuance(issuer="aa", shard=7)
        foreign = issuance(issuer="bb", shard=0)
        await begun.record_issuance([mine, other, foreign], requester=Requester(spiffe_id="x"))
        assert await begun.unlisted() == set()
        for item in (other, foreign):
            await begun.revoke_serial(
                item.record.serial, reason="superseded", at=NOW, audit=audit()
            )
        assert await begun.unlisted() == set()  # of these there is no list at all
        outcome = await begun.revoke_serial(
            mine.record.serial, reason="superseded", at=NOW, audit=audit()
        )
        assert await begun.unlisted() == {("aa", 0)}
        for behind, expected in ((1, {("aa", 0)}), (0, set())):
            newer = dataclasses.replace(crl(10 - behind), revision=outcome.revision - behind)
            draft = EventDraft(kind=Kind.CRL, key="aa/0", value={})
            await begun.publish_crl(newer, draft, audit=audit())
            assert await begun.unlisted() == expected
        release = EventDraft(kind=Kind.REVOCATION, key=format(mine.record.serial, "x"), value=None)
        await begun.set_value(release, expected=outcome.revision, at=NOW, audit=audit())
        assert await begun.unlisted() == {("aa", 0)}

    async def test_what_a_list_lacks_is_told_without_the_rest(self, begun: Store) -> None:
        """Of one issuer's shard, after a revision, with the number of all that it has to name."""
        mine = [issuance(issuer="aa", shard=0) for _ in range(3)]
        others = [issuance(issuer="aa", shard=7), issuance(issuer="bb", shard=0)]
        await begun.record_issuance([*mine, *others], requester=Requester(spiffe_id="x"))
        serials = [item.record.serial for item in mine]
        revisions = [(await begun.position()).revision]
        for item in (*mine[:2], *others):
            outcome = await begun.revoke_serial(
                item.record.serial, reason="certificateHold", at=NOW, audit=audit()
            )
            revisions.append(outcome.revision)

        async def found(after: int, *, unexpired_at: datetime = NOW) -> tuple[set[int], int] | None:
            told = await begun.newly_revoked("aa", 0, after=after, unexpired_at=unexpired_at)
            if told is None:
                return None
            assert told.revision == (await begun.position()).revision
            assert {(row.revoked_at, row.reason) for row in told.rows} <= {(NOW, "certificateHold")}
            return {row.serial for row in told.rows}, told.total

        assert await found(revisions[0]) == (set(serials[:2]), 2)
        assert await found(revisions[1]) == ({serials[1]}, 2)
        assert await found(revisions[-1]) == (set(), 2)
        assert await found(revisions[0], unexpired_at=NOW + 2 * HOUR) == (set(), 0)
        await begun.release_held(SerialScope(serial=serials[0]), most=9, at=NOW, audit=audit())
        assert await found(revisions[-1]) is None  # a line has to go
        newest = (await begun.position()).revision
        assert await found(newest) == (set(), 1)
        await begun.compact(upto=newest, at=NOW, limit=99)
        assert await found(newest) == (set(), 1)
        assert await found(newest - 1) is None  # nobody knows any more

    async def test_lifting_a_ban(self, begun: Store, delivered: list[CommittedEvent]) -> None:
        """It can be issued again; what is not banned cannot be lifted."""
        await begun.revoke_identity(API, reason="unspecified", ban=True, at=NOW, audit=audit())
        revision = await begun.lift_ban(API, at=NOW, audit=audit("revocation.lift"))
        assert delivered[-1].event.revision == revision
        assert (delivered[-1].event.kind, delivered[-1].event.value) == (Kind.BAN, None)
        requester = Requester(spiffe_id="x")
        assert await begun.record_issuance([issuance()], requester=requester) == {}
        with pytest.raises(NotFound, match="is not banned"):
            await begun.lift_ban(API, at=NOW, audit=audit())

    # Revocation lists

    async def test_a_list_names_the_unexpired_of_its_issuer_and_shard(self, begun: Store) -> None:
        """Other shards, other issuers, the expired and the unrevoked are left out."""
        wanted = issuance(shard=1)
        rest = [issuance(shard=2), issuance(shard=1, issuer="bb")]
        unrevoked = issuance(shard=1)
        await begun.record_issuance([wanted, *rest, unrevoked], requester=Requester(spiffe_id="x"))
        for item in (wanted, *rest):
            await begun.revoke_serial(
                item.record.serial, reason="superseded", at=NOW, audit=audit()
            )
        rows = await begun.revoked("aa", 1, unexpired_at=NOW)
        assert [row.serial for row in rows] == [wanted.record.serial]
        assert await begun.revoked("aa", 1, unexpired_at=NOW + 2 * HOUR) == []

    async def test_list_numbers_rise(self, begun: Store, delivered: list[CommittedEvent]) -> None:
        """A list replaces an older one; one with the same or a lower number is refused."""
        draft = EventDraft(kind=Kind.CRL, key="aa/0", value={"number": 3})
        committed = await begun.publish_crl(crl(3), draft, audit=audit("crl.publish"))
        assert delivered == [committed]
        assert list(await begun.crls()) == [crl(3)]
        for number in (3, 2):
            with pytest.raises(Conflict, match="was published already"):
                await begun.publish_crl(crl(number), draft, audit=audit())
        assert delivered == [committed]

    async def test_a_list_that_is_not_recorded_in_full_has_used_its_number(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """The feed has it, the store the one before and the number; and numbers rise above it."""
        draft = EventDraft(kind=Kind.CRL, key="aa/0", value={"number": 3})
        await begun.publish_crl(crl(3), draft, audit=audit())
        for number in (4, 6):
            await begun.publish_crl(crl(number), draft, audit=audit(), in_full=False)
        assert len(delivered) == 3
        assert list(await begun.crls()) == [dataclasses.replace(crl(3), number=6)]
        for in_full in (True, False):
            with pytest.raises(Conflict, match="was published already"):
                await begun.publish_crl(crl(6), draft, audit=audit(), in_full=in_full)
        await begun.publish_crl(crl(7), draft, audit=audit())
        assert list(await begun.crls()) == [crl(7)]

    # Operators

    async def test_operators_come_and_go(self, begun: Store) -> None:
        """One is created with its certificate, changed, disabled, and enabled again."""
        spiffe_id = SpiffeID.parse("spiffe://example.org/legation/operator/eve")
        eve = Operator(spiffe_id=spiffe_id, role=Role.VIEWER, created_at=NOW)
        own = issuance(str(spiffe_id))
        await begun.certify_operator(eve, own, audit=audit())
        assert await begun.certificate(own.record.serial) == own.record
        for _ in range(2):
            await begun.disable_operator(str(spiffe_id), at=NOW, audit=audit("operator.disable"))
        assert [o.disabled_at for o in await begun.operators()] == [None, NOW]
        later = Operator(spiffe_id=spiffe_id, role=Role.ADMIN, created_at=NOW + HOUR)
        await begun.certify_operator(later, issuance(str(spiffe_id)), audit=audit())
        row = (await begun.operators())[1]
        assert (row.role, row.disabled_at, row.created_at) == (Role.ADMIN, None, NOW)
        entries = await begun.audit_entries(after=0, limit=100)
        assert sum(entry.action == "operator.disable" for entry in entries) == 1

    async def test_enabling_an_operator_does_not_enable_what_it_held(
        self, begun: Store, delivered: list[CommittedEvent]
    ) -> None:
        """Perhaps it was disabled for that. Changing one that is enabled revokes nothing."""
        spiffe_id = SpiffeID.parse("spiffe://example.org/legation/operator/eve")
        eve = Operator(spiffe_id=spiffe_id, role=Role.VIEWER, created_at=NOW)
        held = [issuance(str(spiffe_id)) for _ in range(3)]
        for each in held[:2]:
            assert await begun.certify_operator(eve, each, audit=audit()) is None
        assert delivered == []
        await begun.disable_operator(str(spiffe_id), at=NOW, audit=audit())
        ended = await begun.certify_operator(eve, held[2], audit=audit("operator.update"))
        old = {each.record.serial for each in held[:2]}
        assert ended is not None
        assert {row.serial for row in ended.revoked} == old
        assert {int(event.event.key, 16) for event in delivered} == old
        assert (await begun.certificate(held[2].record.serial)).revoked_at is None
        actions = [entry.action for entry in await begun.audit_entries(after=0, limit=100)]
        assert actions.index("revocation.create") < actions.index("operator.update")

    async def test_a_renewal_leaves_an_operator_as_it_stands(self, begun: Store) -> None:
        """Its role stays what it became meanwhile; a disabled one gets nothing."""
        spiffe_id = SpiffeID.parse("spiffe://example.org/legation/operator/eve")
        eve = Operator(spiffe_id=spiffe_id, role=Role.VIEWER, created_at=NOW)
        await begun.certify_operator(eve, issuance(str(spiffe_id)), audit=audit())
        renewed = issuance(str(spiffe_id))
        await begun.renew_operator(str(spiffe_id), renewed, audit=audit("operator.renew"))
        assert await begun.certificate(renewed.record.serial) == renewed.record
        assert (await begun.operators())[1] == eve
        await begun.disable_operator(str(spiffe_id), at=NOW, audit=audit())
        late = issuance(str(spiffe_id))
        with pytest.raises(NotAuthenticated, match="was disabled meanwhile"):
            await begun.renew_operator(str(spiffe_id), late, audit=audit())
        with pytest.raises(NotFound):
            await begun.certificate(late.record.serial)
        assert (await begun.operators())[1].disabled_at == NOW

    async def test_the_last_administrator_stays(self, begun: Store) -> None:
        """It is neither disabled nor made less, until there is another."""
        with pytest.raises(Conflict, match="last administrator"):
            await begun.disable_operator(str(ADMIN), at=NOW, audit=audit())
        lesser = Operator(spiffe_id=ADMIN, role=Role.VIEWER, created_at=NOW)
        with pytest.raises(Conflict, match="last administrator"):
            await begun.certify_operator(lesser, issuance(str(ADMIN)), audit=audit())
        spiffe_id = SpiffeID.parse("spiffe://example.org/legation/operator/eve")
        eve = Operator(spiffe_id=spiffe_id, role=Role.ADMIN, created_at=NOW)
        await begun.certify_operator(eve, issuance(str(spiffe_id)), audit=audit())
        await begun.disable_operator(str(ADMIN), at=NOW, audit=audit())

    async def test_an_unknown_operator_is_not_disabled(self, begun: Store) -> None:
        """It is not found."""
        with pytest.raises(NotFound, match="no operator"):
            await begun.disable_operator("spiffe://example.org/x", at=NOW, audit=audit())

    async def test_a_banned_operator_is_not_certified(self, begun: Store) -> None:
        """A ban holds for operators, too."""
        spiffe_id = SpiffeID.parse("spiffe://example.org/legation/operator/eve")
        await begun.revoke_identity(
            str(spiffe_id), reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        eve = Operator(spiffe_id=spiffe_id, role=Role.VIEWER, created_at=NOW)
        with pytest.raises(NotPermitted, match="is banned"):
            await begun.certify_operator(eve, issuance(str(spiffe_id)), audit=audit())

    # The audit log

    async def test_the_audit_log_is_read_in_order(self, begun: Store) -> None:
        """Entries have rising sequence numbers without gaps, and pages follow them."""
        for number in range(5):
            row, digest = token()
            await begun.create_token(row, digest=digest, audit=audit("token.create", n=number))
        entries = list(await begun.audit_entries(after=0, limit=100))
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        assert await begun.audit_size() == len(entries)
        assert list(await begun.audit_entries(after=2, limit=3)) == entries[2:5]
        last = entries[-1]
        assert (last.time, last.actor, last.action) == (NOW, str(ADMIN), "token.create")
        assert last.detail == {"n": 4}

    # What has had its time

    async def prune_certificates(self, store: Store, before: datetime, limit: int = 500) -> int:
        return await store.prune_certificates(
            expired_before=before, limit=limit, audit=audit("certificate.prune")
        )

    async def prune_audit(self, store: Store, before: datetime, limit: int = 500) -> int:
        return await store.prune_audit(before=before, limit=limit, audit=audit("audit.prune"))

    async def test_expired_certificates_are_forgotten_the_oldest_first(self, begun: Store) -> None:
        """So many at a time, those that ended first; each time says how many."""
        items = [issuance(until=NOW - n * HOUR) for n in range(6)]
        await begun.record_issuance(items, requester=Requester(spiffe_id="x"))
        assert await self.prune_certificates(begun, NOW - 2 * HOUR, 2) == 2
        for item in items[4:]:
            with pytest.raises(NotFound):
                await begun.certificate(item.record.serial)
        assert await self.prune_certificates(begun, NOW - 2 * HOUR, 2) == 1
        for item in items[:3]:  # the one that ended at that very moment stays
            assert await begun.certificate(item.record.serial) == item.record
        entries = await begun.audit_entries(after=0, limit=100)
        assert [e.detail for e in entries if e.action == "certificate.prune"] == [
            {"count": count, "expired_before": "2031-03-01T10:00:00.123Z"} for count in (2, 1)
        ]

    async def test_agents_are_forgotten_with_their_last_certificate(self, begun: Store) -> None:
        """Not before, whether it has expired or not; and never one that has joined anew."""
        ends = {"gone": NOW - 2 * HOUR, "expired": NOW, "there": NOW + HOUR}
        names = {f"{AGENT}/{word}": until for word, until in ends.items()}
        for name, until in names.items():
            agent = SpiffeID.parse(name)
            row, digest = token(agent)
            await begun.create_token(row, digest=digest, audit=audit())
            await begun.enrol(
                EnrolledAgent(spiffe_id=agent, enrolled_at=NOW, evidence="x"),
                issuance(name, until=until),
                spend=JoinTokenUse(token_id=row.id),
                at=NOW,
                audit=audit("agent.join"),
            )
        note = audit("agent.prune")
        assert list(await begun.prune_agents(limit=9, audit=note)) == []
        assert await self.prune_certificates(begun, NOW - HOUR) == 1
        gone = [f"{AGENT}/gone"]
        assert list(await begun.prune_agents(limit=9, audit=note)) == gone
        kept = {str(agent.spiffe_id) for agent in await begun.agents()}
        assert kept == names.keys() - set(gone)
        entry = (await begun.audit_entries(after=0, limit=100))[-1]
        assert (entry.action, entry.detail) == ("agent.prune", {"count": 1, "agents": gone})

    async def test_pruning_that_finds_nothing_says_nothing(self, begun: Store) -> None:
        """Neither rows nor audit entries change."""
        size = await begun.audit_size()
        assert await self.prune_certificates(begun, NOW) == 0
        assert await self.prune_audit(begun, NOW) == 0
        assert await begun.prune_tokens(expired_before=NOW, limit=9, audit=audit()) == 0
        assert await begun.audit_size() == size

    async def test_what_must_be_refused_is_not_forgotten(self, begun: Store) -> None:
        """A certificate that has not expired stays, revoked or not, and so does a ban."""
        live, revoked, over = issuance(), issuance(), issuance(until=NOW - HOUR)
        requester = Requester(spiffe_id="x")
        await begun.record_issuance([live, revoked, over], requester=requester)
        await begun.revoke_serial(revoked.record.serial, reason="superseded", at=NOW, audit=audit())
        await begun.revoke_identity(
            str(AGENT), reason="unspecified", ban=True, at=NOW, audit=audit()
        )
        assert await self.prune_certificates(begun, NOW) == 1
        rows = await begun.revoked("aa", 0, unexpired_at=NOW)
        assert [row.serial for row in rows] == [revoked.record.serial]
        assert await begun.certificate(live.record.serial) == live.record
        with pytest.raises(NotAuthenticated, match="is revoked"):
            await begun.record_issuance(
                [issuance()], requester=Requester(spiffe_id="x", serial=revoked.record.serial)
            )
        with pytest.raises(NotAuthenticated, match="is banned"):
            await begun.record_issuance([issuance()], requester=Requester(spiffe_id=str(AGENT)))

    async def test_serial_numbers_stay_set_aside(self, begun: Store) -> None:
        """The index goes on where it was, though no certificate is left."""
        first = await begun.reserve_serials("aa", 0, 10)
        await begun.record_issuance(
            [issuance(until=NOW - HOUR)], requester=Requester(spiffe_id="x")
        )
        await self.prune_certificates(begun, NOW + 1000 * HOUR)
        assert await begun.search(spiffe_id=None, state=None, after=None, limit=9, at=NOW) == []
        assert await begun.reserve_serials("aa", 0, 10) == first + 10

    async def test_a_used_token_lets_nobody_in_after_it_was_forgotten(self, begun: Store) -> None:
        """Tokens that expired are forgotten, used or not; none of them comes back to life."""
        (used, digest), (unused, other), (fresh, third) = token(), token(), token(lifetime=9 * HOUR)
        for row, secret in ((used, digest), (unused, other), (fresh, third)):
            await begun.create_token(row, digest=secret, audit=audit())
        agent = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
        await begun.enrol(
            agent, issuance(str(AGENT)), spend=JoinTokenUse(token_id=used.id), at=NOW, audit=audit()
        )
        later = NOW + 2 * HOUR
        note = audit("token.prune")
        assert await begun.prune_tokens(expired_before=later, limit=1, audit=note) == 1
        assert await begun.prune_tokens(expired_before=later, limit=9, audit=note) == 1
        assert list(await begun.tokens()) == [fresh]
        assert await begun.find_token(digest) is None
        for row in (used, unused):
            again = EnrolledAgent(spiffe_id=AGENT, enrolled_at=NOW, evidence="join-token")
            with pytest.raises(NotAuthenticated, match="was withdrawn"):
                await begun.enrol(
                    again,
                    issuance(str(AGENT)),
                    spend=JoinTokenUse(token_id=row.id),
                    at=NOW,
                    audit=audit(),
                )
        assert list(await begun.agents()) == [agent]

    async def test_the_audit_log_says_what_it_forgot(self, begun: Store) -> None:
        """The oldest entries go; the gap is explained, and a copy of them can be told."""
        before = await begun.audit_entries(after=0, limit=100)
        assert [e.sequence for e in before] == [1, 2]  # one at NOW, the other as well
        assert await self.prune_audit(begun, NOW) == 0  # not older than that
        later = AuditDraft(time=NOW + HOUR, actor="x", action="a", subject="y")
        row, digest = token()
        await begun.create_token(row, digest=digest, audit=later)
        assert await self.prune_audit(begun, NOW + HOUR, 1) == 1
        assert await self.prune_audit(begun, NOW + HOUR, 9) == 1
        entries = await begun.audit_entries(after=0, limit=100)
        assert [(e.sequence, e.action) for e in entries] == [
            (3, "a"),
            (4, "audit.prune"),
            (5, "audit.prune"),
        ]
        assert [(e.detail["first"], e.detail["last"], e.detail["count"]) for e in entries[1:]] == [
            (1, 1, 1),
            (2, 2, 1),
        ]
        first = initial_state().audit
        entry = canonical_json(
            {
                "action": first.action,
                "actor": first.actor,
                "detail": {},
                "subject": first.subject,
                "time": "2031-03-01T12:00:00.123Z",
            }
        )
        leaf = hashlib.sha256(b"\x00" + entry).digest()
        assert entries[1].detail["leaves_sha256"] == hashlib.sha256(leaf).hexdigest()

    async def test_sequence_numbers_of_the_audit_log_never_repeat(self, begun: Store) -> None:
        """Even if everything in it is old: the entry that says so is the next one."""
        size = await begun.audit_size()
        assert await self.prune_audit(begun, NOW + HOUR) == size
        (entry,) = await begun.audit_entries(after=0, limit=100)
        assert (entry.sequence, entry.action) == (size + 1, "audit.prune")
        assert await begun.audit_size() == size + 1

    async def test_after_closing_nothing_is_accepted(self, begun: Store) -> None:
        """What was accepted before is finished, the rest is refused."""
        items = [issuance() for _ in range(20)]
        requester = Requester(spiffe_id="x")
        accepted = [
            asyncio.ensure_future(begun.record_issuance([item], requester=requester))
            for item in items
        ]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(begun.close())
        assert await asyncio.gather(*accepted) == [{}] * 20
        await closing
