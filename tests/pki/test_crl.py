import subprocess
from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.errors import Conflict, InvalidInput, LimitExceeded, VerificationError
from legation.pki import (
    KeyAlgorithm,
    RevocationList,
    RevokedEntry,
    build_crl,
    certificates_to_pem,
    check_successor,
    generate_key,
)
from legation.pki.crl import REASONS, times_of
from legation.pki.der import SEQUENCE, encode, split_first
from tests.support.pki import CA, DAY, HOUR, LEAF, NOW, key_usage, make, name

SHARD = "http://crl.test/7"


def build(good, *entries, **changes):
    arguments = {
        "number": 5,
        "this_update": NOW,
        "next_update": NOW + HOUR,
        "shard_url": SHARD,
    }
    return build_crl(good.issuer.issuer, entries, **{**arguments, **changes})


def read(good, *entries, **changes):
    return RevocationList.from_der(build(good, *entries, **changes))


def revoked(certificate, reason="keyCompromise"):
    return RevokedEntry(certificate.serial_number, NOW - HOUR, reason)


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
def test_a_list_is_a_round_trip_for_every_algorithm(algorithm):
    """What is put into a list is read from it, and its signature is valid, for every key."""
    made = make(CA, subject="x", key=generate_key(algorithm), digest=_digest(algorithm))
    entries = [RevokedEntry(n, NOW, reason) for n, reason in enumerate(sorted(REASONS), 1)]
    crl = RevocationList.from_der(
        build_crl(made.issuer, entries, number=9, this_update=NOW, next_update=NOW + DAY)
    )
    assert (crl.number, crl.this_update, crl.next_update) == (9, NOW, NOW + DAY)
    assert crl.issuer_key_id_hex == made.issuer.key_id_hex
    assert crl.shard_url is None
    assert list(crl.entries.values()) == entries
    assert crl.verify_signature(made.certificate)
    assert crl.verify_signature(made.certificate)
    assert not crl.verify_signature(make(CA, subject="x").certificate)
    assert not crl.verify_signature(make(CA, subject="y", key=made.key).certificate)


def _digest(algorithm):
    return hashes.SHA384() if algorithm is KeyAlgorithm.P384 else None


def test_a_revoked_certificate_is_found(good):
    """A listed certificate is refused with its reason, an unlisted one is not."""
    leaf = good.leaf.certificate
    clean, listed = read(good), read(good, revoked(leaf))
    clean.check(leaf, NOW)
    assert clean.reason_for(leaf.serial_number) is None
    assert listed.reason_for(leaf.serial_number) == "keyCompromise"
    with pytest.raises(VerificationError, match=r"was revoked at .*: keyCompromise") as caught:
        listed.check(leaf, NOW)
    assert [failure.cause for failure in caught.value.failures] == [Cause.CERTIFICATE_REVOKED]


@pytest.mark.parametrize(
    ("at", "fresh"),
    [
        (NOW - timedelta(seconds=1), False),
        (NOW, True),
        (NOW + HOUR, True),
        (NOW + HOUR + timedelta(seconds=1), False),
    ],
)
def test_a_list_counts_within_its_time(good, at, fresh):
    """Before its beginning and after its next update a list clears nobody."""
    causes = [failure.cause for failure in read(good).failures(good.leaf.certificate, at)]
    assert causes == ([] if fresh else [Cause.REVOCATION_DATA_STALE])


@pytest.mark.parametrize("year", [1970, 2031, 2049, 2050, 2131])
def test_times_are_read_from_the_beginning_of_a_list(good, year):
    """In both forms that RFC 5280 has for them, without reading the lines."""
    begin = NOW.replace(year=year)
    der = build(good, *[RevokedEntry(n, begin) for n in range(1, 90)],
                this_update=begin, next_update=begin + HOUR)  # fmt: skip
    assert times_of(der) == (begin, begin + HOUR)
    read = RevocationList.from_der(der)
    assert (read.this_update, read.next_update) == times_of(der)
    assert read.entries[7].revoked_at == begin


