"""Feed events, their signatures, and the fold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.errors import InvalidInput, NotAuthenticated
from legation.wire.feed import (
    Ban,
    FeedEvent,
    FeedSigner,
    FeedState,
    IssuerName,
    KeyBan,
    Kind,
    PublishedCRL,
    Revocation,
    SignedEvent,
    TLSMode,
    WorkloadEntry,
    open_event,
)
from legation.wire.feed.parts import event_element
from legation.wire.protobuf import agent_pb2
from tests.support.policies import allow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SIGNER = FeedSigner(ec.derive_private_key(1, ec.SECP256R1()))
OTHER = FeedSigner(ec.derive_private_key(2, ec.SECP256R1()))
AGENT = "spiffe://example.org/legation/agent/a"

ENTRY = WorkloadEntry(
    id="api",
    spiffe_id="spiffe://example.org/api",
    selectors=("unix:uid:1000",),
    agents=(AGENT,),
    dns_names=("api.example.org",),
)
REVOCATION = Revocation(
    serial=0xABC,
    spiffe_id="spiffe://example.org/api",
    issuer="00ff",
    reason="keyCompromise",
    revoked_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)
BAN = Ban(spiffe_id="spiffe://example.org/bad", reason="keyCompromise", since=NOW)
CRL = PublishedCRL(
    issuer="00ff", shard=3, number=7, this_update=NOW, next_update=NOW + timedelta(hours=1),
    url="http://127.0.0.1/crl/00ff/3.crl", der=b"\x30\x00",
)  # fmt: skip

POLICY = allow("spiffe://example.org/api", "spiffe://example.org/web", name="p")


def event(revision: int, kind: Kind, key: str, value: dict[str, Any] | None) -> FeedEvent:
    return FeedEvent(revision=revision, time_ms=1, kind=kind, key=key, value=value)


def test_a_signed_event_opens_with_the_right_key_only() -> None:
    """An event that nobody known has signed, or that was altered, is refused."""
    original = FeedEvent(
        revision=1, time_ms=5, kind=Kind.ENTRY, key="api", value=ENTRY.to_value(), audience=(AGENT,)
    )
    signed = SIGNER.sign(original)
    assert open_event(signed, [OTHER.public_key, SIGNER.public_key]) == original
    with pytest.raises(NotAuthenticated):
        open_event(signed, [OTHER.public_key])
    altered = SignedEvent(body=signed.body.replace(b"api", b"apx"), signature=signed.signature)
    with pytest.raises(NotAuthenticated):
        open_event(altered, [SIGNER.public_key])
    for signature in (
        b"",
        signed.signature[:-1],
        signed.signature + b"\0",
        bytes(64),
        b"\xff" * 64,
    ):
        with pytest.raises(NotAuthenticated):
            open_event(SignedEvent(body=signed.body, signature=signature), [SIGNER.public_key])
    assert SIGNER.sign(original) == signed


def test_an_event_is_seen_by_its_audience_only() -> None:
    """Without an audience everyone sees it."""
    assert event(1, Kind.BAN, "x", None).visible_to(AGENT)
    limited = FeedEvent(
        revision=1, time_ms=1, kind=Kind.ENTRY, key="e", value=None, audience=(AGENT,)
    )
    assert limited.visible_to(AGENT)
    assert not limited.visible_to(AGENT + "x")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"null",
        b'"kind"',
        b'{"audience":null,"key":"k","kind":"ban","revision":1,"time_ms":1}',
        b'{"audience":null,"key":"k","kind":"ban","revision":1,"time_ms":1,"value":[]}',
        b'{"audience":null,"key":"k","kind":["ban"],"revision":1,"time_ms":1,"value":null}',
        b'{"audience":"k","key":"k","kind":"ban","revision":1,"time_ms":1,"value":null}',
        b'{"audience":null,"key":"k","kind":"ban","revision":0,"time_ms":1,"value":null}',
        b'{"audience":null,"key":"k","kind":"ban","revision":1,"time_ms":-1,"value":null}',
        b'{"audience":null,"key":"k","kind":"ban","revision":1,"time_ms":%d,"value":null}' % 2**53,
        b'{"audience":null,"key":"k","kind":"nonsense","revision":1,"time_ms":1,"value":null}',
        b'{"audience":[1],"key":"k","kind":"ban","revision":1,"time_ms":1,"value":null}',
        b'{"audience":null,"key":"k","kind":"ban","revision":"1","time_ms":1,"value":null}',
    ],
)
def test_what_is_not_an_event_is_refused(body: bytes) -> None:
    """A body of another shape or kind is invalid input."""
    with pytest.raises(InvalidInput):
        FeedEvent.from_bytes(body)


@pytest.mark.parametrize("value", [REVOCATION, BAN, CRL, ENTRY])
def test_values_survive_the_trip(value: Any) -> None:
    """What a feed value renders, it reads back; anything less is refused."""
    document = value.to_value()
    assert type(value).from_value(document) == value
    for name in document:
        lacking = {key: item for key, item in document.items() if key != name}
        if name in {"dns_names", "common_name", "lifetime_s", "key_algorithm", "owner", "mtls"}:
            continue
        with pytest.raises(InvalidInput):
            type(value).from_value(lacking)
    with pytest.raises(InvalidInput):
        type(value).from_value({**document, "spiffe_id": 7, "issuer": 7, "number": "x"})


@pytest.mark.parametrize(
    ("value", "change", "words"),
    [
        (REVOCATION, {"serial": "xyz"}, "not a revocation in the feed: ValueError"),
        (REVOCATION, {"reason": 7}, "not a revocation in the feed: TypeError"),
        (BAN, {"since": "2026-06-01T00:00:00"}, "not a ban in the feed: ValueError"),
        (BAN, {"reason": None}, "not a ban in the feed: TypeError"),
        (CRL, {"der": "%"}, "not a CRL in the feed: Error"),
        (CRL, {"shard": True}, "not a CRL in the feed: TypeError"),
        (CRL, {"compact": []}, "not a CRL in the feed: TypeError"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(
    value: Any, change: dict[str, object], words: str
) -> None:
    """The kind of value, and what reading it met."""
    with pytest.raises(InvalidInput, match=words):
        type(value).from_value({**value.to_value(), **change})


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384])
def test_an_event_is_signed_together_as_it_is_on_the_wire(size: int) -> None:
    """An element of a part is what protobuf makes of it, whatever its length."""
    body = b"b" * size
    part = agent_pb2.Events(events=[agent_pb2.Event(body=body, signature=b"s" * 64)])
    assert event_element(body, b"s" * 64) == part.SerializeToString()


def test_an_entry_says_that_it_obliges_only_if_it_does() -> None:
    """Agents that do not know the field yet understand every entry without it."""
    assert "must_staple" not in ENTRY.to_value()
    obliging = ENTRY.model_copy(update={"must_staple": True})
    assert obliging.to_value() == {**ENTRY.to_value(), "must_staple": True}
    assert WorkloadEntry.from_value(obliging.to_value()) == obliging
    with pytest.raises(InvalidInput, match="must_staple"):
        WorkloadEntry.from_value({**ENTRY.to_value(), "must_staple": "perhaps"})


def test_the_fold_holds_the_newest_of_every_key() -> None:
    """Setting, replacing and deleting each kind leaves what the last event said."""
    state = FeedState()
    kinds = [
        (Kind.ENTRY, "api", ENTRY.to_value(), "entries"),
        (Kind.POLICY, "p", POLICY, "policies"),
        (Kind.REVOCATION, "abc", REVOCATION.to_value(), "revocations"),
        (Kind.BAN, BAN.spiffe_id, BAN.to_value(), "bans"),
        (Kind.CRL, CRL.key, CRL.to_value(), "crls"),
        (Kind.BUNDLE, "example.org", {"keys": [], "spiffe_sequence": 1}, "bundles"),
    ]
    revision = 0
    for kind, key, value, attribute in kinds:
        revision += 1
        state.apply(event(revision, kind, key, value))
        assert len(getattr(state, attribute)) == 1
        assert state.revision == revision
    assert list(state.entries_of(AGENT)) == [ENTRY]
    assert list(state.entries_of(AGENT + "x")) == []
    for kind, key, _, attribute in kinds:
        revision += 1
        state.apply(event(revision, kind, key, None))
        assert getattr(state, attribute) == {}


def test_a_revision_that_does_not_rise_is_refused() -> None:
    """Old or repeated events change nothing."""
    state = FeedState()
    state.apply(event(5, Kind.BAN, BAN.spiffe_id, BAN.to_value()))
    for revision in (5, 4):
        with pytest.raises(InvalidInput, match="after 5"):
            state.apply(event(revision, Kind.BAN, BAN.spiffe_id, None))
    assert state.bans


def test_a_value_that_does_not_fit_leaves_the_state_alone() -> None:
    """A broken value is refused, and the revision stays."""
    state = FeedState()
    with pytest.raises(InvalidInput):
        state.apply(event(1, Kind.ENTRY, "api", {"id": "api"}))
    assert state.revision == 0
    assert not state.entries


@pytest.mark.parametrize("value", [REVOCATION.to_value(), None])
def test_a_revocation_is_of_a_serial_number(value: dict[str, Any] | None) -> None:
    """Under another key it says nothing, set or deleted."""
    state = FeedState()
    with pytest.raises(InvalidInput, match="'zz' is not the serial number of a revocation"):
        state.apply(event(1, Kind.REVOCATION, "zz", value))
    assert (state.revision, len(state.revocations)) == (0, 0)


def test_a_revoked_serial_and_a_banned_identity_are_refused() -> None:
    """The reason is one of the fixed words; everyone else is let through."""
    state = FeedState()
    state.apply(event(1, Kind.REVOCATION, "abc", REVOCATION.to_value()))
    state.apply(event(2, Kind.BAN, BAN.spiffe_id, BAN.to_value()))
    assert state.refusal(serial=0xABC, spiffe_id=ENTRY.spiffe_id) is Cause.CERTIFICATE_REVOKED
    assert state.refusal(serial=1, spiffe_id=BAN.spiffe_id) is Cause.IDENTITY_BANNED
    assert state.refusal(serial=1, spiffe_id=ENTRY.spiffe_id) is None
    assert state.forget_expired(NOW) == []
    assert state.forget_expired(NOW + timedelta(hours=2)) == [0xABC]
    assert state.refusal(serial=0xABC, spiffe_id=ENTRY.spiffe_id) is None


def test_what_is_over_is_forgotten_a_bounded_part_at_a_time() -> None:
    """The oldest ends first; what was released, or revoked anew for good, counts once."""
    state = FeedState()
    for number in range(1, 8):
        row = replace(REVOCATION, serial=number, expires_at=NOW + timedelta(minutes=number % 3))
        state.apply(event(number, Kind.REVOCATION, format(number, "x"), row.to_value()))
    again = replace(REVOCATION, serial=1, expires_at=NOW + timedelta(minutes=1))
    state.apply(event(8, Kind.REVOCATION, "1", again.to_value()))
    state.apply(event(9, Kind.REVOCATION, "4", None))
    late = NOW + timedelta(hours=1)
    assert state.forget_expired(late, most=2) == [6, 3]
    assert sorted(state.forget_expired(late, most=2)) == [1, 7]
    assert state.forget_expired(NOW + timedelta(minutes=2), most=2) == []
    assert sorted(state.forget_expired(late, most=9)) == [2, 5]
    assert state.forget_expired(late) == []
    assert not state.revocations


def test_with_an_issuer_goes_whatever_names_it() -> None:
    """Revoked, it takes what it has signed with it, known or not, until its own end."""
    row = replace(REVOCATION, signs_as=IssuerName(name="CN=Issuing CA 1", key_id="ab12"))
    assert Revocation.from_value(row.to_value()) == row
    state = FeedState()
    state.apply(event(1, Kind.REVOCATION, "abc", row.to_value()))
    known = {"serial": 1, "spiffe_id": "spiffe://example.org/web"}
    assert state.refusal(**known, issuer_name="CN=Issuing CA 1") is Cause.CERTIFICATE_REVOKED
    assert state.refusal(**known, issuer_name="CN=Issuing CA 2") is None
    assert state.refusal(**known) is None
    state.forget_expired(NOW + timedelta(hours=2))
    assert state.refusal(**known, issuer_name="CN=Issuing CA 1") is None


@pytest.mark.parametrize(
    ("reason", "ends"), [("cACompromise", Cause.CERTIFICATE_REVOKED), ("superseded", None)]
)
def test_only_a_bad_issuer_ends_what_is_open(reason: str, ends: Cause | None) -> None:
    """New connections are refused in both cases, those that are open only if it was bad."""
    signs_as = IssuerName(name="CN=Issuing CA 1", key_id="ab12")
    row = replace(REVOCATION, signs_as=signs_as, reason=reason)
    state = FeedState()
    state.apply(event(1, Kind.REVOCATION, "abc", row.to_value()))
    shown = {"serial": 1, "spiffe_id": "spiffe://example.org/web", "issuer_name": signs_as.name}
    assert state.refusal(**shown) is Cause.CERTIFICATE_REVOKED
    assert state.refusal(**shown, is_open=True) is ends
    assert state.refusal(**{**shown, "serial": 0xABC}, is_open=True) is Cause.CERTIFICATE_REVOKED


@pytest.mark.parametrize("signs_as", [{}, {"name": 1, "key_id": "a"}, "CN=x", {"name": "CN=x"}])
def test_what_does_not_name_an_issuer_is_refused(signs_as: object) -> None:
    """A revocation whose issuer's name cannot be read is no revocation."""
    with pytest.raises(InvalidInput, match="not a revocation"):
        Revocation.from_value({**REVOCATION.to_value(), "signs_as": signs_as})


