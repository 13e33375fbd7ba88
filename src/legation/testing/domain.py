"""A trust domain without network, agent or store."""

import secrets
import threading
import weakref
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import Final, Self

from legation.clock import Clock, FixedClock, SystemClock
from legation.errors import InvalidInput
from legation.pki import (
    ROOT,
    WORKLOAD,
    Issuer,
    KeyAlgorithm,
    SpiffeID,
    Subject,
    TrustBundle,
    TrustDomain,
    Validity,
    generate_key,
    issue,
    issue_ca,
    self_sign,
)
from legation.policy import AuthorizationPolicy
from legation.sdk.model import X509SVID, Aspect
from legation.testing import messages
from legation.testing.identity import Identity
from legation.testing.source import InMemorySource

LIFETIME: Final = timedelta(hours=1)
_AUTHORITY_LIFETIME: Final = timedelta(days=3650)
# So that programs whose clock is not the domain's find the certificates valid as well.
_BACKDATED: Final = timedelta(minutes=5)


class InMemoryTrustDomain:
    """A trust domain: it issues, revokes, bans and tells its sources, at once.

    Safe to use from any thread. Changes are in force when the method returns: sources
    answer by them, and open connections of a refused peer are cut.

    Args:
        name: for example ``example.test``.
        clock: decides what is valid; by default one that stands at the machine's time and
            moves when told to.
        key_algorithm: of all keys.

    Attributes:
        trust_domain: its name as a value.
        clock: see above; ``domain.clock.advance(3600)`` is an hour later.

    Raises:
        InvalidInput: the name is not that of a trust domain.
    """

    def __init__(
        self,
        name: str | TrustDomain = "example.test",
        *,
        clock: FixedClock | None = None,
        key_algorithm: KeyAlgorithm = KeyAlgorithm.P256,
    ) -> None:
        """Make the authority: a root and the issuer below it."""
        self.trust_domain = TrustDomain.parse(name) if isinstance(name, str) else name
        self.clock = clock or FixedClock(_machine_time().now())
        self._algorithm = key_algorithm
        self._lock = threading.RLock()
        self._sources: weakref.WeakSet[InMemorySource] = weakref.WeakSet()
        self._federated: dict[TrustDomain, TrustBundle] = {}
        self._revision = 0
        self._revoked: set[int] = set()
        self._banned: set[SpiffeID] = set()
        self._policies: dict[str, AuthorizationPolicy] = {}
        self._freshness = messages.freshness(None)
        self._issuer = self._new_authority()
        self._roots: tuple[Issuer, ...] = (self._root,)

    # --- identities -----------------------------------------------------------------------------

    def id(self, path: str) -> SpiffeID:
        """Return the SPIFFE ID of a path in this trust domain.

        Raises:
            InvalidInput: it is no path, or the SPIFFE ID of another trust domain.
        """
        if not path.startswith("spiffe://"):
            return SpiffeID(self.trust_domain, path)
        spiffe_id = SpiffeID.parse(path)
        if not spiffe_id.is_member_of(self.trust_domain):
            raise InvalidInput(
                f"{spiffe_id} is not of {self.trust_domain}",
                remedy="issue it by an InMemoryTrustDomain of that name",
            )
        return spiffe_id

    def issue(
        self,
        path: str | SpiffeID,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        common_name: str = "",
        lifetime: timedelta = LIFETIME,
    ) -> Identity:
        """Issue a certificate for a new key.

        Args:
            path: the SPIFFE ID, or its path, such as ``/api``.
            dns_names: for clients and servers that know no SPIFFE IDs.
            ip_addresses: likewise.
            common_name: of the subject; without it the subject is empty.
            lifetime: from now on the domain's clock; at most 30 days.

        Raises:
            InvalidInput: a name or the lifetime is not acceptable.
        """
        spiffe_id = self.id(str(path))
        if lifetime <= timedelta():
            raise InvalidInput(
                "a certificate lives for some time",
                remedy="to get an expired one, issue it and then advance the clock",
            )
        key = generate_key(self._algorithm)
        now = self.clock.now()
        with self._lock:
            issuer, roots = self._issuer, self._roots
        issued = issue(
            issuer,
            WORKLOAD,
            subject=Subject(
                spiffe_id=spiffe_id,
                dns_names=tuple(dns_names),
                ip_addresses=tuple(ip_address(address) for address in ip_addresses),
                common_name=common_name,
            ),
            public_key=key.public_key(),
            serial=_serial(),
            validity=Validity(not_before=now - _BACKDATED, not_after=now + lifetime),
        )
        chain = (issued.certificate, *issuer.chain)
        return Identity(
            svid=X509SVID(spiffe_id=spiffe_id, chain=chain, private_key=key),
            authorities=tuple(root.certificate for root in roots),
        )

    def source(
        self,
        path: str | SpiffeID,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        lifetime: timedelta = LIFETIME,
    ) -> InMemorySource:
        """Return a source whose identity is issued now, and anew at each `rotate`.

        The arguments are those of `issue`.
        """

        def issue_for(lifetime: timedelta) -> Identity:
            return self.issue(
                path, dns_names=dns_names, ip_addresses=ip_addresses, lifetime=lifetime
            )

        with self._lock:
            source = InMemorySource(
                issue_for, lifetime=lifetime, clock=self.clock, bundles=self._bundles()
            )
            source.hear(
                self._freshness,
                *messages.policies(self._policies_for(source.spiffe_id)),
                messages.snapshot(self._revision, revoked=self._revoked, banned=self._banned),
            )
            self._sources.add(source)
        return source

    # --- what becomes of them -------------------------------------------------------------------

    def revoke(self, *certificates: Identity | InMemorySource | int) -> None:
        """Revoke certificates, given by whoever holds them or by serial number.

        A source that rotates afterwards has a good one again; to keep it out, `ban` it.
        """
        serials = {_serial_of(one) for one in certificates}
        with self._lock:
            self._revoked |= serials
        self._tell(lambda revision: [messages.changes(revision, revoked=serials)])

    def ban(self, *identities: str | SpiffeID) -> None:
        """Refuse every certificate of these identities; a path is one of this trust domain."""
        banned = {self._any_id(one) for one in identities}
        with self._lock:
            self._banned |= banned
        self._tell(lambda revision: [messages.changes(revision, banned=banned)])

    def unban(self, *identities: str | SpiffeID) -> None:
        """Take bans back."""
        unbanned = {self._any_id(one) for one in identities}
        with self._lock:
            self._banned -= unbanned
        self._tell(lambda revision: [messages.changes(revision, unbanned=unbanned)])

    def apply(self, *documents: AuthorizationPolicy | dict[str, object]) -> None:
        """Put authorization policies in force, each in place of the one of the same name.

        Args:
            documents: policies, or what YAML or JSON makes of their documents.

        Raises:
            InvalidInput: one is not a policy.
        """
        parsed = [
            one if isinstance(one, AuthorizationPolicy) else AuthorizationPolicy.from_document(one)
            for one in documents
        ]
        with self._lock:
            self._policies |= {policy.name: policy for policy in parsed}
        self._tell_policies()

    def withdraw(self, *names: str) -> None:
        """Take policies out of force; without names, all of them."""
        with self._lock:
            for name in names or tuple(self._policies):
                self._policies.pop(name, None)
        self._tell_policies()

    def bound_staleness(self, bound: timedelta, *, refuse: bool = True) -> None:
        """Have the authority vouch for its revocation data now, for so long.

        Advance the clock by more, and the data is stale.

        Args:
            bound: how old the data may become.
            refuse: whether peers are refused afterwards, or let in all the same.
        """
        self._freshness = messages.freshness(self.clock.now(), bound=bound, refuse=refuse)
        for source in self._living():
            source.hear(self._freshness, aspect=Aspect.STALENESS)

    # --- trust ------------------------------------------------------------------------------------

    @property
    def bundle(self) -> TrustBundle:
        """Whom members of this trust domain are certified by."""
        with self._lock:
            return TrustBundle(self.trust_domain, tuple(root.certificate for root in self._roots))

    def federate(self, *others: "InMemoryTrustDomain") -> None:
        """Trust the members of other trust domains, in one direction."""
        with self._lock:
            self._federated |= {other.trust_domain: other.bundle for other in others}
        self._tell_trust()

    def unfederate(self, *others: "InMemoryTrustDomain") -> None:
        """Trust them no more."""
        with self._lock:
            for other in others:
                self._federated.pop(other.trust_domain, None)
        self._tell_trust()

    def change_authority(self) -> None:
        """Sign by a new root from now on, and trust the old ones as well."""
        with self._lock:
            self._issuer = self._new_authority()
            self._roots = (*self._roots, self._root)
        self._tell_trust()

    def forget_old_authorities(self) -> None:
        """Trust the newest root alone: what older ones have signed is not trusted any more."""
        with self._lock:
            self._roots = (self._root,)
        self._tell_trust()

    def impostor(self) -> Self:
        """Return a trust domain of the same name with other keys, which nobody trusts."""
        return type(self)(self.trust_domain, clock=self.clock, key_algorithm=self._algorithm)

    # --- inside -----------------------------------------------------------------------------------

    def _new_authority(self) -> Issuer:
        now = self.clock.now()
        validity = Validity(not_before=now - _BACKDATED, not_after=now + _AUTHORITY_LIFETIME)
        root_key, key = generate_key(self._algorithm), generate_key(self._algorithm)
        number = secrets.token_hex(4)
        root = self_sign(
            root_key,
            ROOT,
            subject=Subject(
                spiffe_id=self.trust_domain.id,
                common_name=f"{self.trust_domain} root {number}"[-64:],
            ),
            serial=_serial(),
            validity=validity,
        )
        self._root = Issuer(root.certificate, root_key, chain=())
        certificate = issue_ca(
            self._root,
            subject=Subject(
                spiffe_id=self.trust_domain.id,
                common_name=f"{self.trust_domain} issuer {number}"[-64:],
            ),
            public_key=key.public_key(),
            serial=_serial(),
            validity=validity,
        ).certificate
        return Issuer(certificate, key, chain=(certificate,))

    def _any_id(self, text: str | SpiffeID) -> SpiffeID:
        """Return a SPIFFE ID of any trust domain; a path is one of this."""
        if isinstance(text, SpiffeID):
            return text
        if text.startswith("spiffe://"):
            return SpiffeID.parse(text)
        return self.id(text)

    def _bundles(self) -> dict[TrustDomain, TrustBundle]:
        return {**self._federated, self.trust_domain: self.bundle}

    def _living(self) -> list[InMemorySource]:
        with self._lock:
            return list(self._sources)

    def _tell(self, make: "messages.Make") -> None:
        with self._lock:
            self._revision += 1
            heard = list(make(self._revision))
            # Inside the lock, so that no source hears of two revisions the wrong way round.
            for source in self._living():
                source.hear(*heard)

    def _tell_policies(self) -> None:
        with self._lock:
            self._revision += 1
            last = messages.changes(self._revision)
            for source in self._living():
                source.hear(*messages.policies(self._policies_for(source.spiffe_id)), last)

    def _tell_trust(self) -> None:
        with self._lock:
            for source in self._living():
                source.trust(self._bundles())

    def _policies_for(self, spiffe_id: SpiffeID) -> list[AuthorizationPolicy]:
        return [
            policy
            for policy in self._policies.values()
            if any(pattern.matches(str(spiffe_id)) for pattern in policy.target)
        ]


def _machine_time() -> Clock:
    return SystemClock()


def _serial() -> int:
    # RFC 5280, section 4.1.2.2: positive; 16 octets, as those of a real authority.
    return secrets.randbits(127) | 1 << 126


def _serial_of(one: Identity | InMemorySource | int) -> int:
    match one:
        case int():
            return one
        case InMemorySource():
            return one.identity.serial
        case Identity():
            return one.serial
