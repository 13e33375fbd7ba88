"""Who is on the other end of a gRPC call, and how errors go back to it."""

import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NoReturn, TypeVar

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError, Message

from legation.authority.issuance import AgentCaller
from legation.authority.model import AGENT_PREFIX
from legation.authority.propagation import PropagationBoard
from legation.authority.settings import AuthoritySettings
from legation.causes import Cause
from legation.clock import Clock, to_rfc3339
from legation.errors import (
    InternalError,
    InvalidInput,
    LegationError,
    NotAuthenticated,
    NotPermitted,
    outcome_of,
)
from legation.pki import SpiffeID
from legation.wire.feed import FeedState

# Trailing metadata that carries what a gRPC status cannot: the error's code and remedy.
CODE_KEY = "legation-code"
REMEDY_KEY = "legation-remedy-bin"

T = TypeVar("T")
M = TypeVar("M", bound=Message)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """What a verified client certificate says."""

    spiffe_id: SpiffeID
    serial: int
    not_after: datetime


class AgentGate:
    """Lets enrolled agents in: on every call, whatever the connection was let in with.

    gRPC has verified the chain when the connection began. Since then the certificate may
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

    def authenticate(self, context: Mapping[str, Sequence[bytes]]) -> PeerCertificate:
        """Return the calling agent's certificate.

        Args:
            context: what gRPC knows of the connection.

        Raises:
            NotAuthenticated: no certificate, or an expired, revoked or banned one, or an
                agent that never joined, or not TLS 1.3.
            NotPermitted: a valid certificate that is no agent's.
        """
        # gRPC for Python cannot refuse TLS 1.2 in the handshake.
        if list(context.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
            raise NotAuthenticated(
                Cause.PROTOCOL_VERSION.explanation, remedy=Cause.PROTOCOL_VERSION.remedy
            )
        certificates = context.get("x509_pem_cert", ())
        if not certificates:
            raise NotAuthenticated(
                Cause.NO_CLIENT_CERTIFICATE.explanation,
                remedy=Cause.NO_CLIENT_CERTIFICATE.remedy,
            )
        peer = _peer(bytes(certificates[0]))
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
        cause = self._state.refusal(serial=peer.serial, spiffe_id=agent)
        if cause is not None:
            raise NotAuthenticated(f"{agent}: {cause.explanation}", remedy=cause.remedy)
        if not self._board.is_enrolled(agent):
            raise NotAuthenticated(
                f"{agent} has not joined this authority", remedy="enrol the agent again"
            )


def caller_of(peer: PeerCertificate) -> AgentCaller:
    """Return the peer as the services know it."""
    return AgentCaller(spiffe_id=peer.spiffe_id, serial=peer.serial)


def decoded(kind: type[M], data: bytes) -> M:
    """Read a message.

    Raises:
        InvalidInput: it is not one of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput(f"these bytes are not of the type {kind.__name__}") from None


async def answered(context: grpc.aio.ServicerContext, work: Awaitable[T]) -> T:
    """Await `work`; turn what it raises into a gRPC status. The one place that does."""
    try:
        return await work
    except LegationError as error:
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:
        _log.exception("a request of an agent failed")
        await abort(context, InternalError("the authority failed", remedy="see its log"))


async def abort(context: grpc.aio.ServicerContext, error: LegationError) -> NoReturn:
    """End a call with an error: status, message, and code and remedy as trailing metadata."""
    metadata: list[tuple[str, str | bytes]] = [(CODE_KEY, error.code)]
    if error.remedy:
        metadata.append((REMEDY_KEY, error.remedy.encode()))
    await context.abort(
        grpc.StatusCode[outcome_of(error).grpc], error.message, trailing_metadata=tuple(metadata)
    )
    raise AssertionError("abort returned")


# One entry a connection, or a few after renewals.
@lru_cache(maxsize=4096)
def _peer(pem: bytes) -> PeerCertificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
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
    )