@pytest.mark.parametrize("cut", [0, 1, 6, 40, 80])
def test_times_of_what_is_no_list_are_refused(good, cut):
    """Cut bytes, and bytes that stand where a time should be."""
    with pytest.raises(InvalidInput, match="DER"):
        times_of(build(good)[:cut])
    with pytest.raises(InvalidInput, match="no readable times"):
        times_of(good.leaf.certificate.public_bytes(Encoding.DER))


def test_a_list_of_another_scope_clears_nobody(good):
    """Another shard, a certificate without shard, or another issuer: the list cannot tell."""
    leaf = good.leaf.certificate
    plain = make(LEAF, good.issuer).certificate
    assert read(good, shard_url=None).covers(leaf)
    assert read(good, shard_url=None).covers(plain)
    for crl, certificate in (
        (read(good, shard_url="http://crl.test/8"), leaf),
        (read(good), plain),
        (read(good, shard_url=None), good.issuer.certificate),
    ):
        assert not crl.covers(certificate)
        with pytest.raises(VerificationError, match="another issuer's or shard's"):
            crl.check(certificate, NOW)


def test_a_distribution_point_for_other_lists_does_not_count(good):
    """A point for an indirect list, or for some reasons only, does not name our shard."""
    for fields in (
        {"crl_issuer": [x509.DirectoryName(name("other"))], "reasons": None},
        {"crl_issuer": None, "reasons": frozenset({x509.ReasonFlags.superseded})},
    ):
        points = x509.CRLDistributionPoints(
            [
                x509.DistributionPoint(
                    full_name=[x509.UniformResourceIdentifier(SHARD)],
                    relative_name=None,
                    **fields,
                )
            ]
        )
        leaf = make(LEAF, good.issuer, extra=((points, False),)).certificate
        assert not read(good).covers(leaf)


def openssl(*arguments):
    return subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("url", [SHARD, None])
def test_openssl_reads_and_obeys_our_lists(good, tmp_path, url):
    """`openssl crl` verifies the list, and `openssl verify` refuses whom it names."""
    files = {}
    for word, made in (("root", good.root), ("issuer", good.issuer), ("leaf", good.leaf)):
        files[word] = tmp_path / f"{word}.pem"
        files[word].write_bytes(certificates_to_pem([made.certificate]))
    for entries, verdict in (((), 0), ((revoked(good.leaf.certificate),), 2)):
        der = tmp_path / "list.der"
        der.write_bytes(build(good, *entries, shard_url=url))
        shown = openssl("crl", "-inform", "DER", "-in", der, "-CAfile", files["issuer"], "-text")
        assert "verify OK" in shown.stderr
        assert "X509v3 CRL Number: \n                5" in shown.stdout
        assert ("X509v3 Issuing Distribution Point: critical" in shown.stdout) == (url is not None)
        assert ("Key Compromise" in shown.stdout) == bool(entries)
        pem = tmp_path / "list.pem"
        openssl("crl", "-inform", "DER", "-in", der, "-out", pem)
        told = openssl(
            *("verify", "-CAfile", files["root"], "-untrusted", files["issuer"]),
            *("-crl_check", "-extended_crl", "-CRLfile", pem),
            *("-attime", int(NOW.timestamp()), files["leaf"]),
        )
        assert told.returncode == verdict, told.stderr
        assert ("certificate revoked" in told.stderr) == bool(entries)


@given(
    st.lists(
        st.builds(
            RevokedEntry,
            st.integers(1, (1 << 128) - 1),
            st.integers(-(10**8), 0).map(lambda seconds: NOW + timedelta(seconds=seconds)),
            st.sampled_from(sorted(REASONS)),
        ),
        max_size=20,
        unique_by=lambda entry: entry.serial,
    )
)
def test_any_entries_are_a_round_trip(good, entries):
    """Any serial numbers, times and reasons are read as they were written."""
    crl = read(good, *entries)
    assert list(crl.entries.values()) == entries
    assert all(crl.reason_for(entry.serial) == entry.reason for entry in entries)


