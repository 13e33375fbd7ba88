"""Revocation along a path: which list speaks for which certificate (RFC 5280, section 6.3)."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum

from cryptography import x509

from legation.causes import Cause
from legation.errors import InvalidInput
from legation.pki.crl import RevocationList
from legation.pki.verification.path import Path


class CRLScope(StrEnum):
    """Which certificates of a path must be covered by a revocation list."""

    CHAIN = "chain"  # all but the authority, which nobody can revoke
    LEAF = "leaf"


def revocation_failures(
    path: Path, *, crls: Sequence[RevocationList], scope: CRLScope, at: datetime
) -> Iterator[tuple[int, Cause, str]]:
    """Yield position, cause and detail of every certificate that the lists do not clear."""
    if not crls:
        return
    last = 1 if scope is CRLScope.LEAF else len(path) - 1
    for position in range(last):
        certificate, issuer = path[position], path[position + 1]
        for cause, detail in _judge(certificate, issuer, crls, at):
            yield position, cause, detail


def _judge(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    crls: Iterable[RevocationList],
    at: datetime,
) -> list[tuple[Cause, str]]:
    about_issuer = [crl for crl in crls if crl.issuer_name == certificate.issuer]
    signed = [crl for crl in about_issuer if crl.verify_signature(issuer)]
    newest = _newest_of_each_scope(crl for crl in signed if crl.covers(certificate))
    if not newest:
        return [(Cause.REVOCATION_DATA_MISSING, _why_missing(about_issuer, signed))]
    try:
        failures = [crl.failures(certificate, at) for crl in newest]
    except InvalidInput as error:
        return [(Cause.REVOCATION_DATA_MISSING, error.message)]
    # Any list that names the certificate revokes it; one that is current and does not is enough.
    revoked: list[tuple[Cause, str]] = [
        (failure.cause, failure.detail)
        for found in failures
        for failure in found
        if failure.cause is Cause.CERTIFICATE_REVOKED
    ]
    if any(not found for found in failures):
        return revoked
    stale: list[tuple[Cause, str]] = [(failure.cause, failure.detail) for failure in failures[0]]
    return list(dict.fromkeys([*revoked, *stale]))


def _newest_of_each_scope(crls: Iterable[RevocationList]) -> list[RevocationList]:
    newest: dict[tuple[str, ...], RevocationList] = {}
    for crl in crls:
        rival = newest.get(crl.scope)
        if rival is None or crl.number > rival.number:
            newest[crl.scope] = crl
    return list(newest.values())


def _why_missing(about_issuer: Sequence[RevocationList], signed: Sequence[RevocationList]) -> str:
    if signed:
        return "the revocation lists of its issuer are of other shards"
    if about_issuer:
        return "no revocation list of its issuer has a valid signature"
    return "there is no revocation list of its issuer"
