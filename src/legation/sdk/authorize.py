"""Who may be the other end of a connection, and who may make a request on it.

An authorizer is asked once a peer is verified, so it decides on an identity that is true.
There is no default: a context that lets everybody in says so, with `authorize_any`.
"""

from collections.abc import Callable
from typing import TypeAlias

from legation.causes import Cause
from legation.errors import InvalidInput, NotPermitted
from legation.pki.spiffe_id import SpiffeID, TrustDomain
from legation.policy.decision import Decision, Request
from legation.sdk.model import Peer, Source
from legation.sdk.running import RunningCalls, running_calls_of

Authorizer: TypeAlias = Callable[[Peer], None]
"""Returns for a peer that is let in; raises NotPermitted for any other."""


class PeerNotAuthorized(NotPermitted):
    """The peer is who it says, and is not let in.

    Attributes:
        cause: the word for it.
    """

    def __init__(self, message: str, *, cause: Cause) -> None:
        super().__init__(message, remedy=cause.remedy)
        self.cause = cause


def authorize_any() -> Authorizer:
    """Let in every verified peer of every trust domain that the source has a bundle of."""
    return _anyone


def authorize_id(*ids: SpiffeID | str) -> Authorizer:
    """Let in exactly these identities.

    Raises:
        InvalidInput: there are none, or one is not a SPIFFE ID.
    """
    allowed = frozenset(SpiffeID.parse(one) if isinstance(one, str) else one for one in ids)
    if not allowed:
        raise InvalidInput(
            "no SPIFFE ID is named, so nobody could be let in",
            remedy="name at least one, or use authorize_any()",
        )
    expected = ", ".join(sorted(map(str, allowed)))

    def authorize(peer: Peer) -> None:
        if peer.spiffe_id not in allowed:
            raise PeerNotAuthorized(
                f"it is {peer.spiffe_id}, expected {expected}", cause=Cause.WRONG_IDENTITY
            )

    return authorize


def authorize_member_of(*trust_domains: TrustDomain | str) -> Authorizer:
    """Let in every identity of these trust domains.

    Raises:
        InvalidInput: there are none, or one is not a trust domain.
    """
    allowed = frozenset(
        TrustDomain.parse(one) if isinstance(one, str) else one for one in trust_domains
    )
    if not allowed:
        raise InvalidInput(
            "no trust domain is named, so nobody could be let in",
            remedy="name at least one, or use authorize_any()",
        )
    expected = ", ".join(sorted(map(str, allowed)))

    def authorize(peer: Peer) -> None:
        if peer.spiffe_id.trust_domain not in allowed:
            raise PeerNotAuthorized(
                f"{peer.spiffe_id} is not of {expected}", cause=Cause.WRONG_TRUST_DOMAIN
            )

    return authorize


class PolicyAuthorizer:
    """Decides by the source's policies, which change while connections are open.

    As the authorizer of a context it judges the connection: one that carries requests is
    let in, because a policy may allow one request and not the next, and each has to be put
    to `check`; one that carries none (`tcp`) is decided on as a whole.
    """

    def __init__(self, source: Source, *, target: SpiffeID | None, port: int, tcp: bool) -> None:
        self._source = source
        self._target = target
        self._port = port
        self._tcp = tcp
        self._running: RunningCalls | None = None

    @property
    def running(self) -> RunningCalls:
        """The calls that are being served, to be decided on again when policies change."""
        if self._running is None:
            self._running = running_calls_of(self._source)
        return self._running

    def __call__(self, peer: Peer) -> None:
        """Judge a connection.

        Raises:
            PeerNotAuthorized: no policy allows a connection of this peer.
        """
        if self._tcp:
            self.check(peer, method=None, path=None)

    def check(self, peer: Peer, *, method: str | None, path: str | None) -> Decision:
        """Judge a request.

        Args:
            peer: who asks.
            method: HTTP method as sent; None for a connection without requests.
            path: what `legation.policy.normalise_path` made of the path, or None likewise.

        Raises:
            PeerNotAuthorized: no policy allows it, or one denies it.
            Unavailable: the source has no identity, so nobody knows what is being called.
        """
        decision = self.decide(peer, method=method, path=path)
        if not decision.allowed:
            raise PeerNotAuthorized(
                f"{peer.spiffe_id} is denied by {decision.decided_by}", cause=Cause.POLICY_DENIED
            )
        return decision

    def decide(self, peer: Peer, *, method: str | None, path: str | None) -> Decision:
        """Return the decision on a request, denied or not; arguments and errors as `check`."""
        target = self._target or self._source.view().svid.spiffe_id
        return self._source.decide(
            Request(
                source=str(peer.spiffe_id),
                target=str(target),
                method=method,
                path=path,
                port=self._port,
            )
        )


def authorize_policy(
    source: Source, *, target: SpiffeID | None = None, port: int = 0, tcp: bool = False
) -> PolicyAuthorizer:
    """Decide by the live policies of `source`; without any, everything is denied.

    Args:
        source: where policies come from.
        target: who is being called; None for the identity of `source`.
        port: of the listener, for policies that name ports.
        tcp: the connection carries no requests that could be decided on one by one.
    """
    return PolicyAuthorizer(source, target=target, port=port, tcp=tcp)


def _anyone(peer: Peer) -> None:
    del peer