def test_a_large_list_is_made_in_linear_time(good):
    """Twenty thousand entries are built, read and searched without quadratic cost."""
    entries = [RevokedEntry((1 << 64) + n, NOW, "superseded") for n in range(20_000)]
    crl = read(good, *entries)
    assert len(crl.entries) == 20_000
    assert crl.reason_for((1 << 64) + 19_999) == "superseded"


@pytest.mark.parametrize(
    ("entries", "changes", "words"),
    [
        ((), {"next_update": NOW}, "must end after it begins"),
        ((), {"this_update": NOW.replace(tzinfo=None)}, "this_update needs a time zone"),
        ((), {"next_update": NOW.replace(year=1940)}, "next_update lies before"),
        ((), {"number": -1}, "not possible"),
        ((), {"number": 1 << 159}, "more than 20 octets"),
        ((), {"shard_url": "http://ä/"}, "is not a URL"),
        ((RevokedEntry(1, NOW, "removeFromCRL"),), {}, "not a reason for revocation"),
        ((RevokedEntry(1, NOW, "nonsense"),), {}, "not a reason for revocation"),
        ((RevokedEntry(0, NOW),), {}, "serial number is positive"),
        ((RevokedEntry(1 << 159, NOW),), {}, "at most 20 octets"),
        ((RevokedEntry(1, NOW.replace(tzinfo=None)),), {}, "revoked_at needs a time zone"),
    ],
)
def test_what_cannot_be_listed_is_refused_in_words(good, entries, changes, words):
    """Each thing that can be wrong with a list's content has its own message."""
    with pytest.raises(InvalidInput, match=words):
        build(good, *entries, **changes)


# --- succession ------------------------------------------------------------------------------


def test_a_successor_passes_the_gate(good):
    """A newer list of the same issuer and shard, with a higher number, may be published."""
    issuer = good.issuer.certificate
    first, second = read(good), read(good, number=6, this_update=NOW + HOUR / 2)
    check_successor(None, first, issuer, NOW)
    check_successor(first, second, issuer, NOW + HOUR / 2)
    check_successor(first, read(good, number=6), issuer, NOW)


def test_a_list_from_the_future_may_be_followed_by_one_of_today(good):
    """A clock was ahead. No verifier accepts it, so all that it still forbids are lower numbers."""
    future = read(good, this_update=NOW + HOUR, next_update=NOW + 3 * HOUR)
    today = read(good, number=6)
    check_successor(future, today, good.issuer.certificate, NOW)
    with pytest.raises(Conflict, match="number 5 does not follow 5"):
        check_successor(future, read(good), good.issuer.certificate, NOW)
    with pytest.raises(Conflict, match="older than the previous"):
        check_successor(
            future,
            read(good, number=6, next_update=NOW + 3 * HOUR),
            good.issuer.certificate,
            NOW + HOUR,
        )


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"number": 5}, Conflict, "number 5 does not follow 5"),
        ({"number": 4}, Conflict, "number 4 does not follow 5"),
        ({"number": 6, "this_update": NOW - HOUR}, Conflict, "older than the previous"),
        ({"number": 6, "shard_url": "http://crl.test/8"}, Conflict, "other certificates"),
        ({"number": 6, "shard_url": None}, Conflict, "other certificates"),
        (
            {"number": 6, "this_update": NOW - 2 * HOUR, "next_update": NOW - HOUR},
            VerificationError,
            "revocation_data_stale: it ended at",
        ),
        (
            {"number": 6, "this_update": NOW + HOUR / 2},
            VerificationError,
            "revocation_data_stale: it begins at",
        ),
    ],
)
def test_a_step_back_does_not_pass_the_gate(good, changes, error, words):
    """A list that goes back in number or time, changes scope, or is over, is not published."""
    with pytest.raises(error, match=words):
        check_successor(read(good), read(good, **changes), good.issuer.certificate, NOW)


