"""Delta lists, and the gate before every publication."""

import subprocess
from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import Conflict, InvalidInput, VerificationError
from legation.pki import RevocationList, RevokedEntry, build_crl, certificates_to_pem
from legation.pki.crl import (
    REASONS,
    REMOVED,
    DeltaList,
    admit,
    admit_delta,
    build_delta,
    changes,
)
from tests.support.pki import CA, HOUR, LEAF, NOW, make

SHARD = "http://crl.test/7.crl"
DELTA = "http://crl.test/7.delta.crl"
SPAN = {"this_update": NOW, "next_update": NOW + HOUR, "shard_url": SHARD}


def entry(serial, reason="superseded"):
    return RevokedEntry(serial, NOW - HOUR, reason)


def by_serial(*entries):
    return {each.serial: each for each in entries}


def whole(good, *entries, number=5, **settings):
    return build_crl(good.issuer.issuer, entries, number=number, **{**SPAN, **settings})


def delta(good, *entries, number=9, base_number=5, **settings):
    span = {**SPAN, **settings}
    return build_delta(good.issuer.issuer, entries, number=number, base_number=base_number, **span)


def base(good, *entries, **settings):
    return RevocationList.from_der(whole(good, *entries, **settings))


BOTH = by_serial(entry(1), entry(2))
HELD = entry(3, "certificateHold")


def test_a_delta_list_brings_an_older_list_up_to_date(good):
    """Additions, another reason and a release from hold; the rest stays as the base has it."""
    old = base(good, entry(1), entry(2), HELD)
    new = by_serial(entry(1), entry(2, "keyCompromise"), entry(4))
    told = list(changes(old, new, at=NOW))
    assert told == [entry(2, "keyCompromise"), entry(4), RevokedEntry(3, NOW, REMOVED)]
    read = DeltaList.from_der(delta(good, *told))
    assert (read.number, read.base_number, read.shard_url) == (9, 5, SHARD)
    assert read.added_to(old) == new
    assert read.verify_signature(good.issuer.certificate)
    assert not read.verify_signature(make(CA, subject="Issuer").certificate)


@given(
    st.dictionaries(st.integers(1, 40), st.sampled_from(sorted(REASONS))),
    st.dictionaries(st.integers(1, 40), st.sampled_from(sorted(REASONS))),
)
def test_any_two_lists_and_the_delta_between_them_agree(good, before, after):
    """Base and delta make the whole list, whatever was added, released or changed."""
    old = base(good, *(entry(*item) for item in before.items()))
    entries = by_serial(*(entry(*item) for item in after.items()))
    read = DeltaList.from_der(delta(good, *changes(old, entries, at=NOW)))
    assert read.added_to(old) == entries
    assert len(read.entries) <= len(before) + len(after)


@pytest.mark.parametrize("number", [4, 9, 10])
def test_a_delta_list_is_not_added_to_a_list_of_another_time(good, number):
    """Older than the base something is missing; as new as the delta it would go back."""
    with pytest.raises(Conflict, match=f"cannot be added to the list {number}"):
        DeltaList.from_der(delta(good)).added_to(base(good, number=number))
    assert DeltaList.from_der(delta(good)).added_to(base(good, number=8)) == {}


def test_a_delta_list_is_not_added_to_another_issuers_or_shards(good):
    """Name, key and scope all have to be the same."""
    read = DeltaList.from_der(delta(good))
    other = make(CA, good.root, subject="Issuer")
    for foreign in (
        RevocationList.from_der(build_crl(other.issuer, (), number=5, **SPAN)),
        base(good, shard_url="http://crl.test/8.crl"),
        base(good, shard_url=None),
    ):
        with pytest.raises(Conflict, match="cover different certificates"):
            read.added_to(foreign)


def test_whole_and_delta_lists_are_not_taken_for_each_other(good):
    """A verifier that reads a delta as a whole list would clear nearly everyone."""
    with pytest.raises(InvalidInput, match="where a whole one is wanted"):
        RevocationList.from_der(delta(good))
    with pytest.raises(InvalidInput, match="is no delta list"):
        DeltaList.from_der(whole(good))


