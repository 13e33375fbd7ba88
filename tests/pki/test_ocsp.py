import dataclasses
import subprocess
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from legation.causes import Cause
from legation.errors import InvalidInput, LimitExceeded, VerificationError
from legation.pki import KeyAlgorithm, RevokedEntry, certificates_to_pem, generate_key
from legation.pki.ocsp import (
    Answer,
    CertificateID,
    Good,
    OCSPError,
    Responder,
    ResponseSigner,
    StatusRequest,
    Unknown,
    build_error,
    build_response,
    check_response,
    check_staple,
    must_staple,
    next_update_of,
    says_nothing,
)
from tests.support.pki import CA, HOUR, LEAF, NOW, make

NO_CHECK = ((x509.OCSPNoCheck(), False),)
SIGNING = (ExtendedKeyUsageOID.OCSP_SIGNING,)


def delegate(good, **changes):
    settings = {"subject": "Responder", "uris": (), "extended": SIGNING, "extra": NO_CHECK}
    made = make(LEAF, good.issuer, **{**settings, **changes})
    return Responder(certificate=made.certificate, private_key=made.key)


def question(good, nonce=None, hash_name="sha256"):
    certificate_id = CertificateID.of(
        good.issuer.certificate, good.leaf.certificate.serial_number, hash_name=hash_name
    )
    return StatusRequest(certificate_id=certificate_id, nonce=nonce)


def answer(good, request=None, status=None, responder=None, **changes):
    times = {"this_update": NOW, "next_update": NOW + HOUR}
    return build_response(
        good.issuer.issuer,
        request or question(good),
        status or Good(),
        responder=responder,
        **{**times, **changes},
    )


def check(good, data, request=None, at=NOW, issuer=None):
    return check_response(
        data,
        request=request or question(good),
        issuer_certificate=issuer or good.issuer.certificate,
        at=at,
    )


def causes(caught):
    return [failure.cause for failure in caught.value.failures]


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
@pytest.mark.parametrize("delegated", [False, True])
def test_a_good_answer_is_believed(good, hash_name, delegated):
    """An answer by the issuer or its delegate, with a nonce, clears the certificate."""
    request = question(good, nonce=b"n" * 32, hash_name=hash_name)
    responder = delegate(good) if delegated else None
    assert check(good, answer(good, request, responder=responder), request) == Good()


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
def test_every_key_algorithm_signs_answers(good, algorithm):
    """A delegate with a key of any accepted algorithm is believed."""
    responder = delegate(good, key=generate_key(algorithm))
    check(good, answer(good, responder=responder))


def test_a_request_is_a_round_trip(good):
    """A request reads as it was written, with nonce and without."""
    for request in (question(good), question(good, nonce=b"x" * 16, hash_name="sha1")):
        assert StatusRequest.from_der(request.to_der()) == request
        assert request.certificate_id.is_of(good.issuer.certificate)
        assert not request.certificate_id.is_of(good.root.certificate)


def test_a_revoked_certificate_is_refused(good):
    """An answer that says revoked refuses the certificate, with the time."""
    for reason in ("keyCompromise", "unspecified"):
        status = RevokedEntry(good.leaf.certificate.serial_number, NOW - HOUR, reason)
        with pytest.raises(VerificationError, match="was revoked at") as caught:
            check(good, answer(good, status=status))
        assert causes(caught) == [Cause.CERTIFICATE_REVOKED]


def test_all_that_is_wrong_is_reported(good):
    """An unknown certificate, a missing nonce and a past answer are all reported at once."""
    data = answer(good, status=Unknown())
    with pytest.raises(VerificationError) as caught:
        check(good, data, question(good, nonce=b"n" * 16), at=NOW + 2 * HOUR)
    assert causes(caught) == [
        Cause.REVOCATION_DATA_STALE,
        Cause.REVOCATION_DATA_STALE,
        Cause.REVOCATION_DATA_MISSING,
    ]
    with pytest.raises(VerificationError, match="counts from"):
        check(good, data, at=NOW - timedelta(seconds=1))


