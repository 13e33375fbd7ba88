"""Secret discovery for Envoys that someone has configured by hand.

The names are those of SPIRE, so its users can point their Envoys here:

* ``default``, or a SPIFFE ID: the certificate and key of that identity;
* ``ROOTCA``, or ``spiffe://<trust domain>``: the validation context of that trust domain.

Such an Envoy refuses revoked peers in new handshakes only: nobody but its owner can put
filters into its chains.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from types import MappingProxyType
from typing import Any

from legation.agent.discovery.identity import no_identity, pem_of
from legation.agent.discovery.messages import RawMessage
from legation.agent.discovery.session import Request, Session
from legation.agent.discovery.stapling import Stapling
from legation.agent.discovery.surroundings import Surroundings
from legation.agent.identities.staples import needs_staple
from legation.agent.model import AttestedCaller, PointState, WorkloadIdentity
from legation.envoy import type_urls
from legation.envoy.revocation import RevokedPeers
from legation.envoy.secrets import (
    cover_issuers,
    identity_secret,
    trust_secret,
    usable_lists,
)
from legation.envoy.snapshot import Snapshot, TypedResources, digest_of
from legation.pki.spiffe_id import TrustDomain

KIND = "envoy-sds"
DEFAULT_IDENTITY = "default"
DEFAULT_TRUST = "ROOTCA"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_log = logging.getLogger(__name__)


class SecretClient:
    """One process with any number of secret streams, and so one enforcement point.

    Attributes:
        stapling: whether it is given OCSP responses.
    """

    def __init__(self, node_id: str, caller: AttestedCaller, around: Surroundings) -> None:
        name = node_id if _NAME.match(node_id) else str(caller.pid)
        self.point = f"{KIND}/{name}#{caller.pid}"
        self.stapling = True
        self._caller = caller
        self._around = around
        self._streams: set[SecretStream] = set()

    def state_changed(self) -> None:
        """Take note that identities or the feed have changed."""
        for stream in self._streams:
            stream.state_changed()

    def do_without_staples(self) -> None:
        """It has refused something: perhaps only a staple, which must not hold anything up.

        Envoy says so on whichever stream brings what is missing for its TLS context, so this
        concerns all of them.
        """
        if self.stapling:
            self.stapling = False
            self.state_changed()

    @contextlib.contextmanager
    def stream(self, attest: Callable[[], Awaitable[AttestedCaller]]) -> Iterator["SecretStream"]:
        """Open one more stream."""
        stream = SecretStream(self, self._around, self._caller, attest)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    def stated(self) -> None:
        """State what is in force: no more than what the slowest stream has."""
        if not self._streams:
            return
        identities = self._around.identities.identities_for(self._caller)
        self._around.board.put(
            PointState(
                id=self.point,
                kind=KIND,
                spiffe_id=identities[0].spiffe_id if identities else "",
                revision=min(stream.revision for stream in self._streams),
                applied_at=self._around.clock.now(),
                notes=("new handshakes only",),
            )
        )


class SecretStream:
    """One stream of secrets."""

    def __init__(
        self,
        client: SecretClient,
        around: Surroundings,
        caller: AttestedCaller,
        attest: Callable[[], Awaitable[AttestedCaller]],
    ) -> None:
        self.revision = 0
        self._client = client
        self._around = around
        self._caller = caller
        self._attest = attest
        self._stapling: dict[str, Stapling] = {}  # by entry
        self._session = Session((type_urls.SECRET,))
        self._work = asyncio.Event()
        self._stale = False
        self._held = tuple(around.identities.identities_for(caller))
        if not self._held:
            raise no_identity(caller)
        self._snapshot = self._build(None)

    def state_changed(self) -> None:
        """Take note that identities or the feed have changed."""
        self._stale = True
        self._work.set()

    def receive(self, request: Request) -> None:
        """Take in a request."""
        if self._session.receive(request) and request.error:
            _log.error("%s refuses its new secrets: %s", self._client.point, request.error)
            self._client.do_without_staples()
        self._work.set()

    async def run(self, send: Callable[[RawMessage], Awaitable[None]]) -> None:
        """Serve until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            if self._stale:
                self._stale = False
                await self._refresh()
            held = self._snapshot.by_type[type_urls.SECRET]
            for push in self._session.offer(self._snapshot):
                encoder = self._around.encoder
                encoded = encoder.resources(push.type_url, held.digest, held.resources)
                chosen = [encoded[name] for name in push.names]
                await send(encoder.response(push.type_url, push.version, push.nonce, chosen))
            if self._session.holds(self._snapshot) and self.revision != self._snapshot.revision:
                self.revision = self._snapshot.revision
                self._client.stated()

    async def _refresh(self) -> None:
        held = tuple(self._around.identities.identities_for(self._caller))
        if {item.serial for item in held} != {item.serial for item in self._held}:
            self._caller = await self._attest()
            held = tuple(self._around.identities.identities_for(self._caller))
        self._held = held or self._held
        self._snapshot = self._build(self._snapshot)

    def _build(self, previous: Snapshot | None) -> Snapshot:
        state = self._around.identities.state
        resources = {secret["name"]: secret for secret in self._all_secrets()}
        digest = digest_of(resources)
        before = previous.by_type[type_urls.SECRET] if previous else None
        if before is None or before.digest != digest:
            before = TypedResources(
                version=f"{state.revision}.{digest[:12]}",
                digest=digest,
                resources=MappingProxyType(resources),
            )
        return Snapshot(
            revision=state.revision,
            by_type={type_urls.SECRET: before},
            revoked=RevokedPeers(),
            upstream_facts={},
            lists_in_force=False,
        )

    def _staple(self, identity: WorkloadIdentity) -> bytes | None:
        if not self._client.stapling and not needs_staple(identity):
            return None
        own = Stapling(self._around.staple)
        return self._stapling.setdefault(identity.entry.id, own).choose(identity)

    def _all_secrets(self) -> Iterator[dict[str, Any]]:
        state = self._around.identities.state
        own = self._around.identities.agent_id.trust_domain
        for identity in self._held:
            chain, key, _ = pem_of(identity.chain, identity.private_key)
            staple = self._staple(identity)
            yield identity_secret(chain, key, name=identity.spiffe_id, ocsp_staple=staple)
        first = self._held[0]
        chain, key, issuer = pem_of(first.chain, first.private_key)
        staple = self._staple(first)
        yield identity_secret(chain, key, name=DEFAULT_IDENTITY, ocsp_staple=staple)
        wanted = self._around.verdict(self._client.point, first.spiffe_id).lists
        lists = usable_lists(state.crls.values(), issuer=issuer) if wanted else ()
        for name, bundle in state.bundles.items():
            domain = TrustDomain(name)
            pem = bundle.to_pem().decode()
            crls = lists if domain == own else ()
            leaf_only = not cover_issuers(crls, bundle)
            yield trust_secret(domain, pem, crls, name=str(domain.id), leaf_only=leaf_only)
            if domain == own:
                yield trust_secret(domain, pem, crls, name=DEFAULT_TRUST, leaf_only=leaf_only)