def test_what_cannot_be_a_delta_is_refused(good):
    """One that does not follow its base, and a reason that nobody knows."""
    with pytest.raises(InvalidInput, match="cannot follow the list 9"):
        delta(good, base_number=9)
    with pytest.raises(InvalidInput, match="is not a reason for revocation"):
        delta(good, entry(1, "nonsense"))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_bytes_make_the_reader_of_deltas_fail_otherwise(good, position, value):
    """Any one-byte change of a delta list reads, or raises InvalidInput."""
    changed = bytearray(delta(good, entry(4), RevokedEntry(3, NOW, REMOVED)))
    changed[position % len(changed)] = value
    with suppress(InvalidInput, Conflict):
        read = DeltaList.from_der(bytes(changed))
        read.verify_signature(good.issuer.certificate)
        read.added_to(base(good))


# --- the gate --------------------------------------------------------------------------------


def admitted(good, der, **changes):
    arguments = {"previous": None, "shard_url": SHARD, "entries": BOTH, "at": NOW}
    return admit(der, good.issuer.certificate, **{**arguments, **changes})


def test_the_gate_gives_back_what_may_be_published(good):
    """The first list of a shard, and the next one, both as read from the very bytes."""
    first = admitted(good, whole(good, entry(1), entry(2)))
    der = whole(good, entry(1), number=6)
    assert admitted(good, der, previous=first, entries=by_serial(entry(1))).der == der


@pytest.mark.parametrize(
    ("settings", "changes", "error", "words"),
    [
        ({"shard_url": None}, {}, Conflict, "covers None, not"),
        ({"shard_url": "http://crl.test/8.crl"}, {}, Conflict, r"covers 'http://crl.test/8.crl'"),
        ({}, {"shard_url": None}, Conflict, "not None"),
        ({}, {"entries": by_serial(entry(1))}, Conflict, "says something else than it should"),
        ({}, {"entries": BOTH | by_serial(entry(3))}, Conflict, "says something else"),
        ({}, {"entries": by_serial(entry(1), entry(3))}, Conflict, "says something else"),
        ({}, {"entries": BOTH | by_serial(entry(1, "keyCompromise"))}, Conflict, "something else"),
        ({}, {"at": NOW - HOUR}, VerificationError, "it begins at"),
        ({}, {"at": NOW + HOUR}, VerificationError, "it ended at"),
        ({"number": 4}, {"previous": 5}, Conflict, "number 4 does not follow 5"),
        ({"number": 5}, {"previous": 5}, Conflict, "number 5 does not follow 5"),
    ],
)
def test_a_wrong_list_does_not_pass_the_gate(good, settings, changes, error, words):
    """Of another scope, with names too few or too many, too early, too late, going back."""
    if "previous" in changes:
        changes = {**changes, "previous": base(good, number=changes["previous"])}
    with pytest.raises(error, match=words):
        admitted(good, whole(good, entry(1), entry(2), **settings), **changes)


def test_a_certificate_listed_twice_does_not_pass_the_gate(good):
    """RFC 5280 knows one line for one certificate."""
    with pytest.raises(Conflict, match="says something else"):
        admitted(good, whole(good, entry(1), entry(2), entry(2)))


def test_altered_and_cut_lists_do_not_pass_the_gate(good):
    """Neither bytes that cannot be read nor bytes that were not signed."""
    der = whole(good, entry(1), entry(2))
    altered = der.replace(b"\x02\x01\x02", b"\x02\x01\x03")
    assert altered != der
    with pytest.raises(VerificationError, match="the issuer did not sign"):
        admitted(good, altered, entries=by_serial(entry(1), entry(3)))
    for broken in (der[:-1], der + b"\0", b""):
        with pytest.raises(InvalidInput):
            admitted(good, broken)