def test_an_answer_about_another_certificate_does_not_count(good):
    """The answer must name the certificate that was asked about."""
    other = StatusRequest(certificate_id=CertificateID.of(good.issuer.certificate, 12345))
    with pytest.raises(VerificationError, match="about another certificate"):
        check(good, answer(good, other))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"extended": None}, Cause.WRONG_USAGE),
        ({"extended": (ExtendedKeyUsageOID.SERVER_AUTH,)}, Cause.WRONG_USAGE),
        ({"extra": ()}, Cause.WRONG_USAGE),
        ({"not_after": NOW - HOUR}, Cause.CERTIFICATE_EXPIRED),
        ({"signer": make(CA, subject="x").key}, Cause.UNKNOWN_AUTHORITY),
    ],
)
def test_a_delegate_must_be_entitled(good, changes, cause):
    """A responder without the usage, the no-check mark, time or the issuer's signature fails."""
    with pytest.raises(VerificationError) as caught:
        check(good, answer(good, responder=delegate(good, **changes)))
    assert causes(caught) == [cause]


def test_a_stranger_is_not_believed(good):
    """An answer whose signer is neither the issuer nor sent along is not believed."""
    strange = make(CA, subject="Issuer")
    with pytest.raises(VerificationError, match="neither issuer nor sent") as caught:
        check(good, answer(good), issuer=strange.certificate)
    assert Cause.UNKNOWN_AUTHORITY in causes(caught)


def test_an_altered_answer_is_not_believed(good):
    """Turning good into revoked, or back, breaks the signature."""
    data = answer(good)
    status = data.index(b"\x80\x00\x18")
    altered = data[:status] + b"\x82" + data[status + 1 :]
    with pytest.raises(VerificationError) as caught:
        check(good, altered)
    assert Cause.BAD_SIGNATURE in causes(caught)


def test_a_responder_may_be_named_by_its_subject(good):
    """A foreign responder that gives its name instead of its key is found all the same."""
    responder = delegate(good)
    wanted = question(good).certificate_id
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            wanted.issuer_name_hash,
            wanted.issuer_key_hash,
            wanted.serial,
            hashes.SHA256(),
            ocsp.OCSPCertStatus.GOOD,
            NOW,
            NOW + HOUR,
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, responder.certificate)
        .certificates([responder.certificate])
        .sign(responder.private_key, hashes.SHA512())
    )
    check(good, response.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("algorithm", "serial", "extension", "words"),
    [
        (hashes.SHA384(), 1, None, "names certificates by sha384"),
        (hashes.SHA256(), 0, None, "serial number is not positive"),
        (hashes.SHA256(), 1 << 159, None, "longer than 20 octets"),
        (hashes.SHA256(), 1, x509.ObjectIdentifier("1.2.3.4"), r"critical extension 1\.2\.3\.4"),
    ],
)
def test_a_foreign_answer_beyond_our_bounds_is_no_answer(good, algorithm, serial, extension, words):
    """Unknown hashes, impossible serial numbers and critical extensions are refused in words."""
    wanted = question(good).certificate_id
    known = algorithm.name == wanted.hash_name
    unknown = bytes(algorithm.digest_size)
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            wanted.issuer_name_hash if known else unknown,
            wanted.issuer_key_hash if known else unknown,
            wanted.serial if serial == 1 else serial,
            algorithm,
            ocsp.OCSPCertStatus.GOOD,
            NOW,
            NOW + HOUR,
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, good.issuer.certificate)
    )
    if extension is not None:
        passed_over = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), b"\5\0")
        builder = builder.add_extension(passed_over, False)
        builder = builder.add_extension(x509.UnrecognizedExtension(extension, b"\5\0"), True)
    data = builder.sign(good.issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(InvalidInput, match=words):
        check(good, data)


def test_a_staple_is_small_and_its_hash_is_known(good):
    """What is too large is not looked into; an answer by an unknown hash names nobody."""
    issuer, serial = good.issuer.certificate, good.leaf.certificate.serial_number
    assert check_staple(answer(good), serial=serial, issuer_certificate=issuer, at=NOW)
    with pytest.raises(LimitExceeded, match="at most"):
        check_staple(bytes(1 << 17), serial=serial, issuer_certificate=issuer, at=NOW)
    with pytest.raises(InvalidInput, match="not an OCSP response"):
        check_staple(b"\x30\x00", serial=serial, issuer_certificate=issuer, at=NOW)
    odd = dataclasses.replace(question(good).certificate_id, hash_name="sha384")
    signer = ResponseSigner(
        Responder(certificate=issuer, private_key=good.issuer.key), delegated=False
    )
    unheard = Answer(certificate_id=odd, status=Good(), this_update=NOW, next_update=NOW + HOUR)
    with pytest.raises(InvalidInput, match="SHA-1 or SHA-256"):
        signer.sign([unheard], produced_at=NOW)


def test_an_answer_without_an_end_does_not_count(good):
    """Without next update an answer would clear the certificate for ever."""
    wanted = question(good).certificate_id
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            wanted.issuer_name_hash,
            wanted.issuer_key_hash,
            wanted.serial,
            hashes.SHA256(),
            ocsp.OCSPCertStatus.GOOD,
            NOW,
            None,
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, good.issuer.certificate)
        .sign(good.issuer.key, hashes.SHA256())
    )
    with pytest.raises(VerificationError, match="until None"):
        check(good, response.public_bytes(Encoding.DER))


