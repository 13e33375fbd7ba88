"""Who is calling, from the client certificate that TLS has verified.

TLS has checked chain, signature, purpose and, at the handshake, the time. A connection
outlives all of that, so on every request the certificate's time is compared again and the
authority is asked whether this operator and this certificate still stand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509

from legation.authority.model import (
    Actor,
    Role,
)
from legation.authority.services import OperatorService
from legation.clock import Clock
from legation.errors import InvalidInput, NotAuthenticated, NotPermitted
from legation.pki.spiffe_id import SpiffeID

_RANKS = {role: rank for rank, role in enumerate(Role)}
_HOW = "present an operator's certificate: `legation operator create` makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a verified client certificate says."""

    spiffe_id: SpiffeID
    serial: int
    not_after: datetime
    issuer_name: str


def authenticate(scope: Mapping[str, Any], operators: OperatorService, *, clock: Clock) -> Actor:
    """Return the operator at the other end of this request's connection.

    Raises:
        NotAuthenticated: no certificate, not an X.509-SVID, expired meanwhile, or the
            authority refuses it: revoked, banned, disabled, or not an operator's.
    """
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain")
    if not chain:
        raise NotAuthenticated("the client presented no certificate", remedy=_HOW)
    peer = _peer(chain[0])
    if peer.not_after < clock.now():
        raise NotAuthenticated("the client certificate has expired on this connection", remedy=_HOW)
    return operators.authenticate(peer.spiffe_id, peer.serial, issuer_name=peer.issuer_name)


def authorize(actor: Actor, role: Role) -> None:
    """Check that `actor` is at least `role`.

    Raises:
        NotPermitted: it is not.
    """
    if actor.role is None or _RANKS[actor.role] < _RANKS[role]:
        raise NotPermitted(
            f"{actor.spiffe_id} is {actor.role or 'no operator'}; this needs {role}",
            remedy=f"ask an operator whose role is {role} or higher",
        )


def refuse_cross_site(method: str, headers: Mapping[str, str]) -> None:
    """Refuse a change that a page of another site asks a browser to make.

    A browser that holds an operator's certificate presents it for any page, and a POST
    without a body needs no leave from us (Fetch, section 3.3, "simple" requests).

    Raises:
        NotPermitted: the browser names another origin than ours.
    """
    if method in {"GET", "HEAD"}:
        return
    origin = headers.get("origin")
    if origin is not None and origin != f"https://{headers.get('host', '')}":
        raise NotPermitted("a page of another site may not make changes here")
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise NotPermitted("a page of another site may not make changes here")


# A connection presents the same text with each of its requests.
@lru_cache(maxsize=1024)
def _peer(certificate_pem: str) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        # X509-SVID, section 2: exactly one URI.
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return Peer(
            spiffe_id=SpiffeID.parse(uri),
            serial=certificate.serial_number,
            not_after=certificate.not_valid_after_utc,
            issuer_name=certificate.issuer.rfc4514_string(),
        )
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, InvalidInput):
        raise NotAuthenticated(
            "the client certificate names no SPIFFE ID, or more than one", remedy=_HOW
        ) from None
