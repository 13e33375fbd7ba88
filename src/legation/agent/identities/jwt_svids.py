"""JWT-SVIDs for the workloads of this agent: fetched when asked for, kept while fresh.

The authority signs; nothing here could. A token is handed out again until half of its
lifetime is over, so that whoever gets it has time to use it; while the authority cannot be
reached it is handed out for as long as it holds.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from legation.agent.model import Identities, WorkloadIdentity
from legation.causes import Cause, Failure
from legation.clock import Clock
from legation.errors import LegationError, NotAuthenticated, NotPermitted, VerificationError
from legation.pki import SpiffeID, TrustDomain
from legation.pki.jwt_svid import (
    VerifiedJWTSVID,
    certificate_thumbprint,
    check_audience,
    verify_jwt_svid,
)

MAX_KEPT = 4096
# By how much the clocks of two machines of one trust domain may differ.
LEEWAY = timedelta(seconds=10)
# A token that ends sooner is of no use to anyone by the time it arrives.
_TOO_SHORT = timedelta(seconds=1)

_Key = tuple[str, tuple[str, ...], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A JWT-SVID as it came from the authority."""

    token: str = field(repr=False)
    fetched_at: datetime
    expires_at: datetime

    def fresh(self, at: datetime) -> bool:
        """Tell whether less than half of the time that it came with is over."""
        return at < self.fetched_at + (self.expires_at - self.fetched_at) / 2

    def usable(self, at: datetime) -> bool:
        """Tell whether it still holds for a moment."""
        return at + _TOO_SHORT < self.expires_at


class TokenIssuer(Protocol):
    """The authority, as far as tokens are concerned."""

    async def issue_jwt(
        self, entry_id: str, audience: Sequence[str], *, certificate_thumbprint: str | None
    ) -> tuple[str, datetime]:
        """Return a token for an entry, and when it ends.

        Raises:
            LegationError: there is none.
        """
        ...


class JWTSVIDs:
    """Hands out tokens, and checks those of others."""

    def __init__(self, identities: Identities, issuer: TokenIssuer, clock: Clock) -> None:
        self._identities = identities
        self._issuer = issuer
        self._clock = clock
        self._kept: OrderedDict[_Key, Token] = OrderedDict()
        self._fetching: dict[_Key, asyncio.Task[Token]] = {}

    async def fetch(
        self, identity: WorkloadIdentity, audience: Sequence[str], *, bound: bool = False
    ) -> str:
        """Return a token of `identity` for `audience`.

        Args:
            identity: whose.
            audience: who will read it.
            bound: whether it is good only over connections with the identity's current
                certificate (RFC 8705).

        Raises:
            InvalidInput: the audience is not acceptable.
            LegationError: there is none to be had, and none left.
        """
        thumbprint = certificate_thumbprint(identity.chain[0]) if bound else None
        key = (identity.entry.id, tuple(sorted(check_audience(audience))), thumbprint)
        kept = self._kept.get(key)
        if kept is not None and kept.fresh(self._clock.now()):
            self._kept.move_to_end(key)
            return kept.token
        try:
            return (await self._fetched(key)).token
        except (NotAuthenticated, NotPermitted):
            self._kept.pop(key, None)  # the authority has spoken
            raise
        except LegationError:
            if kept is not None and kept.usable(self._clock.now()):
                return kept.token
            raise

    def validate(self, token: str, *, audience: str) -> VerifiedJWTSVID:
        """Check a token of this trust domain or of a federated one.

        Raises:
            VerificationError: it does not hold, or its bearer is banned, with every reason.
        """
        state = self._identities.state
        found = verify_jwt_svid(
            token,
            bundles={TrustDomain(name): bundle for name, bundle in state.bundles.items()},
            audience=audience,
            at=self._clock.now(),
            leeway=LEEWAY,
        )
        if str(found.spiffe_id) in state.bans:
            raise _banned(found.spiffe_id)
        return found

    async def _fetched(self, key: _Key) -> Token:
        """Fetch a token once for everyone who waits for it."""
        task = self._fetching.get(key)
        if task is None:
            task = self._fetching[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        # One waiter giving up must not take the token from the others.
        return await asyncio.shield(task)

    async def _fetch(self, key: _Key) -> Token:
        entry_id, audience, thumbprint = key
        fetched_at = self._clock.now()
        token, expires_at = await self._issuer.issue_jwt(
            entry_id, audience, certificate_thumbprint=thumbprint
        )
        fetched = Token(token=token, fetched_at=fetched_at, expires_at=expires_at)
        self._kept[key] = fetched
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return fetched


def _banned(spiffe_id: SpiffeID) -> VerificationError:
    detail = f"{spiffe_id} is banned"
    return VerificationError([Failure(cause=Cause.IDENTITY_BANNED, detail=detail)])
