"""What the parts of the SDK share: identities, views of trust, peers, and where they come from."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from cryptography import x509

from legation.causes import Cause
from legation.errors import InvalidInput, NotFound
from legation.pki.bundle import TrustBundle
from legation.pki.keys import PrivateKey
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.policy.decision import Decision, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class X509SVID:
    """An identity with the key to prove it.

    Attributes:
        spiffe_id: whose.
        chain: leaf first, then its intermediates, without the root.
        private_key: the leaf's key. Never in a `repr`.
        hint: what the Workload API says it is for, or empty.
        serial: serial number of the leaf.
        not_before: from when the leaf counts, UTC.
        not_after: until when, UTC.
    """

    spiffe_id: SpiffeID
    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False, compare=False)
    hint: str = ""
    serial: int = field(init=False)
    not_before: datetime = field(init=False)
    not_after: datetime = field(init=False)

    def __post_init__(self) -> None:
        if not self.chain:
            raise InvalidInput("an X.509-SVID has at least one certificate")
        leaf = self.chain[0]
        object.__setattr__(self, "serial", leaf.serial_number)
        object.__setattr__(self, "not_before", leaf.not_valid_before_utc)
        object.__setattr__(self, "not_after", leaf.not_valid_after_utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustView:
    """Who this process is, and whom it trusts: one consistent picture, never changed in place.

    A change of identity, bundles or lists makes a new view with the next `generation`. What
    changes faster, revocations and policies, is asked of the source itself.

    Attributes:
        svids: this process's identities, the chosen one first; empty for a source of trust
            bundles alone.
        bundles: trust bundles by trust domain, the process's own and those of federation.
        crls: revocation lists as the Workload API or the files gave them, DER.
        generation: counts the views of one source, from 1.
    """

    svids: tuple[X509SVID, ...]
    bundles: Mapping[TrustDomain, TrustBundle]
    crls: tuple[bytes, ...] = field(default=(), repr=False)
    generation: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))

    @property
    def svid(self) -> X509SVID:
        """The chosen identity.

        Raises:
            NotFound: the source gives trust bundles alone.
        """
        if not self.svids:
            raise NotFound(
                "this source has trust bundles, and no identity",
                remedy="use X509Source to present a certificate",
            )
        return self.svids[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a connection, verified.

    Attributes:
        spiffe_id: whose certificate it is.
        serial: serial number of that certificate.
        not_after: when the first certificate on its path ends, UTC.
        certificate: the leaf, DER.
    """

    spiffe_id: SpiffeID
    serial: int
    not_after: datetime
    certificate: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Peers that were refused for one cause, for the agent to count and show.

    Attributes:
        cause: the word for it.
        peer: SPIFFE ID as far as it is known, else empty.
        serial: of the peer's certificate as far as it is known, else None.
        raw: the TLS library's own words, one line, without secrets.
        count: how many.
    """

    cause: Cause
    peer: str = ""
    serial: int | None = None
    raw: str = ""
    count: int = 1


class Aspect(StrEnum):
    """What can change in a source."""

    IDENTITY = "identity"
    BUNDLES = "bundles"
    REVOCATIONS = "revocations"  # revoked serials, bans, revocation lists
    POLICIES = "policies"
    STALENESS = "staleness"  # the revocation data became too old, or fresh again


Change = frozenset[Aspect]
Listener = Callable[[Change], None]


class Source(Protocol):
    """Where identity, trust, revocations and policies come from.

    Every method may be called from any thread, and none waits for the network.
    """

    @property
    def revision(self) -> int:
        """Revision of the feed that `refusal` and `decide` answer by; 0 without an agent."""
        ...

    def view(self) -> TrustView:
        """Return the current view.

        Raises:
            Unavailable: there is none yet, or the source is closed.
            NotPermitted: this process has no identity, or not any more.
            NotFound: it has some, and none of them is the wanted one.
            VerificationError: the identity has expired and no newer one has come.
            LegationError: the Workload API gives nothing that can be used.
        """
        ...

    def refusal(
        self, *, serial: int, spiffe_id: SpiffeID, issuer: x509.Certificate | None = None
    ) -> Cause | None:
        """Return why a peer whose chain is in order is refused all the same, or None.

        Takes the same time however much is revoked.

        Args:
            serial: of the peer's certificate.
            spiffe_id: the peer.
            issuer: the certificate next to the leaf on its verified path. It says which
                revocation lists count where there is no agent to tell serials live; without
                it, all do.
        """
        ...

    def decide(self, request: Request) -> Decision:
        """Decide on a request by the policies in force; without any it is denied."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change, once the change is visible; return what ends that.

        It is called from the source's thread or event loop and must not block.
        """
        ...

    def attach(self, enforcer: str, capabilities: Collection[str] = ()) -> Callable[[], None]:
        """Announce a part that has to act on changes, such as a registry of open connections.

        From now on the agent is told that a revision is in force when every attached part has
        called `applied` for it, and not before.

        Args:
            enforcer: unique name within the source, for example ``connections``.
            capabilities: what the process can do thanks to it, for example
                ``cuts-connections``.

        Returns:
            What detaches it.
        """
        ...

    def applied(self, enforcer: str, revision: int, notes: Collection[str] = ()) -> None:
        """State that an attached part has done what `revision` asks for.

        Args:
            enforcer: the name it was attached under.
            revision: `Source.revision` as it was read before acting.
            notes: what a person should know, for example that a connection would not close.
        """
        ...

    def refused(self, report: Refusal) -> None:
        """Tell the agent that peers were refused. Never waits; without an agent, does nothing."""
        ...


class Observing(Protocol):
    """A source whose agent wants to hear of peers that were let in as well."""

    def seen(self, peer: Peer, address: str) -> None:
        """Tell of one connection, right after its handshake. Never waits; from any thread.

        Args:
            peer: who has connected.
            address: its IP address; empty where that is not known.
        """
        ...


class Stapling(Protocol):
    """A source that has OCSP responses for its own certificates as well."""

    def staple(self, svid: X509SVID) -> bytes | None:
        """Return the response to staple to `svid`, DER, or None if none counts now.

        It was checked to be about this certificate and to clear it. May be called from any
        thread, and never waits.
        """
        ...
