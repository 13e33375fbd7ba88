"""Checks of one path: steps 5 to 9 of `legation.pki.verification.procedure`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from legation.causes import Cause, Failure
from legation.errors import InvalidInput
from legation.pki.crl import RevocationList
from legation.pki.keys import SIGNATURE_ALGORITHMS, algorithm_of
from legation.pki.parts import UNREADABLE, Parts, first_line
from legation.pki.spiffe_id import SpiffeID
from legation.pki.verification import name_constraints
from legation.pki.verification.path import Path
from legation.pki.verification.revocation import CRLScope, revocation_failures

LEAF: Final = "leaf"
AUTHORITY: Final = "authority"


class Purpose(StrEnum):
    """What a certificate is being used for."""

    SERVER = "server"
    CLIENT = "client"
    BOTH = "both"

    @property
    def usages(self) -> tuple[x509.ObjectIdentifier, ...]:
        """The extended key usages it needs, all of them."""
        return _USAGES[self]


_USAGES: Final = {
    Purpose.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH,),
    Purpose.CLIENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Purpose.BOTH: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}
# Critical extensions that the steps below take into account. Policies are among them since
# any policy is accepted; constraints on policies are not, and are refused when critical.
_PROCESSED: Final = frozenset(
    {
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
        x509.NameConstraints,
        x509.CRLDistributionPoints,
        x509.AuthorityKeyIdentifier,
        x509.SubjectKeyIdentifier,
        x509.CertificatePolicies,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which conditions a path is to be believed."""

    at: datetime
    purpose: Purpose
    crls: tuple[RevocationList, ...]
    crl_scope: CRLScope
    svid: bool


def path_failures(path: Path, conditions: Conditions) -> list[Failure]:
    """Return every check of steps 5 to 9 that `path` fails."""
    failures: list[Failure] = []
    parts: list[Parts] = []
    for position, certificate in enumerate(path):
        try:
            parts.append(Parts(certificate))
        except UNREADABLE as error:
            return [
                failure(
                    Cause.MALFORMED_CERTIFICATE, first_line(error), _subject(position, len(path))
                )
            ]
    for position, read in enumerate(parts):  # step 5
        failures += certificate_failures(read, _subject(position, len(path)), conditions.at)
    for position in range(1, len(parts)):  # step 6
        failures += _issuer_failures(parts, position, svid=conditions.svid)
    failures += usage_failures(parts, conditions.purpose)  # step 7
    failures += _name_failures(parts)  # step 8
    for position, cause, detail in revocation_failures(  # step 9
        path, crls=conditions.crls, scope=conditions.crl_scope, at=conditions.at
    ):
        failures.append(failure(cause, detail, _subject(position, len(path))))
    return failures


# --- step 5: every certificate --------------------------------------------------------------


def certificate_failures(parts: Parts, subject: str, at: datetime) -> list[Failure]:
    """Return what is wrong with one certificate by itself (step 5)."""
    failures = []
    if at < parts.not_before:
        detail = f"it begins at {parts.not_before}"
        failures.append(failure(Cause.CERTIFICATE_NOT_YET_VALID, detail, subject))
    if at > parts.not_after:
        failures.append(
            failure(Cause.CERTIFICATE_EXPIRED, f"it ended at {parts.not_after}", subject)
        )
    certificate = parts.certificate
    try:
        algorithm_of(certificate.public_key())
    except InvalidInput as error:
        failures.append(failure(Cause.WEAK_KEY, error.message, subject))
    except UNREADABLE:
        failures.append(failure(Cause.WEAK_KEY, "its key is of an unknown kind", subject))
    # Nobody relies on the signature of an authority: it is trusted for being in the bundle.
    if subject != AUTHORITY and certificate.signature_algorithm_oid not in SIGNATURE_ALGORITHMS:
        detail = f"signatures by {certificate.signature_algorithm_oid.dotted_string} do not count"
        failures.append(failure(Cause.WEAK_KEY, detail, subject))
    for extension in (*parts.extensions.values(), *parts.unknown):
        if extension.critical and type(extension.value) not in _PROCESSED:
            detail = f"the critical extension {extension.oid.dotted_string} is not understood"
            failures.append(failure(Cause.UNKNOWN_CRITICAL_EXTENSION, detail, subject))
    return failures


# --- step 6: every issuer --------------------------------------------------------------------


def _issuer_failures(path: Sequence[Parts], position: int, *, svid: bool) -> list[Failure]:
    issuer = path[position]
    subject = _subject(position, len(path))
    failures = []
    if not issuer.ca:
        failures.append(failure(Cause.WRONG_USAGE, "it signs certificates and is no CA", subject))
    usage = issuer.value(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        failures.append(failure(Cause.WRONG_USAGE, "its key may not sign certificates", subject))
    constraints = issuer.value(x509.BasicConstraints)
    if constraints is not None and constraints.path_length is not None:
        # Self-issued certificates do not count (RFC 5280, section 4.2.1.9).
        below = sum(1 for parts in path[1:position] if parts.subject != parts.issuer)
        if below > constraints.path_length:
            detail = f"{below} issuers stand below it, it allows {constraints.path_length}"
            failures.append(failure(Cause.CHAIN_TOO_LONG, detail, subject))
    if svid and any(_has_path(uri) for uri in issuer.uris):
        # X509-SVID, section 3.2.
        failures.append(
            failure(Cause.MALFORMED_CERTIFICATE, "the SPIFFE ID of an issuer has a path", subject)
        )
    return failures


def _has_path(uri: str) -> bool:
    try:
        return bool(SpiffeID.parse(uri).path)
    except InvalidInput:
        return False


# --- step 7: usage --------------------------------------------------------------------------


def usage_failures(path: Sequence[Parts], purpose: Purpose) -> list[Failure]:
    """Return which certificates do not allow the use (step 7)."""
    failures = []
    usage = path[0].value(x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        # TLS 1.3 authenticates by signature only (RFC 8446, section 4.4.2.2).
        failures.append(failure(Cause.WRONG_USAGE, "its key may not sign", LEAF))
    for position, parts in enumerate(path):
        allowed = parts.value(x509.ExtendedKeyUsage)
        # An issuer's usages restrict what is below it: not in RFC 5280, but what OpenSSL,
        # BoringSSL and Go do, so a path is believed here only if it is believed there.
        if allowed is None or (position and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in allowed):
            continue
        if not all(wanted in allowed for wanted in purpose.usages):
            failures.append(
                failure(
                    Cause.WRONG_USAGE,
                    f"its extended key usage does not allow use as {purpose}",
                    _subject(position, len(path)),
                )
            )
    return failures


# --- step 8: names ---------------------------------------------------------------------------


def _name_failures(path: Sequence[Parts]) -> list[Failure]:
    failures = []
    for position, issuer in enumerate(path):
        constraints = issuer.value(x509.NameConstraints)
        if constraints is None:
            continue
        for below in range(position):
            parts = path[below]
            # RFC 5280, section 6.1.3, step (b): except self-issued, unless it is the leaf.
            if below and parts.subject == parts.issuer:
                continue
            failures += [
                failure(Cause.NAME_NOT_PERMITTED, detail, _subject(below, len(path)))
                for detail in name_constraints.violations(constraints, parts)
            ]
    return failures


def _subject(position: int, length: int) -> str:
    if position == 0:
        return LEAF
    return AUTHORITY if position == length - 1 else f"issuer {position}"


def failure(cause: Cause, detail: str, subject: str = "") -> Failure:
    """Make one failure."""
    return Failure(cause=cause, detail=detail, subject=subject)
