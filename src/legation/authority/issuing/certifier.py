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
    must_staple: bool = False


class Certifier:
    """Signs with the active issuer, which may change while it does.

    Attributes:
        own_keys: fingerprints of the CA keys; `take_in` adds to them.
    """

    def __init__(
        self,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        authorities: Iterable[x509.Certificate],
    ) -> None:
        """Sign nothing before `sign_with`.

        Args:
            settings: lifetimes and URLs.
            clock: tells the time of issue.
            authorities: every CA certificate of this authority; their keys are never
                certified as anyone's.
        """
        self._settings = settings
        self._clock = clock
        self._ocsp_url = settings.ocsp_url
        self.own_keys: set[bytes] = set()
        for certificate in authorities:
            self.take_in(certificate)
        # What was certified a moment ago leaves with the chain of who has signed it.
        self._chains: dict[str, tuple[bytes, ...]] = {}
        self._signing: _Signing | None = None

    @property
    def issuer(self) -> Issuer:
        """The issuing CA that signs.

        Raises:
            Unavailable: there is none.
        """
        return self._active.issuer

    @property
    def _active(self) -> "_Signing":
        if self._signing is None:
            raise Unavailable(
                "no issuer may sign now: the one that did is tainted",
                remedy="another one follows at once: `legation issuer list`",
            )
        return self._signing

    def sign_with(self, issuer: Issuer, serials: SerialAllocator) -> None:
        """Sign with another issuer from now on."""
        self.take_in(issuer.certificate)
        self._chains[issuer.key_id_hex] = tuple(
            certificate.public_bytes(Encoding.DER) for certificate in issuer.chain
        )
        self._signing = _Signing(issuer, serials, self._settings)

    def stop(self) -> None:
        """Sign nothing until `sign_with` says with what."""
        self._signing = None

    def take_in(self, authority: x509.Certificate) -> None:
        """Never certify the key of this CA as anyone's."""
        self.own_keys.add(
            key_fingerprint(authority.public_key())  # type: ignore[arg-type] # our own CAs
        )

    def chain(self, certificate: Issuance) -> tuple[bytes, ...]:
        """Return what the requester receives: DER, leaf first, without the root."""
        return (certificate.record.der, *self._chains[certificate.record.issuer])

    async def serials(self, count: int) -> Sequence[int]:
        """Set serial numbers aside for `certify`.

        Raises:
            Unavailable: no issuer may sign, or the store cannot set any aside.
        """
        return await self._active.serials.allocate(count)

    async def certify_one(self, order: Order) -> Issuance:
        """Certify one key."""
        (serial,) = await self.serials(1)
        return self.certify(order, serial=serial)

    def certify(self, order: Order, *, serial: int) -> Issuance:
        """Certify one key; `serial` comes from `serials` and is used once.

        Raises:
            InvalidInput: the profile does not allow the subject, the key or the lifetime.
            NotPermitted: the key is the authority's own.
            VerificationError: the certificate would break a rule.
            Unavailable: the issuer is over, or none may sign.
        """
        fingerprint = key_fingerprint(order.public_key)
        if fingerprint in self.own_keys:
            raise NotPermitted("this is the key of a certificate authority")
        signing = self._active
        now = self._clock.now().replace(microsecond=0)
        validity, time = signing.validity(now, order.lifetime_s)
        issued = issue(
            signing.issuer,
            order.profile,
            subject=order.subject,
            public_key=order.public_key,
            serial=serial,
            validity=validity,
            must_staple=order.must_staple,
            crl_url=signing.crl_url(shard_of(serial)),
            # Nobody asks a responder about itself (RFC 6960, section 4.2.2.2.1).
            ocsp_url=None if order.profile.ocsp_no_check else self._ocsp_url,
            issuer_url=signing.issuer_url,
        )
        record = IssuedRecord(
            serial=serial,
            spiffe_id=str(order.subject.spiffe_id or ""),
            profile=order.profile.name,
            issuer=signing.key_id,
            not_before=validity.not_before,
            not_after=validity.not_after,
            requester=order.requester,
            entry_id=order.entry_id,
            key_fingerprint=fingerprint,
            der=issued.der,
        )
        return Issuance(record=record, audit=render_issuance(record, time=time))


class _Signing:
    """An issuer that signs, and what its certificates have in common."""

    def __init__(
        self, issuer: Issuer, serials: SerialAllocator, settings: AuthoritySettings
    ) -> None:
        self.issuer = issuer
        self.serials = serials
        self.key_id = key_id = issuer.key_id_hex
        self.issuer_url = settings.issuer_url(key_id)
        self.crl_url = lru_cache(maxsize=None)(lambda shard: settings.crl_url(key_id, shard))
        # The same few lifetimes are asked for over and over, thousands of times a second.
        self.validity = lru_cache(maxsize=64)(self._validity_of)
        self._backdate_s = settings.backdate_s
        self._within = (issuer.certificate.not_valid_before_utc, issuer.not_after)

    def _validity_of(self, now: datetime, lifetime_s: int) -> tuple[Validity, str]:
        validity = validity_around(
            now, lifetime_s, backdate_s=self._backdate_s, within=self._within
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
