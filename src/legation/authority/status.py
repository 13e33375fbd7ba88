"""How the authority is, and what anyone may fetch from it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

import legation
from legation.authority.agents.propagation import PropagationBoard
from legation.authority.feed.hub import FeedHub
from legation.authority.issuing.serving import ServingIdentity
from legation.authority.jwt.discovery import discovery_document, jwks
from legation.authority.model import ListRecord
from legation.authority.revoking.crl_lists import is_root
from legation.authority.revoking.crl_publisher import CRLPublisher
from legation.authority.settings import AuthoritySettings
from legation.clock import Clock, to_rfc3339
from legation.errors import NotFound, Unavailable
from legation.pki import Issuer, TrustBundle


class Status:
    """Implements `legation.authority.services.StatusService`."""

    def __init__(
        self,
        hub: FeedHub,
        board: PropagationBoard,
        publisher: CRLPublisher,
        serving: ServingIdentity,
        issuers: Mapping[str, Issuer],
        *,
        settings: AuthoritySettings,
        clock: Clock,
        store_problem: Callable[[], str | None],
        drill: Callable[[], Mapping[str, Any] | None],
        signing: Callable[[], Issuer],
    ) -> None:
        """Tell how the parts given are; `store_problem` says why writes fail, if they do,
        `drill` returns the newest drill in brief, if there was one, and `signing` the issuer
        that signs, or raises.
        """
        self._hub = hub
        self._board = board
        self._publisher = publisher
        self._serving = serving
        self._issuers = issuers
        self._settings = settings
        self._clock = clock
        self._store_problem = store_problem
        self._drill = drill
        self._signing = signing
        self._started_at = clock.now()
        self.running = False

    def status(self) -> Mapping[str, Any]:
        """Return how things stand, as JSON values."""
        state = self._hub.state
        agents = self._board.agents()
        return {
            "trust_domain": self._settings.trust_domain.name,
            "version": legation.__version__,
            "time": to_rfc3339(self._clock.now()),
            "started_at": to_rfc3339(self._started_at),
            "feed_id": self._hub.feed_id,
            "revision": self._hub.revision,
            "issuers": [_issuer(issuer) for issuer in self._issuers.values()],
            "serving_not_after": to_rfc3339(self._serving.credentials.not_after),
            "crl_next_update": _optional(self._publisher.next_update()),
            "counts": {
                "entries": len(state.entries),
                "policies": len(state.policies),
                "revocations": len(state.revocations),
                "bans": len(state.bans),
                "agents": len(agents),
                "agents_connected": sum(agent.connected for agent in agents),
                "points": len(self._board.points()),
            },
            "drill": self._drill(),
        }

    def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Return whether requests can be served, and the state of each part."""
        now = self._clock.now()
        next_update = self._publisher.next_update()
        parts = {
            "authority": "ok" if self.running else "not running",
            "store": self._store_problem() or "ok",
            "issuer": self._issuer(now),
            "serving_certificate": _lasts(self._serving.credentials.not_after, now),
            "revocation_lists": "missing" if next_update is None else _lasts(next_update, now),
        }
        return all(state == "ok" for state in parts.values()), parts

    def _issuer(self, now: datetime) -> str:
        """Return whether certificates can be made: those that leave may be over."""
        try:
            signing = self._signing()
        except Unavailable as error:
            return error.message
        roots = [issuer for issuer in self._issuers.values() if is_root(issuer)]
        return _lasts(min(issuer.not_after for issuer in (signing, *roots)), now)

    def bundle_document(self) -> Mapping[str, Any]:
        """Return the SPIFFE bundle document of the trust domain."""
        return self._bundle.to_document()

    def jwks(self) -> Mapping[str, Any]:
        """Return the keys that sign JWT-SVIDs, as a JWK set."""
        return jwks(self._bundle)

    def discovery_document(self) -> Mapping[str, Any]:
        """Return the OpenID Connect discovery document of JWT-SVIDs.

        Raises:
            NotFound: they name no issuer.
        """
        if not self._settings.jwt_issuer:
            raise NotFound(
                "the JWT-SVIDs of this authority name no issuer",
                remedy="set issuer in the section [jwt] of the configuration",
            )
        return discovery_document(self._settings.jwt_issuer, self._bundle)

    @property
    def _bundle(self) -> TrustBundle:
        return self._hub.state.bundles[self._settings.trust_domain.name]

    def authority_certificates(self) -> Mapping[str, bytes]:
        """Return root and issuing certificates, DER, by key id in hexadecimal."""
        return {
            key_id: issuer.certificate.public_bytes(Encoding.DER)
            for key_id, issuer in self._issuers.items()
        }

    def revocation_lists(self) -> Sequence[ListRecord]:
        """Return what is out, by issuer and shard."""
        return self._publisher.lists()

    def crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest list, DER.

        Raises:
            NotFound: no such issuer or shard.
        """
        return self._publisher.crl(issuer, shard)

    def delta_crl(self, issuer: str, shard: int) -> bytes:
        """Return the newest delta list, DER.

        Raises:
            NotFound: no such issuer or shard, or no delta lists.
        """
        return self._publisher.delta_crl(issuer, shard)

    async def compact_set(self, issuer: str, shard: int) -> bytes:
        """Return the newest compact set of revoked serial numbers, signed.

        Raises:
            NotFound: no such issuer or shard, or no compact sets.
        """
        return await self._publisher.compact_set(issuer, shard)


def _issuer(issuer: Issuer) -> dict[str, Any]:
    return {
        "key_id": issuer.key_id_hex,
        "role": "root" if is_root(issuer) else "issuing",
        "not_before": to_rfc3339(issuer.certificate.not_valid_before_utc),
        "not_after": to_rfc3339(issuer.not_after),
    }


def _lasts(end: datetime, now: datetime) -> str:
    return "ok" if now < end else f"over since {to_rfc3339(end)}"


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else to_rfc3339(moment)
