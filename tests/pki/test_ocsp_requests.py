"""Reading OCSP requests: what is valid is read as `cryptography` reads it, the rest is refused."""

import pytest
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from legation.errors import InvalidInput, LimitExceeded
from legation.pki import der
from legation.pki.ocsp import MAX_QUESTIONS, CertificateID, OCSPRequest, StatusRequest
from tests.support.ocsp_requests import (
    extension_der,
    nonce_der,
    request_der,
    sequence,
)

LENGTHS = {"sha1": 20, "sha256": 32}
CRITICAL = extension_der("1.2.3", der.NULL, critical=True)
OTHER = extension_der("1.2.3", der.NULL)


@st.composite
def certificate_ids(draw):
    hash_name = draw(st.sampled_from(sorted(LENGTHS)))
    length = LENGTHS[hash_name]
    return CertificateID(
        hash_name=hash_name,
        issuer_name_hash=draw(st.binary(min_size=length, max_size=length)),
        issuer_key_hash=draw(st.binary(min_size=length, max_size=length)),
        serial=draw(st.integers(1, (1 << 159) - 1)),
    )


ONE = CertificateID(
    hash_name="sha1", issuer_name_hash=bytes(20), issuer_key_hash=bytes(20), serial=7
)


@given(certificate_ids(), st.none() | st.binary(min_size=1, max_size=128))
def test_one_question_is_read_as_it_was_written(certificate_id, nonce):
    """By us and by `cryptography`, with any nonce that is allowed."""
    request = StatusRequest(certificate_id=certificate_id, nonce=nonce)
    data = request.to_der()
    assert OCSPRequest.from_der(data) == OCSPRequest(certificate_ids=(certificate_id,), nonce=nonce)
    extensions = () if nonce is None else (nonce_der(nonce),)
    assert request_der([certificate_id], extensions=extensions) == data
    theirs = ocsp.load_der_ocsp_request(data)
    assert theirs.serial_number == certificate_id.serial
    assert theirs.issuer_key_hash == certificate_id.issuer_key_hash


@given(st.lists(certificate_ids(), min_size=1, max_size=MAX_QUESTIONS))
def test_several_questions_are_read_in_their_order(wanted):
    """As many as one request may have."""
    assert OCSPRequest.from_der(request_der(wanted)).certificate_ids == tuple(wanted)


@given(st.data())
def test_no_bytes_make_the_reader_fail_otherwise(data):
    """Whatever is changed in a request, it is read or refused; and who reads it reads the same."""
    whole = bytearray(request_der([ONE, ONE], extensions=[nonce_der(b"12345678")]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        request = OCSPRequest.from_der(bytes(whole))
    except InvalidInput:
        return
    assert 1 <= len(request.certificate_ids) <= MAX_QUESTIONS


@pytest.mark.parametrize(
    "changes",
    [
        {"before": der.encode(0xA0, der.integer(0))},  # version 1, which DER leaves out
        {"before": der.encode(0xA1, der.encode(0x86, b"ldap://x"))},  # who asks
        {"after": der.encode(0xA0, sequence())},  # and their signature
        {"extensions": [OTHER]},
        {"single": [OTHER]},
    ],
)
def test_what_does_not_matter_is_passed_over(changes):
    """Version 1, the asker's name and signature, and extensions that may be ignored."""
    assert OCSPRequest.from_der(request_der([ONE], **changes)).certificate_ids == (ONE,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"before": der.encode(0xA0, der.integer(1))}, "version"),
        ({"before": der.encode(0xA3, b"")}, "a field is missing"),
        ({"after": der.NULL}, "do not belong"),
        ({"extensions": [CRITICAL]}, "critical extension"),
        ({"single": [CRITICAL]}, "critical extension"),
        ({"extensions": [nonce_der(b"1"), nonce_der(b"2")]}, "two nonces"),
        ({"extensions": [extension_der("1.3.6.1.5.5.7.48.1.2", b"raw")]}, "DER|missing"),
    ],
)
def test_what_the_grammar_forbids_is_refused(changes, words):
    """Another version, fields out of place, what is critical and unknown, odd nonces."""
    with pytest.raises(InvalidInput, match=words):
        OCSPRequest.from_der(request_der([ONE], **changes))


@pytest.mark.parametrize("size", [0, 129])
def test_a_nonce_has_its_bounds(size):
    """RFC 9654, section 2.1: from 1 to 128 bytes."""
    with pytest.raises(LimitExceeded, match="1 to 128"):
        OCSPRequest.from_der(request_der([ONE], extensions=[nonce_der(bytes(size))]))


def test_questions_are_counted():
    """None at all is no request, and one too many is too many."""
    with pytest.raises(InvalidInput, match="no certificate"):
        OCSPRequest.from_der(request_der([]))
    with pytest.raises(LimitExceeded, match="at most 16"):
        OCSPRequest.from_der(request_der([ONE] * 17))
    with pytest.raises(InvalidInput, match="several"):
        StatusRequest.from_der(request_der([ONE, ONE]))


def test_an_unknown_hash_names_nobody():
    """The request is read, since it is one, and the certificate is no issuer's."""
    strange = CertificateID(
        hash_name="", issuer_name_hash=bytes(48), issuer_key_hash=bytes(48), serial=7
    )
    (read,) = OCSPRequest.from_der(request_der([strange])).certificate_ids
    assert read == strange
