"""Chains of certificates, what is wrong with them, and whom to ask about it."""

import subprocess
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause
from legation.errors import VerificationError
from legation.pki import (
    Purpose,
    RevocationList,
    SpiffeID,
    TrustBundle,
    TrustDomain,
    certificates_to_pem,
    verify_svid,
)
from tests.support.pki import CA, DAY, LEAF, NOW, make

EXAMPLE = TrustDomain("example.org")
API = SpiffeID.parse("spiffe://example.org/api")
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
WEAK = ec.generate_private_key(ec.SECP224R1())
SMALL = rsa.generate_private_key(65537, 2048)
STRANGE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
EXPIRED, EARLY = Cause.CERTIFICATE_EXPIRED, Cause.CERTIFICATE_NOT_YET_VALID
USAGE, WEAK_KEY = Cause.WRONG_USAGE, Cause.WEAK_KEY
MALFORMED, NAME = Cause.MALFORMED_CERTIFICATE, Cause.NAME_NOT_PERMITTED
PAST = {"not_before": NOW - 3 * DAY, "not_after": NOW - DAY}
FUTURE = {"not_before": NOW + DAY, "not_after": NOW + 3 * DAY}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain and what it is verified against."""

    certificates: list[x509.Certificate]
    authorities: list[x509.Certificate]
    crls: list[bytes] = field(default_factory=list)


def chain(root: Any = (), issuer: Any = (), leaf: Any = (), *, between: Any = None) -> Chain:
    """Make root, issuer and leaf, with changes to each."""
    top = make(CA, subject="Root", **dict(root))
    middle = [make(CA, top, subject="Between", **between)] if between is not None else []
    issuing = make(CA, (middle or [top])[-1], subject="Issuer", **dict(issuer))
    end = make(LEAF, issuing, **dict(leaf))
    return Chain(
        certificates=[end.certificate, issuing.certificate, *(m.certificate for m in middle)],
        authorities=[top.certificate],
    )


def names(*, permitted: Any = None, excluded: Any = None) -> x509.NameConstraints:
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded)


def forged() -> Chain:
    """A leaf whose issuer is right by name and key identifier, and did not sign it."""
    top = make(CA, subject="Root")
    issuing = make(CA, top, subject="Issuer")
    end = make(LEAF, issuing, signer=ec.generate_private_key(ec.SECP256R1()))
    return Chain(certificates=[end.certificate, issuing.certificate], authorities=[top.certificate])


def without_intermediate() -> Chain:
    whole = chain()
    return replace(whole, certificates=whole.certificates[:1])


def other_root() -> Chain:
    return replace(chain(), authorities=[make(CA, subject="Root").certificate])


def leaf_in_bundle() -> Chain:
    whole = chain()
    return replace(whole, certificates=whole.certificates[:1], authorities=whole.certificates[:1])


def through_leaf() -> Chain:
    """A leaf that signs another leaf."""
    top = make(CA, subject="Root")
    middle = make(LEAF, top, subject="Issuer")
    end = make(LEAF, middle)
    return Chain(certificates=[end.certificate, middle.certificate], authorities=[top.certificate])


def long_chain(length: int) -> Chain:
    top = above = make(CA, subject="Root")
    middle = []
    for number in range(length):
        above = make(CA, above, subject=f"Issuer {number}")
        middle.append(above.certificate)
    end = make(LEAF, above)
    return Chain(certificates=[end.certificate, *reversed(middle)], authorities=[top.certificate])


def self_issued_between() -> Chain:
    """A self-issued certificate, as in a key rollover, does not count towards path length."""
    top = make(CA, subject="Root", path_length=1)
    old = make(CA, top, subject="Issuer")
    new = make(CA, old, subject="Issuer", path_length=0)
    end = make(LEAF, new)
    return Chain(
        certificates=[end.certificate, new.certificate, old.certificate],
        authorities=[top.certificate],
    )


def constrained_self_issued() -> Chain:
    """A self-issued intermediate need not be inside the constraints, its leaf must."""
    inside = names(permitted=[URI("example.org")])
    top = make(CA, subject="Root", names=inside)
    old = make(CA, top, subject="Issuer")
    new = make(CA, old, subject="Issuer", uris=("spiffe://other.test",))
    end = make(LEAF, new)
    return Chain(
        certificates=[end.certificate, new.certificate, old.certificate],
        authorities=[top.certificate],
    )


def verdict(made: Chain, **changes: Any) -> list[Cause]:
    """Return the causes for which the chain is refused, none if it is accepted."""
    arguments: dict[str, Any] = {
        "bundle": TrustBundle(EXAMPLE, tuple(made.authorities)),
        "at": NOW,
        "purpose": Purpose.CLIENT,
        "crls": [RevocationList.from_der(der) for der in made.crls],
    }
    try:
        verify_svid(made.certificates, **{**arguments, **changes})
    except VerificationError as error:
        return [failure.cause for failure in error.failures]
    return []


def openssl_accepts(made: Chain, directory: Any, *, purpose: Purpose = Purpose.CLIENT) -> bool:
    """Ask `openssl verify` about the chain."""
    files = {"-CAfile": made.authorities, "-untrusted": made.certificates[1:]}
    arguments: list[Any] = ["openssl", "verify", "-purpose", f"ssl{purpose}"]
    for option, certificates in files.items():
        if certificates:
            path = directory / f"{option}.pem"
            path.write_bytes(certificates_to_pem(certificates))
            arguments += [option, path]
    for number, der in enumerate(made.crls):
        path = directory / f"{number}.crl"
        path.write_bytes(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))
        arguments += ["-CRLfile", path]
    if made.crls:
        arguments += ["-crl_check_all", "-extended_crl"]
    leaf = directory / "leaf.pem"
    leaf.write_bytes(certificates_to_pem(made.certificates[:1]))
    # Level 0: which keys are strong enough is our own policy, tried above.
    arguments += ["-auth_level", "0", "-attime", str(int(NOW.timestamp())), leaf]
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0
