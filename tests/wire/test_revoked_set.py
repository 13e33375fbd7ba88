"""The signed revoked set: from anywhere, believed only as the authority signed it."""

import dataclasses
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.errors import Conflict, InvalidInput, LegationError, LimitExceeded, NotAuthenticated
from legation.pki import SerialNumber
from legation.pki.revoked_set import MAX_SIZE, RevokedSet
from legation.wire.feed import CompactSet, FeedSigner, PublishedCRL
from legation.wire.revoked_set import PublishedSet

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SIGNER = FeedSigner(ec.generate_private_key(ec.SECP256R1()))
KEYS = (FeedSigner(ec.generate_private_key(ec.SECP256R1())).public_key, SIGNER.public_key)
REVOKED = SerialNumber(random=1 << 63, shard=3, index=5).to_int()
GOOD = SerialNumber(random=1 << 63, shard=3, index=6).to_int()
SET = PublishedSet(
    issuer="ab12",
    number=1_930_000_000_000,
    this_update=NOW,
    next_update=NOW + HOUR,
    revoked=RevokedSet.from_indices([5], shard=3),
)


def signed(document):
    """Sign anything with the key that signs sets."""
    return document + SIGNER._sign(document)


def test_a_signed_set_is_a_round_trip():
    """Opened with any of the known keys, it is what was signed, and always the same bytes."""
    data = SET.sign(SIGNER)
    assert PublishedSet.open(data, KEYS) == SET
    assert data == SET.sign(SIGNER)
    assert data.startswith(b"legation-revoked-set-1\n{")


def test_a_set_by_another_hand_is_not_believed():
    """Signed by an unknown key, cut, or with one bit changed."""
    data = SET.sign(SIGNER)
    flipped = bytearray(data)
    flipped[-70] ^= 1
    for forged in (
        SET.sign(FeedSigner(ec.generate_private_key(ec.SECP256R1()))),
        bytes(flipped),
        data[:-1],
        data + b"\0",
        b"",
    ):
        with pytest.raises(NotAuthenticated, match="no known feed key"):
            PublishedSet.open(forged, KEYS)
    with pytest.raises(NotAuthenticated):
        PublishedSet.open(data, KEYS[:1])
    with pytest.raises(LimitExceeded):
        PublishedSet.open(bytes(2 * MAX_SIZE), KEYS)


HEADER = (
    b'{"issuer":"ab12","next_update":"2031-03-01T13:00:00Z","number":1,'
    b'"this_update":"2031-03-01T12:00:00Z"}'
)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b'{"kind":"crl"}', "not a signed revoked set of this version"),
        (b"legation-revoked-set-2\n" + HEADER + b"\n\x01\xc0", "of this version"),
        (b"legation-revoked-set-1\n" + HEADER, "without its set"),
        (b"legation-revoked-set-1\n" + HEADER + b"\n", "version 1"),
        (b"legation-revoked-set-1\n{}\n\x01\xc0", "not the header"),
        (b"legation-revoked-set-1\n[]\n\x01\xc0", "not the header"),
        (b"legation-revoked-set-1\n" + HEADER.replace(b"1,", b"true,") + b"\n\x01\xc0", "header"),
        (b"legation-revoked-set-1\n" + HEADER.replace(b"{", b'{"a":1,') + b"\n\x01\xc0", "header"),
        (b"legation-revoked-set-1\n" + HEADER.replace(b"Z", b"") + b"\n\x01\xc0", "not the header"),
    ],
)
def test_what_is_signed_and_no_set_is_refused(document, words):
    """The key signs other things, and later versions."""
    PublishedSet.open(signed(b"legation-revoked-set-1\n" + HEADER + b"\n\x01\xc0"), KEYS)
    with pytest.raises(InvalidInput, match=words):
        PublishedSet.open(signed(document), KEYS)


def test_a_document_that_could_be_an_event_is_not_signed():
    """So that no document is ever folded as an event of the feed."""
    with pytest.raises(InvalidInput, match="begins with a brace"):
        SIGNER.sign_document(b'{"revision":1}')


