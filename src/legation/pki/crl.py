"""Certificate revocation lists (RFC 5280, section 5): made, read, checked, succeeded.

A list may cover one shard of an issuer's certificates. It then says so in a critical
issuing distribution point, and its certificates name the same URL. Two lists of one
issuer without that would silently hide each other in OpenSSL and Envoy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.causes import Cause, Failure
from legation.errors import Conflict, InvalidInput, LimitExceeded, VerificationError
from legation.pki import der as der_encoding
from legation.pki.issuance import Issuer, distribution_point
from legation.pki.keys import (
    SIGNATURE_ALGORITHMS,
    PublicKey,
    algorithm_of,
    key_fingerprint,
    signature_hash,
)
from legation.pki.moments import whole_seconds
from legation.pki.parts import UNREADABLE, first_line

MAX_CRL_SIZE: Final = 64 * 1024 * 1024
_WHAT: Final = "certificate revocation list"
# RFC 5280, section 5.3.1. "removeFromCRL" belongs to delta lists; a certificate that is not
# revoked is not in ours.
REASONS: Final = frozenset(reason.value for reason in x509.ReasonFlags) - {"removeFromCRL"}
# RFC 5280, section 5.3.1: no extension at all rather than "unspecified".
_REASON_EXTENSIONS: Final[dict[str, list[x509.Extension[x509.ExtensionType]]]] = {
    reason: []
    if reason == "unspecified"
    else [x509.Extension(x509.CRLReason.oid, False, x509.CRLReason(x509.ReasonFlags(reason)))]
    for reason in REASONS
}


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """One line of a revocation list.

    Attributes:
        serial: of the certificate.
        revoked_at: when, to the second.
        reason: a word of RFC 5280, section 5.3.1, as `cryptography` spells it; one of `REASONS`.
    """

    serial: int
    revoked_at: datetime
    reason: str = "unspecified"


def build_crl(
    issuer: Issuer,
    entries: Sequence[RevokedEntry],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    shard_url: str | None = None,
) -> bytes:
    """Make and sign a list of revoked certificates that have not expired yet.

    Args:
        issuer: whose certificates it covers, and who signs.
        entries: all of them; the caller leaves out the expired.
        number: higher than that of every earlier list of this issuer and shard.
        this_update: from when it counts.
        next_update: until when it may be used.
        shard_url: where it is published, if it covers only certificates that name this URL.

    Raises:
        InvalidInput: times out of order, an unknown reason, a number or serial out of range.
    """
    extensions: list[x509.Extension[x509.ExtensionType]] = []
    try:
        values: list[tuple[x509.ExtensionType, bool]] = [
            (x509.AuthorityKeyIdentifier(issuer.key_id, None, None), False),
            (x509.CRLNumber(number), False),
        ]
        if shard_url is not None:
            values.append((_issuing_distribution_point(shard_url), True))
        extensions = [x509.Extension(value.oid, critical, value) for value, critical in values]
        # The whole list to the constructor: one call per entry copies all of them every
        # time, and 80,000 entries then take seconds instead of a tenth of one.
        builder = x509.CertificateRevocationListBuilder(
            issuer.certificate.subject,
            whole_seconds(this_update, "this_update"),
            whole_seconds(next_update, "next_update"),
            extensions,
            [_revoked(entry) for entry in entries],
        )
        if next_update <= this_update:
            raise InvalidInput("a revocation list must end after it begins")
        digest = signature_hash(issuer.private_key.public_key())
        return builder.sign(issuer.private_key, digest).public_bytes(Encoding.DER)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"not possible in a {_WHAT}: {first_line(error)}") from None


class RevocationList:
    """A revocation list that was read, and how to ask it.

    Its signature is checked by `verify_signature`, and by everything in
    `legation.pki.verification` that uses it.
    """

    def __init__(self, crl: x509.CertificateRevocationList, der: bytes) -> None:
        self._crl = crl
        self.der = der
        self.issuer_name = crl.issuer
        self.number, self.issuer_key_id, self.scope = _read_extensions(crl)
        self.this_update: datetime = crl.last_update_utc
        next_update = crl.next_update_utc
        if next_update is None:
            raise InvalidInput(f"the {_WHAT} has no next update")  # RFC 5280, section 5.1.2.5
        self.next_update: datetime = next_update
        self._verified_by: set[bytes] = set()

    @classmethod
    def from_der(cls, data: bytes) -> Self:
        """Read a complete, direct list.

        Raises:
            LimitExceeded: more than 64 MiB.
            InvalidInput: not such a list: malformed, indirect, a delta, for some reasons or
                kinds of certificates only, with an unknown critical extension, or without
                number, authority key identifier or next update.
        """
        if len(data) > MAX_CRL_SIZE:
            raise LimitExceeded(f"a {_WHAT} has at most {MAX_CRL_SIZE} bytes, this one {len(data)}")
        der_encoding.require_exact(data, what=_WHAT)
        try:
            return cls(x509.load_der_x509_crl(data), data)
        except InvalidInput:
            raise
        except UNREADABLE as error:
            raise InvalidInput(f"not a {_WHAT}: {first_line(error)}") from None

    @property
    def issuer_key_id_hex(self) -> str:
        """The issuer's subject key identifier in hexadecimal."""
        return self.issuer_key_id.hex()

    @property
    def shard_url(self) -> str | None:
        """The URL that names the shard, or None when the list covers the whole issuer."""
        return self.scope[0] if self.scope else None

    @cached_property
    def entries(self) -> dict[int, RevokedEntry]:
        """The revoked certificates by serial number.

        Raises:
            InvalidInput: an entry is malformed, or about another issuer's certificate.
        """
        try:
            return {entry.serial: entry for entry in map(_entry, self._crl)}
        except UNREADABLE as error:
            raise InvalidInput(f"the {_WHAT} has a bad entry: {first_line(error)}") from None

    def reason_for(self, serial: int) -> str | None:
        """Return why the certificate was revoked, or None when it was not."""
        entry = self.entries.get(serial)
        return None if entry is None else entry.reason

    def verify_signature(self, issuer_certificate: x509.Certificate) -> bool:
        """Tell whether `issuer_certificate`'s subject and key signed this list, and may."""
        if self._crl.issuer != issuer_certificate.subject or not _may_sign(issuer_certificate):
            return False
        try:
            public_key = issuer_certificate.public_key()
            algorithm_of(public_key)
        except (InvalidInput, *UNREADABLE):
            return False
        fingerprint = key_fingerprint(cast("PublicKey", public_key))
        # A list is checked for many certificates, and its signature covers megabytes.
        if fingerprint not in self._verified_by:
            if self._crl.signature_algorithm_oid not in SIGNATURE_ALGORITHMS:
                return False
            if not self._crl.is_signature_valid(cast("Any", public_key)):
                return False
            self._verified_by.add(fingerprint)
        return True

    def covers(self, certificate: x509.Certificate) -> bool:
        """Tell whether this list would name `certificate` if it were revoked.

        RFC 5280, section 6.3.3, step (b): the issuer is the same, and a list for a shard
        covers the certificates that point to it.
        """
        if certificate.issuer != self.issuer_name:
            return False
        return not self.scope or not _published_at(certificate).isdisjoint(self.scope)

    def failures(self, certificate: x509.Certificate, at: datetime) -> list[Failure]:
        """Return what this list has against `certificate` at a moment, the signature aside."""
        if not self.covers(certificate):
            return [
                Failure(
                    cause=Cause.REVOCATION_DATA_MISSING,
                    detail="the revocation list is another issuer's or shard's",
                )
            ]
        failures = []
        if not self.this_update <= at <= self.next_update:
            failures.append(
                Failure(
                    cause=Cause.REVOCATION_DATA_STALE,
                    detail=f"the revocation list {self.number} counts from "
                    f"{self.this_update} until {self.next_update}",
                )
            )
        entry = self.entries.get(certificate.serial_number)
        if entry is not None:
            failures.append(
                Failure(
                    cause=Cause.CERTIFICATE_REVOKED,
                    detail=f"serial {certificate.serial_number:x} was revoked at "
                    f"{entry.revoked_at}: {entry.reason}",
                )
            )
        return failures

    def check(self, certificate: x509.Certificate, at: datetime) -> None:
        """Hold `certificate` against this list, whose signature was verified before.

        Raises:
            VerificationError: it is revoked, or the list cannot tell: stale or of another scope.
        """
        failures = self.failures(certificate, at)
        if failures:
            raise VerificationError(failures)


