"""Deciding on HTTP requests inside the application, as its proxy would have.

Pure: a peer, a method and a request target in; what to do with the request out.
"""

import json
from dataclasses import dataclass, field

from legation.errors import LegationError, NotAuthenticated, NotPermitted, Unavailable, outcome_of
from legation.policy import PathAction, normalise_path
from legation.sdk.authorize import PolicyAuthorizer
from legation.sdk.model import Peer

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:legation:problem:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request may go on.

    Attributes:
        path: what the decision was about; the application has to see the same one.
        query: with its question mark, or empty.
    """

    path: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The request is answered with this and goes no further.

    Attributes:
        status: HTTP status code.
        headers: names in lower case, and values.
        body: a problem document (RFC 9457), or nothing.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)


def judge(
    authorizer: PolicyAuthorizer, peer: Peer | None, *, method: str, target: str
) -> Admitted | Answered:
    """Decide on a request.

    Args:
        authorizer: whose policies count.
        peer: who asks; None when the connection has no verified peer.
        method: as sent.
        target: path and query as sent, with their escapes.
    """
    if peer is None:
        return _problem(NotAuthenticated("the connection has no verified peer"))
    verdict = normalise_path(target)
    match verdict.action:
        case PathAction.REJECT:
            return _problem(
                NotPermitted("the path of the request cannot be decided on"), status=400
            )
        case PathAction.REDIRECT:
            return Answered(
                status=307,
                headers=(("location", verdict.location), ("content-length", "0")),
            )
        case PathAction.CONTINUE:
            pass
    try:
        decision = authorizer.decide(peer, method=method, path=verdict.path)
    except LegationError as error:
        # This process does not know who it is itself, so nobody knows which policies count.
        return _problem(Unavailable(error.message, remedy=error.remedy))
    if decision.allowed:
        return Admitted(path=verdict.path, query=verdict.query)
    return denied(peer, decision.decided_by)


def denied(peer: Peer, policy: str) -> Answered:
    """Answer a request that no policy allows, or one denies; the policy is named."""
    return _problem(
        NotPermitted(f"{peer.spiffe_id} is denied by {policy}"),
        cause="policy_denied",
        policy=policy,
    )


def _problem(error: LegationError, *, status: int | None = None, **more: str) -> Answered:
    document = {
        "type": _TYPE_PREFIX + error.code,
        "title": _TITLES[type(error)],
        "status": status or outcome_of(error).http,
        "detail": error.message,
        "code": error.code,
        **({"remedy": error.remedy} if error.remedy else {}),
        **more,
    }
    body = json.dumps(document).encode()
    headers = [
        ("content-type", MEDIA_TYPE),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
    ]
    if isinstance(error, NotAuthenticated):
        # RFC 9110, section 15.5.2, wants a challenge with every 401.
        headers.append(("www-authenticate", 'ClientCertificate realm="legation"'))
    return Answered(status=int(str(document["status"])), headers=tuple(headers), body=body)


_TITLES: dict[type[LegationError], str] = {
    NotAuthenticated: "The caller has not shown who it is",
    NotPermitted: "The caller may not do this",
    Unavailable: "The service cannot decide now",
}