@pytest.mark.parametrize(
    ("serial", "issuer", "at", "causes"),
    [
        (GOOD, "ab12", NOW, []),
        (REVOKED, "ab12", NOW, [Cause.CERTIFICATE_REVOKED]),
        (GOOD, "ab12", NOW + HOUR, []),
        (GOOD, "ab12", NOW - HOUR, [Cause.REVOCATION_DATA_STALE]),
        (GOOD, "ab12", NOW + 2 * HOUR, [Cause.REVOCATION_DATA_STALE]),
        (
            REVOKED,
            "ab12",
            NOW + 2 * HOUR,
            [Cause.REVOCATION_DATA_STALE, Cause.CERTIFICATE_REVOKED],
        ),
        (GOOD, "cd34", NOW, [Cause.REVOCATION_DATA_MISSING]),
        (REVOKED, "cd34", NOW, [Cause.REVOCATION_DATA_MISSING]),
        (
            SerialNumber(random=1 << 63, shard=4, index=6).to_int(),
            "ab12",
            NOW,
            [Cause.REVOCATION_DATA_MISSING],
        ),
    ],
)
def test_a_set_clears_only_whom_it_can_speak_of(serial, issuer, at, causes):
    """In its time, of its issuer and shard; anything else counts against the certificate."""
    found = SET.failures(serial, issuer=issuer, at=at)
    assert [failure.cause for failure in found] == causes


def test_a_foreign_serial_number_is_refused():
    """Its layout says nothing of shard and index."""
    with pytest.raises(InvalidInput):
        SET.failures(1 << 140, issuer="ab12", at=NOW)


def test_an_older_set_does_not_take_the_place_of_a_newer_one():
    """Neither by number nor by time, nor does another shard's."""
    newer = dataclasses.replace(SET, number=SET.number + 1, this_update=NOW + HOUR / 2)
    newer.require_newer_than(SET)
    SET.require_newer_than(SET)
    for older, words in (
        (SET, "is older than"),
        (dataclasses.replace(newer, number=1), "is older than"),
        (dataclasses.replace(newer, this_update=NOW), "is older than"),
        (dataclasses.replace(newer, issuer="cd34"), "another issuer's or shard's"),
        (
            dataclasses.replace(newer, revoked=RevokedSet.from_indices([5], shard=4)),
            "another issuer's or shard's",
        ),
    ):
        with pytest.raises(Conflict, match=words):
            older.require_newer_than(newer)


@given(st.binary(max_size=200))
def test_whatever_is_signed_is_read_or_refused(content):
    """No signed bytes raise anything but our errors."""
    with suppress(LegationError):
        PublishedSet.open(signed(b"legation-revoked-set-1\n" + content), KEYS)
    with suppress(LegationError):
        PublishedSet.open(signed(b"legation-revoked-set-1\n" + HEADER + b"\n" + content), KEYS)


CRL = PublishedCRL(
    issuer="ab12", shard=3, number=5, this_update=NOW, next_update=NOW + HOUR, url="", der=b"list"
)


def test_the_feed_names_the_set_beside_its_list():
    """Where it is and its digest; a list without one looks as before."""
    named = dataclasses.replace(CRL, compact=CompactSet(url="http://x/3.set", sha256="ab", size=9))
    assert PublishedCRL.from_value(named.to_value()) == named
    assert PublishedCRL.from_value(CRL.to_value()) == CRL
    assert "compact" not in CRL.to_value()


@pytest.mark.parametrize("compact", [1, [], {}, {"url": 1, "sha256": "", "size": 1}, {"url": ""}])
def test_a_malformed_mention_of_a_set_is_refused(compact):
    """In words, as anything else that is wrong in the feed."""
    with pytest.raises(InvalidInput, match="not a CRL in the feed"):
        PublishedCRL.from_value({**CRL.to_value(), "compact": compact})