@pytest.mark.parametrize("error", list(OCSPError))
def test_a_refusal_clears_nobody(good, error):
    """An unsigned refusal is read, and counts as no answer."""
    with pytest.raises(VerificationError, match=f"the responder says {error}") as caught:
        check(good, build_error(error))
    assert causes(caught) == [Cause.REVOCATION_DATA_MISSING]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"this_update": NOW.replace(tzinfo=None)}, "needs a time zone"),
        ({"next_update": NOW - HOUR}, "must end after it begins"),
        ({"status": RevokedEntry(1, NOW.replace(tzinfo=None))}, "revoked_at needs"),
        ({"status": RevokedEntry(1, NOW, "nonsense")}, "not possible in an OCSP response"),
    ],
)
def test_what_cannot_be_answered_is_refused(good, changes, words):
    """Impossible times and reasons are refused when building."""
    with pytest.raises(InvalidInput, match=words):
        answer(good, **changes)


def test_questions_about_others_are_refused(good):
    """An issuer does not answer for certificates of another."""
    other = StatusRequest(certificate_id=CertificateID.of(good.root.certificate, 1))
    with pytest.raises(InvalidInput, match="another issuer's certificate"):
        answer(good, other)


def test_requests_are_bounded_and_of_one_kind(good):
    """Large requests, odd nonces, unknown hashes and critical extensions are refused."""
    with pytest.raises(LimitExceeded, match="at most 8192 bytes"):
        StatusRequest.from_der(bytes(8193))
    with pytest.raises(LimitExceeded, match="nonce has 1 to 128"):
        StatusRequest.from_der(question(good, nonce=b"n" * 129).to_der())
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        good.leaf.certificate, good.issuer.certificate, hashes.SHA384()
    )
    with pytest.raises(InvalidInput, match="by an unknown hash"):
        StatusRequest.from_der(builder.build().public_bytes(Encoding.DER))
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        good.leaf.certificate, good.issuer.certificate, hashes.SHA256()
    )
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
    for critical in (True, False):
        der = builder.add_extension(strange, critical).build().public_bytes(Encoding.DER)
        if critical:
            with pytest.raises(InvalidInput, match="a critical extension"):
                StatusRequest.from_der(der)
        else:
            assert StatusRequest.from_der(der).nonce is None


def test_a_serial_number_that_nobody_issues_is_refused(good):
    """A request about a negative serial number is refused, since none can exist."""
    der = question(good).to_der()
    serial = good.leaf.certificate.serial_number.to_bytes(13, "big")
    assert serial in der
    with pytest.raises(InvalidInput, match="serial number is not positive"):
        StatusRequest.from_der(der.replace(serial, b"\x84" + serial[1:]))


