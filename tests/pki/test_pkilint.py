"""An independent linter has nothing to say about anything that is issued."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint.bin import (
    lint_crl,
    lint_ocsp_response,
    lint_pkix_cert,
    lint_pkix_signer_signee_cert_chain,
)

from legation.pki import (
    AGENT,
    CLIENT,
    OCSP,
    SERVER,
    WORKLOAD,
    Issuer,
    KeyAlgorithm,
    RevokedEntry,
    SerialNumber,
    SpiffeID,
    Subject,
    TrustDomain,
    Validity,
    build_crl,
    generate_key,
    issue,
    issue_ca,
    only_trust_domain,
    self_sign,
)
from legation.pki.crl import build_delta
from legation.pki.ocsp import (
    CertificateID,
    Good,
    Responder,
    StatusRequest,
    Unknown,
    build_response,
)
from tests.support.pki import CA, DAY, HOUR, NOW, key_usage, make

# pkilint knows neither that the authority of a URI may be a trust domain, nor that a private
# name such as localhost has its place in a private PKI.
ALLOWED = {"pkix.invalid_uri_syntax", "pkix.invalid_domain_name_syntax"}
# The linter leaves the files open that it reads.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
EXAMPLE = TrustDomain("example.org")
API = SpiffeID.parse("spiffe://example.org/api")


def serial():
    return SerialNumber.generate(shard=3, index=1).to_int()


def findings(tool, *arguments, capsys):
    tool.main(["lint", *map(str, arguments), "-s", "WARNING", "-f", "JSON"])
    told = json.loads(capsys.readouterr().out)
    return {
        finding["code"] for result in told["results"] for finding in result["finding_descriptions"]
    }


def hierarchy(algorithm):
    root_key, key = generate_key(algorithm), generate_key(algorithm)
    root = self_sign(
        root_key,
        subject=Subject(spiffe_id=EXAMPLE.id, common_name="Example root"),
        serial=serial(),
        validity=Validity(NOW - DAY, NOW + 3650 * DAY),
    )
    issued = issue_ca(
        Issuer(root.certificate, root_key),
        subject=Subject(spiffe_id=EXAMPLE.id, common_name="Example issuer"),
        public_key=key.public_key(),
        serial=serial(),
        validity=Validity(NOW - DAY, NOW + 365 * DAY),
        name_constraints=only_trust_domain(EXAMPLE),
        crl_url="http://ca.example.org/root.crl",
        issuer_url="http://ca.example.org/root.cer",
    )
    return root, Issuer(issued.certificate, key, (issued.certificate,))


SUBJECTS = {
    WORKLOAD: Subject(spiffe_id=API, dns_names=("api.example.org", "localhost")),
    AGENT: Subject(spiffe_id=API, common_name="agent"),
    SERVER: Subject(dns_names=("api.example.org", "*.api.example.org"), common_name="api"),
    CLIENT: Subject(common_name="someone"),
    OCSP: Subject(common_name="Example OCSP responder"),
}


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA_3072])
def test_certificates_are_clean(algorithm, tmp_path, capsys):
    """Root, issuer and each leaf profile have no finding of level WARNING or above."""
    root, issuer = hierarchy(algorithm)
    made = {"root": root.der, "issuer": issuer.certificate.public_bytes(Encoding.DER)}
    kinds = [*SUBJECTS.items(), (WORKLOAD, SUBJECTS[WORKLOAD])]
    for number, (profile, subject) in enumerate(kinds):
        must_staple = number == len(SUBJECTS)
        made["must-staple" if must_staple else profile.name] = issue(
            issuer,
            profile,
            subject=subject,
            public_key=generate_key().public_key(),
            serial=serial(),
            validity=Validity(NOW, NOW + HOUR),
            must_staple=must_staple,
            crl_url="http://ca.example.org/3.crl",
            ocsp_url="http://ocsp.example.org/",
            issuer_url="http://ca.example.org/issuer.cer",
        ).der
    paths = {}
    for name, der in made.items():
        paths[name] = tmp_path / f"{name}.der"
        paths[name].write_bytes(der)
        found = findings(lint_pkix_cert, paths[name], capsys=capsys)
        assert found <= ALLOWED, (name, found)
    for above, below in (("root", "issuer"), ("issuer", "workload"), ("issuer", "ocsp")):
        found = findings(
            lint_pkix_signer_signee_cert_chain, paths[above], paths[below], capsys=capsys
        )
        assert found <= ALLOWED, (below, found)


@pytest.mark.parametrize("url", [None, "http://ca.example.org/3.crl"])
def test_revocation_lists_are_clean(url, tmp_path, capsys):
    """A whole list and one of a shard have no finding."""
    _, issuer = hierarchy(KeyAlgorithm.P256)
    entries = [
        RevokedEntry(serial=serial(), revoked_at=NOW, reason=reason)
        for reason in ("unspecified", "keyCompromise", "superseded")
    ]
    path = tmp_path / "list.crl"
    path.write_bytes(
        build_crl(issuer, entries, number=7, this_update=NOW, next_update=NOW + DAY, shard_url=url)
    )
    assert findings(lint_crl, "-t", "CRL", "-p", "PKIX", path, capsys=capsys) == set()


def test_delta_lists_and_lists_that_name_one_are_clean(tmp_path, capsys):
    """The freshest CRL of a list, and a delta list with a removal, have no finding."""
    _, issuer = hierarchy(KeyAlgorithm.P256)
    span = {
        "this_update": NOW,
        "next_update": NOW + DAY,
        "shard_url": "http://ca.example.org/3.crl",
    }
    removal = RevokedEntry(serial=serial(), revoked_at=NOW, reason="removeFromCRL")
    for name, der in (
        ("CRL", build_crl(issuer, [], number=7, delta_url="http://ca.example.org/3.delta", **span)),
        ("DELTA_CRL", build_delta(issuer, [removal], number=7, base_number=5, **span)),
    ):
        path = tmp_path / f"{name}.crl"
        path.write_bytes(der)
        assert findings(lint_crl, "-t", "CRL", "-p", "PKIX", path, capsys=capsys) == set()


def test_ocsp_responses_are_clean(tmp_path, capsys):
    """Signed by the issuer or a delegate, with nonce or without, an answer has no finding."""
    _, issuer = hierarchy(KeyAlgorithm.P256)
    key = generate_key()
    delegate = issue(
        issuer,
        OCSP,
        subject=SUBJECTS[OCSP],
        public_key=key.public_key(),
        serial=serial(),
        validity=Validity(NOW, NOW + HOUR),
    )
    responder = Responder(certificate=delegate.certificate, private_key=key)
    certificate_id = CertificateID.of(issuer.certificate, serial(), hash_name="sha1")
    revoked = RevokedEntry(serial=1, revoked_at=NOW, reason="keyCompromise")
    for number, (status, nonce, signer) in enumerate(
        [(Good(), None, responder), (revoked, b"n" * 32, responder), (Unknown(), None, None)]
    ):
        path = tmp_path / f"{number}.der"
        path.write_bytes(
            build_response(
                issuer,
                StatusRequest(certificate_id=certificate_id, nonce=nonce),
                status,
                this_update=NOW,
                next_update=NOW + timedelta(minutes=10),
                responder=signer,
            )
        )
        assert findings(lint_ocsp_response, path, capsys=capsys) == set()


def test_the_linter_would_have_spoken(good, tmp_path, capsys):
    """The same linter does find what is wrong with a bad certificate."""
    bad = make(CA, subject="x", identifiers=False, usage=key_usage("digital_signature"))
    path = tmp_path / "bad.der"
    path.write_bytes(bad.certificate.public_bytes(Encoding.DER))
    assert findings(lint_pkix_cert, path, capsys=capsys) - ALLOWED