def test_a_list_by_another_hand_does_not_pass_the_gate(good):
    """A list that the issuer's key did not sign is not published."""
    other = make(CA, good.root, subject="Issuer")
    crl = RevocationList.from_der(
        build_crl(other.issuer, (), number=9, this_update=NOW, next_update=NOW + HOUR)
    )
    with pytest.raises(VerificationError, match="bad_signature"):
        check_successor(None, crl, good.issuer.certificate, NOW)


def test_only_a_key_that_may_sign_lists_signs_lists(good):
    """Without cRLSign a CA's signature on a list does not count; without key usage it does."""
    for usage, counts in ((key_usage("key_cert_sign"), False), (None, True)):
        made = make(CA, subject="x", usage=usage)
        crl = RevocationList.from_der(
            build_crl(made.issuer, (), number=1, this_update=NOW, next_update=NOW + HOUR)
        )
        assert crl.verify_signature(made.certificate) == counts


# --- foreign lists ---------------------------------------------------------------------------


def foreign(good, *extensions, digest=None, entry=None, **changes):
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(good.issuer.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + HOUR)
    )
    defaults = {
        x509.CRLNumber: x509.CRLNumber(1),
        x509.AuthorityKeyIdentifier: x509.AuthorityKeyIdentifier(b"k" * 20, None, None),
    }
    for value in extensions:
        defaults[type(value)] = value
    for value in defaults.values():
        builder = builder.add_extension(value, critical=isinstance(value, _CRITICAL))
    if entry is not None:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(good.issuer.key, digest or hashes.SHA256()).public_bytes(Encoding.DER)


_CRITICAL = (x509.IssuingDistributionPoint, x509.DeltaCRLIndicator, x509.UnrecognizedExtension)


def scope(**changes):
    fields = {
        "full_name": [x509.UniformResourceIdentifier(SHARD)],
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**fields, **changes})


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (scope(indirect_crl=True), "indirect or partial"),
        (scope(only_contains_user_certs=True), "indirect or partial"),
        (scope(only_contains_ca_certs=True), "indirect or partial"),
        (scope(only_contains_attribute_certs=True), "indirect or partial"),
        (
            scope(only_some_reasons=frozenset({x509.ReasonFlags.superseded})),
            "indirect or partial",
        ),
        (scope(full_name=[x509.DirectoryName(name("somewhere"))]), "elsewhere than at a URL"),
        (x509.DeltaCRLIndicator(1), "where a whole one is wanted"),
        (
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
            "critical extension 1.2.3",
        ),
        (
            x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(name("x"))], 1),
            "no authority key identifier",
        ),
    ],
)
def test_lists_that_cannot_clear_a_certificate_are_refused(good, extension, words):
    """Indirect, partial, delta and not understood lists are refused when read."""
    RevocationList.from_der(foreign(good, scope()))
    with pytest.raises(InvalidInput, match=words):
        RevocationList.from_der(foreign(good, extension))


def test_a_harmless_extension_is_passed_over(good):
    """A freshest-CRL hint, which is not critical, does not matter."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(SHARD)], None, None, None)
    crl = RevocationList.from_der(foreign(good, x509.FreshestCRL([point])))
    assert (crl.number, crl.delta_url) == (1, SHARD)


def entry(*extensions):
    builder = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(NOW)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.build()


def test_entries_about_other_issuers_are_refused(good):
    """An entry with a critical extension may be about another issuer's certificate."""
    other = x509.CertificateIssuer([x509.DirectoryName(name("other"))])
    crl = RevocationList.from_der(foreign(good, entry=entry((other, True))))
    with pytest.raises(InvalidInput, match=r"critical extension 2\.5\.29\.29"):
        crl.reason_for(7)
    harmless = (x509.InvalidityDate(NOW.replace(tzinfo=None)), False)
    crl = RevocationList.from_der(foreign(good, entry=entry(harmless)))
    assert crl.reason_for(7) == "unspecified"