def test_a_certificate_with_another_end_stays_refused() -> None:
    """The end that the feed said last counts, not one that it said before."""
    state = FeedState()
    for revision, minutes in ((1, 1), (2, 9)):
        row = replace(REVOCATION, expires_at=NOW + timedelta(minutes=minutes))
        state.apply(event(revision, Kind.REVOCATION, "abc", row.to_value()))
    assert state.forget_expired(NOW + timedelta(minutes=5)) == []
    assert state.forget_expired(NOW + timedelta(minutes=10)) == [0xABC]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20), st.data())
def test_a_snapshot_and_the_rest_say_what_all_events_say(
    changes: list[tuple[str, bool]], data: st.DataObject
) -> None:
    """Snapshot at any revision plus the events after it folds to the same state."""
    events = [
        event(
            number,
            Kind.BAN,
            f"spiffe://example.org/{key}",
            {**BAN.to_value(), "spiffe_id": f"spiffe://example.org/{key}"} if present else None,
        )
        for number, (key, present) in enumerate(changes, 1)
    ]
    cut = data.draw(st.integers(0, len(events)))
    whole, resumed = FeedState(), FeedState()
    for item in events:
        whole.apply(item)
    newest = {item.key: item for item in events[:cut]}
    for item in newest.values():
        resumed.restore(item)
    for item in events[cut:]:
        resumed.apply(item)
    assert resumed.bans == whole.bans
    assert resumed.revision == whole.revision


