"""Reading revocation lists: who signed them, what they cover, whom they name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import ClassVar, Final, Self, cast

from cryptography import x509

from legation.causes import Cause, Failure
from legation.errors import InvalidInput, LimitExceeded, VerificationError
from legation.pki import der as der_encoding
from legation.pki.crl.entries import MAX_CRL_SIZE, REMOVED, WHAT, RevokedEntry
from legation.pki.crl.places import Places
from legation.pki.keys import PublicKey, algorithm_of, key_fingerprint, verify_with
from legation.pki.parts import UNREADABLE, first_line


class SignedList:
    """What whole and delta lists have in common.

    Attributes:
        der: the list as it was read.
        issuer_name: of who signed it.
        issuer_key_id: that issuer's subject key identifier.
        number: of the list, among those of its issuer and scope.
        scope: the URLs that name the shard; empty when it covers the whole issuer.
        this_update: from when it counts.
        next_update: until when it may be used.
    """

    _IS_DELTA: ClassVar = False

    def __init__(self, crl: x509.CertificateRevocationList, der: bytes, *, unread: int = 0) -> None:
        """Take `der` as it was read into `crl`, but for so many lines."""
        self._crl = crl
        self._unread = unread
        self.der = der
        self.issuer_name = crl.issuer
        extensions = _Extensions.of(crl)
        if (extensions.base_number is not None) != self._IS_DELTA:
            raise InvalidInput(
                f"the {WHAT} is no delta list"
                if self._IS_DELTA
                else f"a delta {WHAT} where a whole one is wanted"
            )
        self._extensions = extensions
        self.number = extensions.number
        self.issuer_key_id = extensions.issuer_key_id
        self.scope = extensions.scope
        self.this_update: datetime = crl.last_update_utc
        next_update = crl.next_update_utc
        if next_update is None:
            raise InvalidInput(f"the {WHAT} has no next update")  # RFC 5280, section 5.1.2.5
        self.next_update: datetime = next_update
        self._verified_by: set[bytes] = set()

    @classmethod
    def from_der(cls, data: bytes) -> Self:
        """Read a direct list of this kind.

        Raises:
            LimitExceeded: more than 64 MiB.
            InvalidInput: not such a list: malformed, indirect, for some reasons or kinds of
                certificates only, a delta instead of a whole or the other way round, with an
                unknown critical extension, or without number, authority key identifier or
                next update.
        """
        return cls._read(data, der=data)

    @classmethod
    def _read(cls, data: bytes, *, der: bytes, unread: int = 0) -> Self:
        if len(der) > MAX_CRL_SIZE:
            raise LimitExceeded(f"a {WHAT} has at most {MAX_CRL_SIZE} bytes, this one {len(der)}")
        der_encoding.require_exact(data, what=WHAT)
        try:
            return cls(x509.load_der_x509_crl(data), der, unread=unread)
        except InvalidInput:
            raise
        except UNREADABLE as error:
            raise InvalidInput(f"not a {WHAT}: {first_line(error)}") from None

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
        """The lines by serial number; kept, so that looking up the next one costs nothing.

        Raises:
            InvalidInput: an entry is malformed, or about another issuer's certificate.
        """
        return {entry.serial: entry for entry in self.read_entries()}

    @property
    def count(self) -> int:
        """How many lines there are; none of them is read."""
        return self._unread + len(self._crl)

    @property
    def lines(self) -> memoryview:
        """The lines as they stand there, DER."""
        places = Places.of(self.der)
        return memoryview(self.der)[places.lines : places.lines_end]

    def read_entries(self) -> Iterator[RevokedEntry]:
        """Read the lines once, in their order, and keep none of them.

        Raises:
            InvalidInput: as `entries`.
        """
        crl = x509.load_der_x509_crl(self.der) if self._unread else self._crl
        try:
            for revoked in crl:
                yield _entry(revoked, removals=self._IS_DELTA)
        except UNREADABLE as error:
            raise InvalidInput(f"the {WHAT} has a bad entry: {first_line(error)}") from None

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
            if not self._is_signed_by(cast("PublicKey", public_key)):
                return False
            self._verified_by.add(fingerprint)
        return True

    def _is_signed_by(self, public_key: PublicKey) -> bool:
        try:
            digest = self._crl.signature_hash_algorithm
        except UNREADABLE:
            return False
        # The signed bytes as they came: `cryptography` would write the whole list anew first.
        _, start, end = der_encoding.read(self.der, 0, len(self.der))
        _, _, signed_end = der_encoding.read(self.der, start, end)
        return verify_with(
            public_key,
            self._crl.signature,
            self.der[start:signed_end],
            algorithm=self._crl.signature_algorithm_oid,
            digest=digest,
        )


class RevocationList(SignedList):
    """A whole revocation list that was read, and how to ask it.

    Its signature is checked by `verify_signature`, and by everything in
    `legation.pki.verification` that uses it.
    """

    @classmethod
    def following(cls, data: bytes, before: Self) -> tuple[Self, list[RevokedEntry]]:
        """Read a list that has the lines of `before` and then others; only those are looked at.

        What is left without the lines of `before` is a list as well, but for its signature, and
        goes through the same reader. It takes no longer for a list of a million.

        Returns:
            The list, and the lines that it adds.

        Raises:
            LimitExceeded, InvalidInput: as `from_der`; or it does not begin with those lines.
        """
        der_encoding.require_exact(data, what=WHAT)
        places, lines = Places.of(data), before.lines
        begin = places.lines + len(lines)
        if begin > places.lines_end or not data.startswith(lines, places.lines):
            raise InvalidInput(f"the {WHAT} does not begin with the lines of the one before it")
        rest = places.with_lines(data, data[begin : places.lines_end])
        new = cls._read(rest, der=data)
        added = list(new.read_entries())
        return cls._read(rest, der=data, unread=before.count), added

    @property
    def delta_url(self) -> str | None:
        """Where a delta list to this one or older ones is published, or None."""
        return self._extensions.delta_url

    def reason_for(self, serial: int) -> str | None:
        """Return why the certificate was revoked, or None when it was not."""
        entry = self.entries.get(serial)
        return None if entry is None else entry.reason

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extensions:
    number: int
    issuer_key_id: bytes
    scope: tuple[str, ...]
    base_number: int | None
    delta_url: str | None

    @classmethod
    def of(cls, crl: x509.CertificateRevocationList) -> Self:
        values: dict[type, x509.ExtensionType] = {}
        for extension in crl.extensions:
            kind = type(extension.value)
            if kind in _KNOWN:
                values[kind] = extension.value
            elif extension.critical:
                raise InvalidInput(
                    f"the {WHAT} has a critical extension {extension.oid.dotted_string} "
                    "that is not supported"
                )
        number = cast("x509.CRLNumber | None", values.get(x509.CRLNumber))
        issuer = cast("x509.AuthorityKeyIdentifier | None", values.get(x509.AuthorityKeyIdentifier))
        if number is None or issuer is None or issuer.key_identifier is None:
            # RFC 5280, sections 5.2.1 and 5.2.3: both MUST be there.
            raise InvalidInput(f"the {WHAT} has no number or no authority key identifier")
        point = cast(
            "x509.IssuingDistributionPoint | None", values.get(x509.IssuingDistributionPoint)
        )
        base = cast("x509.DeltaCRLIndicator | None", values.get(x509.DeltaCRLIndicator))
        freshest = cast("x509.FreshestCRL | None", values.get(x509.FreshestCRL))
        return cls(
            number=number.crl_number,
            issuer_key_id=issuer.key_identifier,
            scope=_read_scope(point) if point is not None else (),
            base_number=None if base is None else base.crl_number,
            delta_url=min(_urls(freshest), default=None) if freshest is not None else None,
        )


_KNOWN: Final = frozenset(
    {
        x509.CRLNumber,
        x509.AuthorityKeyIdentifier,
        x509.IssuingDistributionPoint,
        x509.DeltaCRLIndicator,
        x509.FreshestCRL,
    }
)


def _entry(revoked: x509.RevokedCertificate, *, removals: bool) -> RevokedEntry:
    reason = "unspecified"
    for extension in revoked.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = extension.value.reason.value
        elif extension.critical:
            # Foremost certificateIssuer, which would make it another issuer's certificate.
            raise ValueError(f"critical extension {extension.oid.dotted_string}")
    if reason == REMOVED and not removals:
        raise ValueError(f"{REMOVED} outside a delta list")
    return RevokedEntry(
        serial=revoked.serial_number, revoked_at=revoked.revocation_date_utc, reason=reason
    )


def _read_scope(point: x509.IssuingDistributionPoint) -> tuple[str, ...]:
    if (
        point.indirect_crl
        or point.only_some_reasons
        or point.only_contains_user_certs
        or point.only_contains_ca_certs
        or point.only_contains_attribute_certs
        or point.relative_name
    ):
        raise InvalidInput(f"an indirect or partial {WHAT} is not supported")
    urls = tuple(
        name.value
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    )
    if point.full_name and not urls:
        raise InvalidInput(f"a {WHAT} that is published elsewhere than at a URL is not supported")
    return urls


def _published_at(certificate: x509.Certificate) -> frozenset[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return frozenset()
    return _urls(points)


def _urls(points: Iterable[x509.DistributionPoint]) -> frozenset[str]:
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