def check_successor(
    previous: RevocationList | None,
    new: RevocationList,
    issuer_certificate: x509.Certificate,
    at: datetime,
) -> None:
    """Check that `new` may be published after `previous`: the gate before every publication.

    Raises:
        VerificationError: `new` is not validly signed by the issuer, or already over.
        Conflict: it is of another scope than `previous`, or its number or time go back.
    """
    if not new.verify_signature(issuer_certificate):
        raise VerificationError(
            [Failure(cause=Cause.BAD_SIGNATURE, detail=f"the issuer did not sign this {_WHAT}")]
        )
    if not new.this_update < new.next_update or new.next_update <= at:
        raise VerificationError(
            [Failure(cause=Cause.REVOCATION_DATA_STALE, detail=f"it ended at {new.next_update}")]
        )
    if previous is None:
        return
    if (new.issuer_key_id, new.scope) != (previous.issuer_key_id, previous.scope):
        raise Conflict(f"the new {_WHAT} covers other certificates than the previous one")
    if new.number <= previous.number:
        raise Conflict(f"the {_WHAT} number {new.number} does not follow {previous.number}")
    if new.this_update < previous.this_update:
        raise Conflict(f"the new {_WHAT} is older than the previous one")


def _issuing_distribution_point(url: str) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(
        full_name=distribution_point(url).full_name,
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )


def _revoked(entry: RevokedEntry) -> x509.RevokedCertificate:
    if entry.reason not in REASONS:
        raise InvalidInput(
            f"{entry.reason[:40]!a} is not a reason for revocation",
            remedy=f"use one of {', '.join(sorted(REASONS))}",
        )
    # The builder's constructor, unlike its methods, takes any number.
    if not 0 < entry.serial < 1 << 159:
        raise InvalidInput("a serial number is positive and has at most 20 octets")
    return x509.RevokedCertificateBuilder(
        entry.serial,
        whole_seconds(entry.revoked_at, "revoked_at"),
        _REASON_EXTENSIONS[entry.reason],
    ).build()


def _entry(revoked: x509.RevokedCertificate) -> RevokedEntry:
    reason = "unspecified"
    for extension in revoked.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = extension.value.reason.value
        elif extension.critical:
            # Foremost certificateIssuer, which would make it another issuer's certificate.
            raise ValueError(f"critical extension {extension.oid.dotted_string}")
    return RevokedEntry(
        serial=revoked.serial_number, revoked_at=revoked.revocation_date_utc, reason=reason
    )


def _read_extensions(
    crl: x509.CertificateRevocationList,
) -> tuple[int, bytes, tuple[str, ...]]:
    number: int | None = None
    key_id: bytes | None = None
    scope: tuple[str, ...] = ()
    for extension in crl.extensions:
        value = extension.value
        if isinstance(value, x509.CRLNumber):
            number = value.crl_number
        elif isinstance(value, x509.AuthorityKeyIdentifier):
            key_id = value.key_identifier
        elif isinstance(value, x509.IssuingDistributionPoint):
            scope = _read_scope(value)
        elif extension.critical:
            raise InvalidInput(
                f"the {_WHAT} has a critical extension {extension.oid.dotted_string} "
                "that is not supported"
            )
    if number is None or key_id is None:
        # RFC 5280, sections 5.2.1 and 5.2.3: both MUST be there.
        raise InvalidInput(f"the {_WHAT} has no number or no authority key identifier")
    return number, key_id, scope


def _read_scope(point: x509.IssuingDistributionPoint) -> tuple[str, ...]:
    if (
        point.indirect_crl
        or point.only_some_reasons
        or point.only_contains_user_certs
        or point.only_contains_ca_certs
        or point.only_contains_attribute_certs
        or point.relative_name
    ):
        raise InvalidInput(f"an indirect or partial {_WHAT} is not supported")
    urls = tuple(
        name.value
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    )
    if point.full_name and not urls:
        raise InvalidInput(f"a {_WHAT} that is published elsewhere than at a URL is not supported")
    return urls


def _published_at(certificate: x509.Certificate) -> frozenset[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(
        name.value
        for point in points
        # One with its own issuer names an indirect list, one with reasons a partial one.
        if point.crl_issuer is None and point.reasons is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    )


def _may_sign(issuer_certificate: x509.Certificate) -> bool:
    """Tell whether the key may sign lists (RFC 5280, section 6.3.3, step (f))."""
    try:
        usage = issuer_certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.crl_sign