def test_a_removal_has_its_place_in_delta_lists_only(good):
    """A whole list that takes a certificate off is refused, by whoever made it."""
    removal = (x509.CRLReason(x509.ReasonFlags.remove_from_crl), False)
    crl = RevocationList.from_der(foreign(good, entry=entry(removal)))
    with pytest.raises(InvalidInput, match="removeFromCRL outside a delta list"):
        crl.reason_for(7)


def test_a_weak_signature_does_not_count(good):
    """A list signed with SHA-224 is not believed."""
    crl = RevocationList.from_der(foreign(good, digest=hashes.SHA224()))
    assert not crl.verify_signature(good.issuer.certificate)


def test_a_key_that_is_not_accepted_signs_no_list(good):
    """An issuer whose key is weak, or cannot be read, signs no list that is believed."""
    weak = make(CA, subject="Issuer", key=ec.generate_private_key(ec.SECP224R1())).certificate
    crl = read(good)
    assert not crl.verify_signature(weak)
    oid = bytes.fromhex("06052b81040021")
    der = weak.public_bytes(Encoding.DER).replace(oid, oid[:-1] + b"\x7f")
    assert not crl.verify_signature(x509.load_der_x509_certificate(der))


def test_an_altered_list_is_not_believed(good):
    """One changed byte invalidates the signature."""
    der = build(good, revoked(good.leaf.certificate))
    altered = der.replace(b"http://crl.test/7", b"http://crl.test/8")
    assert not RevocationList.from_der(altered).verify_signature(good.issuer.certificate)


def test_an_unknown_signature_algorithm_is_not_believed(good):
    """A list whose algorithm no key has is not believed, and nothing fails otherwise."""
    der = build(good)
    known, unknown = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d04037f")
    crl = RevocationList.from_der(der.replace(known, unknown))
    assert not crl.verify_signature(good.issuer.certificate)
    # Another algorithm inside than outside: RFC 5280, section 5.1.1.2.
    with pytest.raises(InvalidInput, match="signature algorithms do not match"):
        RevocationList.from_der(der.replace(known, unknown, 1))


def test_a_list_without_an_end_is_refused(good):
    """A list that never ends would clear a certificate for ever."""
    der = build(good, shard_url=None)
    form = "%y%m%d%H%M%SZ"
    end = b"\x17\x0d" + (NOW + HOUR).strftime(form).encode()
    assert end in der
    body, _ = split_first(der, what="list")
    tbs, rest = split_first(body[body.index(b"\x30", 1) :], what="list")
    shorter = encode(SEQUENCE, tbs[tbs.index(b"\x02\x01\x01") :].replace(end, b""))
    with pytest.raises(InvalidInput, match="no next update"):
        RevocationList.from_der(encode(SEQUENCE, shorter + rest))


def test_what_is_no_list_is_refused(good):
    """Garbage, cut and lengthened lists, and those over 64 MiB are refused."""
    der = build(good)
    for data in (b"", b"\x30\x00", der[:-1], der + b"\x00"):
        with pytest.raises(InvalidInput, match="certificate revocation list"):
            RevocationList.from_der(data)
    with pytest.raises(LimitExceeded):
        RevocationList.from_der(bytes(64 * 1024 * 1024 + 1))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_bytes_make_the_reader_fail_otherwise(good, position, value):
    """Any one-byte change of a list reads, or raises InvalidInput."""
    changed = bytearray(build(good, revoked(good.leaf.certificate)))
    changed[position % len(changed)] = value
    with suppress(InvalidInput):
        crl = RevocationList.from_der(bytes(changed))
        crl.verify_signature(good.issuer.certificate)
        crl.failures(good.leaf.certificate, NOW)