def test_a_delta_passes_the_gate_beside_its_whole_list(good):
    """Same number, scope and times; base and delta make the whole."""
    old, entries = base(good, HELD), by_serial(entry(4))
    now = base(good, entry(4), number=9)
    der = delta(good, *changes(old, entries, at=NOW))
    checked = admit_delta(
        der, good.issuer.certificate, base=old, whole=now, entries=entries, at=NOW
    )
    assert checked.der == der


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"number": 10}, Conflict, "not of the same moment"),
        ({"shard_url": None}, Conflict, "not of the same moment"),
        ({"next_update": NOW + 2 * HOUR}, Conflict, "not of the same moment"),
        ({"this_update": NOW - HOUR}, Conflict, "not of the same moment"),
        ({"base_number": 4}, Conflict, "for the list 4, not 5"),
        (
            {"this_update": NOW - 2 * HOUR, "next_update": NOW - HOUR},
            VerificationError,
            "it ended at",
        ),
    ],
)
def test_a_wrong_delta_does_not_pass_the_gate(good, settings, error, words):
    """Another moment, scope or base than the whole list beside it."""
    with pytest.raises(error, match=words):
        admit_delta(
            delta(good, **settings),
            good.issuer.certificate,
            base=base(good),
            whole=base(good, number=9),
            entries={},
            at=NOW,
        )


@pytest.mark.parametrize("told", [(), (entry(4),), (entry(4, "keyCompromise"),)])
def test_a_delta_that_says_something_else_does_not_pass_the_gate(good, told):
    """Forgotten releases, forgotten entries, and other reasons are all noticed."""
    with pytest.raises(Conflict, match="do not make the whole one"):
        admit_delta(
            delta(good, *told),
            good.issuer.certificate,
            base=base(good, HELD),
            whole=base(good, entry(4), number=9),
            entries=by_serial(entry(4)),
            at=NOW,
        )


def test_a_delta_by_another_hand_does_not_pass_the_gate(good):
    """RFC 5280, section 5.2.4: base and delta are signed with the same key."""
    other = make(CA, good.root, subject="Issuer")
    der = build_delta(other.issuer, (), number=9, base_number=5, **SPAN)
    with pytest.raises(VerificationError, match="bad_signature"):
        admit_delta(
            der,
            good.issuer.certificate,
            base=base(good),
            whole=base(good, number=9),
            entries={},
            at=NOW,
        )


# --- OpenSSL ---------------------------------------------------------------------------------


def openssl(directory, *arguments, data=None):
    return subprocess.run(
        ["openssl", *map(str, arguments)],
        cwd=directory, input=data, capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture
def verified(good, tmp_path):
    """Return OpenSSL's verdict on a leaf, by an older whole list and a delta list."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(SHARD)], None, None, None)
    points = ((x509.CRLDistributionPoints([point]), False),)
    leaf = make(LEAF, good.issuer, extra=points).certificate
    for word, one in (("root", good.root), ("issuer", good.issuer)):
        (tmp_path / word).write_bytes(certificates_to_pem([one.certificate]))
    (tmp_path / "leaf").write_bytes(certificates_to_pem([leaf]))

    def verdict(before, after):
        entries = [RevokedEntry(leaf.serial_number, NOW - HOUR, reason) for reason in before]
        old = base(good, *entries, delta_url=DELTA)
        new = by_serial(
            *(RevokedEntry(leaf.serial_number, NOW - timedelta(minutes=1), r) for r in after)
        )
        lists = b""
        for der in (old.der, delta(good, *changes(old, new, at=NOW))):
            lists += openssl(tmp_path, "crl", "-inform", "DER", data=der).stdout
        (tmp_path / "lists").write_bytes(lists)
        done = openssl(
            tmp_path,
            *("verify", "-CAfile", "root", "-untrusted", "issuer", "-crl_check"),
            *("-extended_crl", "-use_deltas", "-CRLfile", "lists"),
            *("-attime", int(NOW.timestamp()), "leaf"),
        )
        return "OK" if done.returncode == 0 else done.stderr.decode()

    return verdict


def test_openssl_obeys_delta_lists(verified):
    """It refuses whom the delta adds, and accepts whom it releases."""
    assert verified([], []) == "OK"
    assert "certificate revoked" in verified([], ["keyCompromise"])
    assert "certificate revoked" in verified(["certificateHold"], ["certificateHold"])
    assert verified(["certificateHold"], []) == "OK"
