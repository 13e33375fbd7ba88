"""Lists that add to the one before them: the same bytes, and no way around the gate."""

from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import Conflict, InvalidInput, LimitExceeded, VerificationError
from legation.pki import RevocationList, RevokedEntry, build_crl
from legation.pki.crl import REASONS, admit, admit_following, reading
from tests.support.pki import CA, HOUR, NOW, make

SHARD = "http://crl.test/7.crl"
SPAN = {"this_update": NOW, "next_update": NOW + HOUR, "shard_url": SHARD}


def entry(serial, reason="superseded"):
    return RevokedEntry(serial, NOW - HOUR, reason)


def by_serial(*entries):
    return {each.serial: each for each in entries}


def written(good, *entries, number=5, **settings):
    return build_crl(good.issuer.issuer, entries, number=number, **{**SPAN, **settings})


def first(good, *entries):
    return admit(
        written(good, *entries),
        good.issuer.certificate,
        previous=None,
        shard_url=SHARD,
        entries=by_serial(*entries),
        at=NOW,
    )


def followed(good, der, before, *added, **changes):
    arguments = {"previous": before, "shard_url": SHARD, "added": by_serial(*added), "at": NOW}
    return admit_following(der, good.issuer.certificate, **{**arguments, **changes})


def signed_part(der):
    return x509.load_der_x509_crl(der).tbs_certlist_bytes


@given(
    st.lists(st.integers(1, 1 << 100), max_size=200, unique=True),
    st.integers(0, 200),
    st.sampled_from(sorted(REASONS)),
)
def test_a_list_made_by_adding_is_the_list_made_of_everything(good, serials, already, reason):
    """Byte for byte but for the signature, also where there was nothing or is nothing to add."""
    entries = [entry(serial, reason) for serial in serials]
    before = first(good, *entries[:already])
    der = written(good, *entries[already:], number=6, after=before)
    assert signed_part(der) == signed_part(written(good, *entries, number=6))
    new = followed(good, der, before, *entries[already:])
    assert (new.der, new.number, new.count) == (der, 6, len(entries))
    assert new.entries == RevocationList.from_der(der).entries == by_serial(*entries)
    assert new.verify_signature(good.issuer.certificate)
    assert not new.verify_signature(make(CA, subject="Issuer").certificate)


def test_many_follow_each_other(good):
    """None of them is read but for its last line, and all of them say everything."""
    entries = [entry(serial) for serial in range(1, 31)]
    held = first(good)
    for number, one in enumerate(entries, start=6):
        held = followed(good, written(good, one, number=number, after=held), held, one)
    assert held.entries == by_serial(*entries)
    assert held.reason_for(30) == "superseded"
    assert RevocationList.from_der(held.der).count == held.count == 30


@pytest.mark.parametrize(
    ("settings", "changes", "error", "words"),
    [
        ({}, {"added": {}}, Conflict, "says something else than it should"),
        ({}, {"added": by_serial(entry(3), entry(4))}, Conflict, "says something else"),
        ({}, {"added": by_serial(entry(3, "keyCompromise"))}, Conflict, "says something else"),
        ({"number": 5}, {}, Conflict, "number 5 does not follow 5"),
        ({"shard_url": None}, {}, Conflict, "covers other certificates"),
        ({"shard_url": "http://crl.test/8.crl"}, {}, Conflict, "covers other certificates"),
        ({}, {"at": NOW + HOUR}, VerificationError, "it ended at"),
        ({}, {"at": NOW - HOUR}, VerificationError, "it begins at"),
        ({"this_update": NOW - HOUR}, {}, Conflict, "older than the previous"),
    ],
)
def test_a_wrong_addition_does_not_pass_the_gate(good, settings, changes, error, words):
    """More or less than it should add, of another scope, too early, too late, going back."""
    before = first(good, entry(1), entry(2))
    der = written(good, entry(3), **{"number": 6, "after": before, **settings})
    with pytest.raises(error, match=words):
        followed(good, der, before, entry(3), **changes)


def test_other_lines_before_the_added_do_not_pass_the_gate(good):
    """One is missing, two have changed places, or one is another."""
    before = first(good, entry(1), entry(2))
    for lines in ([1, 3], [2, 1, 3], [1, 4, 3], [3], []):
        der = written(good, *map(entry, lines), number=6)
        with pytest.raises(InvalidInput, match="does not begin with the lines"):
            followed(good, der, before, entry(3))


def test_altered_and_cut_additions_do_not_pass_the_gate(good):
    """Bytes that were not signed, bytes behind the end, lines that are none."""
    before = first(good, entry(1), entry(2))
    der = written(good, entry(3), number=6, after=before)
    altered = der.replace(b"\x02\x01\x03", b"\x02\x01\x04")
    assert altered != der
    with pytest.raises(VerificationError, match="the issuer did not sign"):
        followed(good, altered, before, entry(4))
    for broken in (der[:-1], der + b"\0", b"", altered.replace(b"\x02\x01\x04", b"\x0c\x01\x04")):
        with pytest.raises(InvalidInput):
            followed(good, broken, before, entry(3))


def test_another_issuer_does_not_go_on_with_a_list(good):
    """Its lines may be the same, the key is not."""
    before = first(good, entry(1))
    other = make(CA, good.root, subject="Issuer")
    der = build_crl(other.issuer, [entry(2)], number=6, after=before, **SPAN)
    with pytest.raises(VerificationError, match="the issuer did not sign"):
        followed(good, der, before, entry(2))


def test_a_list_that_has_grown_too_long_is_refused(good, monkeypatch):
    """The bound is on all of it, not on what is read."""
    before = first(good, entry(1))
    der = written(good, entry(2), number=6, after=before, next_update=NOW + timedelta(days=1))
    monkeypatch.setattr(reading, "MAX_CRL_SIZE", len(der) - 1)
    with pytest.raises(LimitExceeded, match="has at most"):
        followed(good, der, before, entry(2))
