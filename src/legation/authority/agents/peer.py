"""Which agent is at the other end of a connection, and whether it may be.

TLS hands out the certificate that it has verified as PEM text; everything from there on is
decided here, for requests and for streams.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from google.protobuf.message import DecodeError, Message

from legation.authority.agents.propagation import PropagationBoard
from legation.authority.issuing.issuance import AgentCaller
from legation.authority.model import AGENT_PREFIX
from legation.authority.settings import AuthoritySettings
from legation.causes import Cause
from legation.clock import Clock, to_rfc3339
from legation.errors import InvalidInput, NotAuthenticated, NotPermitted
from legation.pki import SpiffeID
from legation.wire.feed import FeedState

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """What a verified client certificate says."""

    spiffe_id: SpiffeID
    serial: int
    not_after: datetime
    issuer_name: str = ""

    @property
    def caller(self) -> AgentCaller:
        """The peer as the services know it."""
        return AgentCaller(spiffe_id=self.spiffe_id, serial=self.serial)


class AgentGate:
    """Lets enrolled agents in: on every call, whatever the connection was let in with.

    TLS has verified the chain when the connection began. Since then the certificate may
    have expired or been revoked, and a resumed connection was not verified again at all.
    """

    def __init__(
        self,
        state: FeedState,
        board: PropagationBoard,
        *,
        settings: AuthoritySettings,
        clock: Clock,
    ) -> None:
        self._state = state
        self._board = board
        self._settings = settings
        self._clock = clock

    def authenticate(self, certificate_pem: str | None) -> PeerCertificate:
        """Return the calling agent's certificate.

        Args:
            certificate_pem: the leaf that TLS 1.3 has verified, or None if there was none.

        Raises:
            NotAuthenticated: no certificate, or an expired, revoked or banned one, or an
                agent that never joined.
            NotPermitted: a valid certificate that is no agent's.
        """
        if not certificate_pem:
            raise NotAuthenticated(
                Cause.NO_CLIENT_CERTIFICATE.explanation,
                remedy=Cause.NO_CLIENT_CERTIFICATE.remedy,
            )
        peer = _peer(certificate_pem)
        self.check(peer)
        return peer

    def check(self, peer: PeerCertificate) -> None:
        """Check what may have changed since the last time.

        Raises:
            NotAuthenticated, NotPermitted: as `authenticate`.
        """
        agent = peer.spiffe_id
        if agent.trust_domain != self._settings.trust_domain or not agent.path.startswith(
            AGENT_PREFIX
        ):
            raise NotPermitted(
                f"{agent} is not an agent's identity",
                remedy="call with the certificate of an enrolled agent",
            )
        if peer.not_after < self._clock.now():
            raise NotAuthenticated(
                f"the certificate of {agent} expired at {to_rfc3339(peer.not_after)}",
                remedy=Cause.CERTIFICATE_EXPIRED.remedy,
            )
        cause = self._state.refusal(
            serial=peer.serial, spiffe_id=agent, issuer_name=peer.issuer_name
        )
        if cause is not None:
            raise NotAuthenticated(f"{agent}: {cause.explanation}", remedy=cause.remedy)
        if not self._board.is_enrolled(agent):
            raise NotAuthenticated(
                f"{agent} has not joined this authority", remedy="enrol the agent again"
            )


def decoded(kind: type[M], data: bytes) -> M:
    """Read a message.

    Raises:
        InvalidInput: it is not one of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput(f"these bytes are not of the type {kind.__name__}") from None


# One entry a connection, or a few after renewals; a connection presents the same text
# with each of its requests.
@lru_cache(maxsize=4096)
def _peer(certificate_pem: str) -> PeerCertificate:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise NotAuthenticated("the client certificate has no SPIFFE ID") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:  # X509-SVID, section 5.2
        raise NotAuthenticated("the client certificate does not have exactly one URI")
    return PeerCertificate(
        spiffe_id=SpiffeID.parse(uris[0]),
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
        issuer_name=certificate.issuer.rfc4514_string(),
    )