@pytest.mark.parametrize(
    "fields",
    [
        {"spiffe_id": "http://example.org/x"},
        {"selectors": ()},
        {"selectors": ("uid:1",)},
        {"selectors": ("unix:uid:1\n",)},
        {"agents": ()},
        {"dns_names": ("Upper.example.org",)},
        {"lifetime_s": 1},
        {"id": "a b"},
        {"surprise": 1},
    ],
)
def test_an_entry_that_breaks_a_rule_is_refused(fields: dict[str, Any]) -> None:
    """Each field has its bounds."""
    with pytest.raises(InvalidInput):
        WorkloadEntry.from_value({**ENTRY.to_value(), **fields})
    assert ENTRY.mtls is TLSMode.STRICT


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "ab"},
        {"fingerprint": "zz" * 32},
        {"fingerprint": 1},
        {"since": "2026-01-01T00:00:00"},
        {"reason": None},
    ],
)
def test_a_banned_key_is_told_by_its_sha256(change: dict[str, object]) -> None:
    """It reads back as it was, is dropped with its event, and is nothing else."""
    ban = KeyBan(fingerprint=bytes(range(32)), reason="keyCompromise", since=NOW)
    assert KeyBan.from_value(ban.to_value()) == ban
    key, state = ban.fingerprint.hex(), FeedState()
    state.apply(event(1, Kind.KEY_BAN, key, ban.to_value()))
    assert state.key_bans == {key: ban}
    with pytest.raises(InvalidInput, match="not a ban of a key"):
        state.apply(event(2, Kind.KEY_BAN, key, {**ban.to_value(), **change}))
    state.apply(event(2, Kind.KEY_BAN, key, None))
    assert state.key_bans == {}
