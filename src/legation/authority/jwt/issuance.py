"""JWT-SVIDs for workloads, asked for by the agents that serve them.

The steps are those of certificates (`legation.authority.issuing.issuance`): the caller is an
enrolled agent (1), the entry exists and names it (2), the identity is not banned (3), the
request asks for nothing beyond the entry (4); the token is signed (5), and recorded in the
audit log after 1 and 3 were checked again in the transaction; only then it leaves (6).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from legation.authority.events import EventBus, TokenIssued
from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.issuance import AgentCaller, entry_for
from legation.authority.jwt.keys import JWTKeys
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, Requester, TokenStore
from legation.clock import Clock, to_rfc3339
from legation.errors import InvalidInput
from legation.pki import SpiffeID
from legation.pki.jwt_svid import JWTSVIDContents, check_audience, sign_jwt_svid

_THUMBPRINT_LENGTH = 43  # of SHA-256 in Base64url


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A JWT-SVID on its way out."""

    token: str = field(repr=False)
    expires_at: datetime


class JWTIssuance:
    """Issues JWT-SVIDs to agents."""

    def __init__(
        self,
        keys: JWTKeys,
        store: TokenStore,
        hub: FeedHub,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        self._keys = keys
        self._store = store
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._events = events

    async def issue(
        self,
        caller: AgentCaller,
        entry_id: str,
        audience: Sequence[str],
        *,
        certificate_thumbprint: str | None = None,
    ) -> IssuedToken:
        """Issue a JWT-SVID for an entry.

        Args:
            caller: the agent, checked by the API.
            entry_id: whose identity.
            audience: who will read the token.
            certificate_thumbprint: binds the token to a certificate (RFC 8705), or None.

        Raises:
            NotFound: no such entry is delegated to the caller.
            InvalidInput: the audience or the thumbprint is not acceptable.
            NotPermitted: the identity is banned.
            NotAuthenticated: the caller was revoked or banned meanwhile.
        """
        entry = entry_for(self._hub.state, str(caller.spiffe_id), entry_id)  # steps 2 and 3
        audience = check_audience(audience)  # step 4
        if certificate_thumbprint is not None and len(certificate_thumbprint) != _THUMBPRINT_LENGTH:
            raise InvalidInput("a certificate's thumbprint is its SHA-256 in Base64url")
        now = stamp(self._clock)
        begins = now.replace(microsecond=0)  # tokens count whole seconds
        contents = JWTSVIDContents(
            spiffe_id=SpiffeID.parse(entry.spiffe_id),
            audience=audience,
            issued_at=begins,
            expires_at=begins + timedelta(seconds=self._settings.jwt_lifetime_s),
            token_id=secrets.token_hex(16),
            issuer=self._settings.jwt_issuer or None,
            certificate_thumbprint=certificate_thumbprint,
        )
        key_id, private_key = self._keys.signing
        token = sign_jwt_svid(private_key, key_id=key_id, contents=contents)  # step 5
        await self._store.record_token(  # step 6
            entry.spiffe_id,
            requester=Requester(spiffe_id=str(caller.spiffe_id), serial=caller.serial),
            audit=AuditDraft(
                time=now,
                actor=str(caller.spiffe_id),
                action="jwt_svid.issue",
                subject=entry.spiffe_id,
                detail={
                    "audience": list(audience),
                    "entry": entry_id,
                    "expires_at": to_rfc3339(contents.expires_at),
                    "jti": contents.token_id,
                },
            ),
        )
        self._events.emit(TokenIssued(requester=str(caller.spiffe_id), spiffe_id=entry.spiffe_id))
        return IssuedToken(token=token, expires_at=contents.expires_at)