def test_what_is_no_message_is_refused(good):
    """Garbage is neither a request nor a response, and responses are bounded."""
    for data in (b"", b"\x30\x00", b"\x30\x03\x02\x01\x01"):
        with pytest.raises(InvalidInput, match="OCSP request"):
            StatusRequest.from_der(data)
        with pytest.raises(InvalidInput, match="OCSP response"):
            check(good, data)
    with pytest.raises(LimitExceeded, match="at most 65536 bytes"):
        check(good, bytes(65537))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_bytes_make_the_readers_fail_otherwise(good, position, value):
    """Any one-byte change of a message is refused, or the message still says the same."""
    request = bytearray(question(good, nonce=b"n" * 16).to_der())
    request[position % len(request)] = value
    response = bytearray(answer(good, responder=None))
    response[position % len(response)] = value
    for action in (
        lambda: StatusRequest.from_der(bytes(request)),
        lambda: check(good, bytes(response)),
    ):
        with suppress(InvalidInput, VerificationError):
            action()


# --- OpenSSL as a client -----------------------------------------------------------------------


@contextmanager
def responder_at(respond):
    """Serve OCSP over HTTP on loopback with `respond`, a function from request to answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told = respond(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/ocsp-response")
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *arguments):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        thread.join()


@pytest.mark.parametrize("delegated", [False, True])
@pytest.mark.parametrize("word", ["good", "revoked", "unknown"])
def test_openssl_asks_and_believes_us(good, tmp_path, delegated, word):
    """`openssl ocsp` asks with a nonce, and verifies and believes what we answer."""
    files = {}
    for place, made in (("root", good.root), ("issuer", good.issuer), ("leaf", good.leaf)):
        files[place] = tmp_path / f"{place}.pem"
        files[place].write_bytes(certificates_to_pem([made.certificate]))
    serial = good.leaf.certificate.serial_number
    known = {
        "good": Good(),
        "revoked": RevokedEntry(serial, NOW - HOUR, "keyCompromise"),
        "unknown": Unknown(),
    }
    signer = delegate(good) if delegated else None

    def respond(data):
        request = StatusRequest.from_der(data)
        assert request.nonce is not None
        return answer(good, request, known[word], signer)

    with responder_at(respond) as url:
        verdict = subprocess.run(
            [
                *("openssl", "ocsp", "-url", url, "-timeout", "20"),
                *("-issuer", files["issuer"], "-cert", files["leaf"], "-CAfile", files["root"]),
                *("-verify_other", files["issuer"], "-attime", str(int(NOW.timestamp()))),
                *("-validity_period", "999999999"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert "Response verify OK" in verdict.stderr
    assert f"{files['leaf']}: {word}" in verdict.stdout
    assert ("Reason: keyCompromise" in verdict.stdout) == (word == "revoked")


@pytest.mark.parametrize(
    ("features", "must"),
    [
        (["status_request"], True),
        (["status_request", "status_request_v2"], True),
        (["status_request_v2"], False),
    ],
)
def test_only_the_feature_status_request_obliges_a_server(good, features, must):
    """Other TLS features do not (RFC 7633, section 3), nor does having none."""
    value = x509.TLSFeature([x509.TLSFeatureType[name] for name in features])
    made = make(LEAF, good.issuer, extra=((value, False),))
    assert must_staple(made.certificate) is must
    assert not must_staple(good.leaf.certificate)


def test_an_error_of_a_responder_says_nothing(good):
    """Unlike an answer, whatever it says, and unlike what is no response."""
    assert says_nothing(build_error(OCSPError.TRY_LATER))
    assert not says_nothing(answer(good))
    assert not says_nothing(answer(good, status=Unknown()))
    assert not says_nothing(b"\x30\x00")


def test_the_end_of_a_response_is_read_without_a_question(good):
    """Of one that has an end, and of nothing else."""
    assert next_update_of(answer(good)) == NOW + HOUR
    assert next_update_of(build_error(OCSPError.TRY_LATER)) is None
    assert next_update_of(b"\x30\x00") is None
