"""Makes certificates and their records. Decides nothing: the services before it have.

A certificate that this returns must not leave before it was recorded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from legation.authority.administration.audit import render_issuance
from legation.authority.issuing.serials import SerialAllocator, shard_of
from legation.authority.model import IssuedRecord
from legation.authority.settings import AuthoritySettings
from legation.authority.store import Issuance
from legation.clock import Clock, to_rfc3339
from legation.errors import InvalidInput, NotPermitted, Unavailable
from legation.pki import (
    Issuer,
    Profile,
    PublicKey,
    Subject,
    TrustDomain,
    Validity,
    issue,
    key_fingerprint,
)
from legation.pki.csr import CertificateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be certified, for whom, and who asked."""

    profile: Profile
    subject: Subject
    public_key: PublicKey
    lifetime_s: int
    requester: str
    entry_id: str | None = None


class Certifier:
    """Signs with the active issuer.

    Attributes:
        issuer: the issuing CA that signs.
        intermediates: the DER certificates that follow a leaf, without the root.
        own_keys: fingerprints of the CA keys.
    """

    def __init__(
        self,
        issuer: Issuer,
        serials: SerialAllocator,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        authorities: Iterable[x509.Certificate],
    ) -> None:
        """Sign with `issuer`.

        Args:
            issuer: the issuing CA.
            serials: its serial numbers.
            settings: lifetimes and URLs.
            clock: tells the time of issue.
            authorities: every CA certificate of this authority; their keys are never
                certified as anyone's.
        """
        self.issuer = issuer
        self.intermediates = tuple(
            certificate.public_bytes(Encoding.DER) for certificate in issuer.chain
        )
        self._serials = serials
        self._settings = settings
        self._clock = clock
        self.own_keys = frozenset(
            key_fingerprint(certificate.public_key())  # type: ignore[arg-type] # our own CAs
            for certificate in authorities
        )
        self._key_id = issuer.key_id_hex
        self._crl_url = lru_cache(maxsize=None)(lambda shard: settings.crl_url(self._key_id, shard))
        # The same few lifetimes are asked for over and over, thousands of times a second.
        self._validity = lru_cache(maxsize=64)(self._validity_of)
        self._within = (issuer.certificate.not_valid_before_utc, issuer.not_after)
        self._issuer_url = settings.issuer_url(self._key_id)
        self._ocsp_url = settings.ocsp_url

    def chain(self, certificate: Issuance) -> tuple[bytes, ...]:
        """Return what the requester receives: DER, leaf first, without the root."""
        return (certificate.record.der, *self.intermediates)

    async def serials(self, count: int) -> Sequence[int]:
        """Set serial numbers aside for `certify`."""
        return await self._serials.allocate(count)

    async def certify_one(self, order: Order) -> Issuance:
        """Certify one key."""
        (serial,) = await self._serials.allocate(1)
        return self.certify(order, serial=serial)

    def certify(self, order: Order, *, serial: int) -> Issuance:
        """Certify one key; `serial` comes from `serials` and is used once.

        Raises:
            InvalidInput: the profile does not allow the subject, the key or the lifetime.
            NotPermitted: the key is the authority's own.
            VerificationError: the certificate would break a rule.
            Unavailable: the issuer is over.
        """
        fingerprint = key_fingerprint(order.public_key)
        if fingerprint in self.own_keys:
            raise NotPermitted("this is the key of a certificate authority")
        now = self._clock.now().replace(microsecond=0)
        validity, time = self._validity(now, order.lifetime_s)
        issued = issue(
            self.issuer,
            order.profile,
            subject=order.subject,
            public_key=order.public_key,
            serial=serial,
            validity=validity,
            crl_url=self._crl_url(shard_of(serial)),
            # Nobody asks a responder about itself (RFC 6960, section 4.2.2.2.1).
            ocsp_url=None if order.profile.ocsp_no_check else self._ocsp_url,
            issuer_url=self._issuer_url,
        )
        record = IssuedRecord(
            serial=serial,
            spiffe_id=str(order.subject.spiffe_id or ""),
            profile=order.profile.name,
            issuer=self._key_id,
            not_before=validity.not_before,
            not_after=validity.not_after,
            requester=order.requester,
            entry_id=order.entry_id,
            key_fingerprint=fingerprint,
            der=issued.der,
        )
        return Issuance(record=record, audit=render_issuance(record, time=time))

    def _validity_of(self, now: datetime, lifetime_s: int) -> tuple[Validity, str]:
        validity = validity_around(
            now, lifetime_s, backdate_s=self._settings.backdate_s, within=self._within
        )
        return validity, to_rfc3339(now)


def validity_around(
    now: datetime, lifetime_s: int, *, backdate_s: int, within: tuple[datetime, datetime]
) -> Validity:
    """Return the validity of a certificate that is issued in the second `now`.

    Certificates count whole seconds; rounding outwards keeps a lifetime of two seconds
    from becoming one. It begins earlier for slow clocks, and stays inside `within`.

    Raises:
        Unavailable: the issuer ends too soon to issue anything.
    """
    now = now.replace(microsecond=0)
    not_before = now - timedelta(seconds=math.ceil(min(backdate_s, lifetime_s / 10)))
    not_after = min(now + timedelta(seconds=lifetime_s + 1), within[1])
    if not_after <= now:
        raise Unavailable(
            f"the issuing certificate ended at {to_rfc3339(within[1])}",
            remedy="the issuing certificate is about to end; see docs/runbook.md",
        )
    return Validity(max(not_before, within[0]), not_after)


def agreed_subject(
    request: CertificateRequest, subject: Subject, *, trust_domain: TrustDomain
) -> Subject:
    """Hold the names that a request asks for against those it may have.

    A request may be silent; it may not ask for more. Whoever asked for another name would
    otherwise install a certificate that is not what it thinks.

    Raises:
        InvalidInput: it asks for a name that it will not get.
        NotPermitted: the identity is of another trust domain.
    """
    if subject.spiffe_id is not None and subject.spiffe_id.trust_domain != trust_domain:
        raise NotPermitted(
            f"{subject.spiffe_id} is not in the trust domain {trust_domain}",
            remedy="ask that trust domain's own authority",
        )
    for asked in request.spiffe_ids:
        if asked != subject.spiffe_id:
            raise InvalidInput(
                f"the request asks for {asked}, its identity is {subject.spiffe_id}",
                remedy="leave the SPIFFE ID out of the request, or correct it",
            )
    if extra := sorted(set(request.dns_names) - set(subject.dns_names)):
        raise InvalidInput(
            f"the request asks for the DNS name {extra[0]}, which its identity does not have",
            remedy="leave DNS names out of the request, or add them to the entry",
        )
    return subject
