"""Puts an agent together, and takes it down again."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509

import legation
from legation.agent.attestation import (
    NO_OTHERS,
    AttestationSettings,
    PeerAttestor,
    attestors_of,
)
from legation.agent.background import supervised
from legation.agent.discovery import Discovery
from legation.agent.enrolment import EnrolmentRequest, enrol
from legation.agent.freshness import NodeFreshness
from legation.agent.identities.confirmation import Confirmation
from legation.agent.identities.in_force import InForceBoard
from legation.agent.identities.jwt_svids import JWTSVIDs
from legation.agent.identities.orders import Orders
from legation.agent.identities.renewal import OwnRenewal
from legation.agent.identities.rotation import Rotator
from legation.agent.identities.schedule import DEFAULT_TIMING, RenewalTiming
from legation.agent.identities.staples import Staples
from legation.agent.identity import (
    AUTHORITY_PATH,
    AgentIdentity,
    IdentityStore,
    Membership,
    with_feed_keys,
)
from legation.agent.local.enforcement import EnforcementService
from legation.agent.local.server import LocalServer
from legation.agent.local.status import (
    StatusService,
    identity_row,
    in_force_row,
    point_row,
    sink_row,
    time_text,
)
from legation.agent.local.workload_api import WorkloadAPI
from legation.agent.model import PointBoard, WorkloadIdentity
from legation.agent.private_files import make_private_directory
from legation.agent.sinks import Sinks
from legation.agent.upstream.client import AuthorityClient, Credentials
from legation.agent.upstream.feed import FeedReceiver
from legation.agent.upstream.feed_cache import FeedCache
from legation.agent.upstream.kept import KeptReport
from legation.agent.upstream.sync import FeedSync
from legation.causes import Failure
from legation.clock import Clock, SystemClock
from legation.config.sinks import Sink
from legation.config.values import Address
from legation.errors import InvalidInput, LegationError, VerificationError
from legation.pki import Purpose, SpiffeID, verify_svid
from legation.wire.feed import Kind

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent needs to know.

    Attributes:
        data_dir: its own directory, mode 0700.
        socket: path of the Unix socket that it serves.
        enrolment: used once, when `data_dir` holds no identity yet; None afterwards.
        api: the authority's HTTPS address, where it moved since the enrolment; else None.
        socket_mode: of the socket.
        socket_group: group that owns the socket, by name or number, or None.
        timing: when certificates are renewed.
        revoke_replaced: whether a certificate is revoked once the next is in force everywhere.
        attestation: whom to ask about workloads besides the kernel.
        sinks: identities to keep as files, and the servers that use them.
    """

    data_dir: Path
    socket: Path
    enrolment: EnrolmentRequest | None = None
    api: Address | None = None
    socket_mode: int = 0o666
    socket_group: str | None = None
    timing: RenewalTiming = DEFAULT_TIMING
    revoke_replaced: bool = False
    attestation: AttestationSettings = NO_OTHERS
    sinks: tuple[Sink, ...] = ()


class Agent:
    """A running agent: an asynchronous context manager.

    Attributes:
        identities: the workload identities and the feed state.
        board: the enforcement points behind it.
        in_force: which certificates they serve.
        sinks: the identities kept as files.
        staples: OCSP responses for the certificates of the identities.
        sync: the connection to the authority.
        freshness: how old the news is.
        own: its own identity.
    """

    def __init__(
        self,
        settings: AgentSettings,
        identity: AgentIdentity,
        membership: Membership,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._membership = membership
        self._store = IdentityStore(settings.data_dir)
        self._clock = clock or SystemClock()
        self._tasks: list[asyncio.Task[None]] = []
        self._giving_up: set[asyncio.Task[None]] = set()
        self._started_at: datetime | None = None
        self._authority_id = SpiffeID(membership.trust_domain, AUTHORITY_PATH)
        self.board = PointBoard()
        self._receiver = FeedReceiver(identity.spiffe_id, lambda: self._membership.feed_keys)
        self._cache = FeedCache(settings.data_dir / "feed.log")
        self._client = AuthorityClient(
            api=settings.api or Address(membership.authority, membership.api_port),
            credentials=Credentials(
                identity=identity, authorities=membership.bundle.x509_authorities
            ),
            verify=self._verify_authority,
        )
        self.identities = Rotator(
            agent_id=identity.spiffe_id,
            state=lambda: self._receiver.state,
            first_bundle=membership.bundle,
            certifier=self._client,
            clock=self._clock,
            timing=settings.timing,
            prepare_staple=self._prepare_staple,
        )
        self.own = OwnRenewal(
            identity,
            certifier=self._client,
            bundle=lambda: self.identities.bundle,
            renewed=self._own_renewed,
            clock=self._clock,
            timing=settings.timing,
            on_disk=lambda: self._store.load()[0],
        )
        self.in_force = InForceBoard(
            self.identities, clock=self._clock, confirmed=self._in_force_everywhere
        )
        self._orders = Orders(
            str(identity.spiffe_id),
            state=lambda: self._receiver.state,
            rotator=self.identities,
            own=self.own,
            in_force=self.in_force,
        )
        self.freshness = NodeFreshness(
            self._receiver,
            self.board,
            clock=self._clock,
            path=settings.data_dir / "freshness.json",
            changed=self.identities.changes.notify,
        )
        self.sync = FeedSync(
            connector=self._client,
            receiver=self._receiver,
            cache=self._cache,
            board=self.board,
            agent_id=str(identity.spiffe_id),
            clock=self._clock,
            changed=self._feed_changed,
            reconnected=self.identities.resume,
            rotation=self._orders,
            in_step=self.freshness.in_step,
        )
        self._kept = KeptReport(self._receiver, self._client)
        self.staples = Staples(self.identities, self._client, clock=self._clock)
        self.sinks = Sinks(
            settings.sinks,
            issued=self.identities,
            board=self.board,
            clock=self._clock,
            in_force=self.in_force,
            staple=self.staples.staple,
        )
        self._attestor = PeerAttestor(self._clock, attestors_of(settings.attestation))
        self._discovery = Discovery(
            identities=self.identities,
            staple=self.staples.staple,
            attestor=self._attestor,
            board=self.board,
            clock=self._clock,
            verdict=self.freshness.verdict,
        )
        self._confirmation = Confirmation(self._discovery, self.in_force, clock=self._clock)
        self._server = LocalServer(
            [
                WorkloadAPI(
                    self.identities,
                    JWTSVIDs(self.identities, self._client, self._clock),
                    self._attestor,
                ),
                EnforcementService(
                    self.identities,
                    self._attestor,
                    board=self.board,
                    clock=self._clock,
                    in_force=self.in_force,
                    freshness=self.freshness,
                    staple=self.staples.staple,
                ),
                StatusService(self._attestor, self.status),
                *self._discovery.handlers,
            ],
            path=settings.socket,
            mode=settings.socket_mode,
            group=settings.socket_group,
            clock=self._clock,
        )

    @classmethod
    async def open(cls, settings: AgentSettings, *, clock: Clock | None = None) -> Self:
        """Load the identity in `data_dir`, or enrol for one; do not start yet.

        Raises:
            NotFound: there is no identity, and no join token.
            LegationError: as `enrol`.
        """
        clock = clock or SystemClock()
        make_private_directory(settings.data_dir)
        store = IdentityStore(settings.data_dir)
        if settings.enrolment is not None and not store.enrolled:
            store.save_enrolment(*await enrol(settings.enrolment, clock=clock))
        identity, membership = store.load()
        return cls(settings, identity, membership, clock=clock)

    async def start(self) -> None:
        """Serve. What the last run knew is in force when this returns.

        Raises:
            Conflict: another agent serves the socket.
            Unavailable: the disk or the socket refuses.
        """
        self._started_at = self._clock.now()
        self.sync.restore()
        self.freshness.restore()
        self._feed_changed(frozenset(Kind))
        await self._discovery.start()
        try:
            await self._server.start()
        except BaseException:
            await self._discovery.stop()
            self._cache.close()
            raise
        self._tasks = [
            supervised("the feed", self.sync.run()),
            supervised("what the authority has forgotten", self._kept.run()),
            supervised("freshness", self.freshness.run()),
            supervised("staples", self.staples.run()),
            supervised("staples that changed", self._staples_changed()),
            supervised("rotation", self.identities.run()),
            supervised("confirmation", self._confirmation.run()),
            supervised("the sinks", self.sinks.run()),
            supervised("the agent's own renewal", self.own.run()),
        ]

    async def stop(self) -> None:
        """Stop serving. Workloads keep what they were given."""
        tasks = [*self._tasks, *self._giving_up]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.stop()
        await self._discovery.stop()
        self._client.close()
        await self._attestor.close()
        self._cache.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def status(self) -> Mapping[str, Any]:
        """Return the agent's state as JSON values, without secrets."""
        problem = self.sync.problem
        own_problem = self.own.problem
        return {
            "schema_version": 1,
            "agent": {
                "spiffe_id": str(self.own.identity.spiffe_id),
                "version": legation.__version__,
                "started_at": time_text(self._started_at),
                "serial": format(self.own.identity.serial, "x"),
                "not_after": time_text(self.own.identity.not_after),
                "problem": None if own_problem is None else str(own_problem),
            },
            "authority": {
                "connected": self.sync.connected,
                "last_contact": time_text(self.sync.last_contact),
                "in_step_s_ago": round(self.freshness.age_s, 3),
                "clock_skew_s": self.sync.clock_skew_s,
                "problem": None if problem is None else str(problem),
            },
            "feed": {
                "id": self._receiver.feed_id,
                "revision": self._receiver.state.revision,
                "not_understood": list(self._receiver.not_understood),
                "cache_problem": self._cache.problem,
            },
            "attestation": [
                {"source": name, "problem": problem}
                for name, problem in self._attestor.problems.items()
            ],
            "staples": {
                "held": self.staples.count,
                "problem": None if self.staples.problem is None else str(self.staples.problem),
            },
            "identities": [identity_row(row) for row in self.identities.status()],
            "sinks": [sink_row(sink) for sink in self.sinks.status()],
            "in_force": [in_force_row(row) for row in self.in_force.rows()],
            "points": [point_row(point, self.freshness) for point in self.board.points()],
            "refusals": [asdict(refusal) for refusal in self.board.refusals()],
        }

    async def _prepare_staple(self, identity: WorkloadIdentity) -> None:
        await self.staples.obtain(identity)

    async def _staples_changed(self) -> None:
        async for _ in self.staples.changes.watch():
            # Whoever serves a certificate follows the identities, and looks for its staple then.
            self.identities.changes.notify()

    def _feed_changed(self, kinds: Collection[Kind]) -> None:
        self.identities.feed_changed(kinds)
        if kinds == frozenset(Kind):  # a snapshot
            self._kept.look()
        if Kind.ROTATION in kinds:
            self._orders.carry_out()
        if Kind.BUNDLE in kinds:
            self._use(self.own.identity)

    def _in_force_everywhere(self, spiffe_id: str, serial: int) -> None:
        if not self._settings.revoke_replaced:
            return
        replaced = self.identities.take_replaced(spiffe_id, serial)
        if replaced is not None:
            task = asyncio.create_task(self._give_up(replaced.serial))
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)

    async def _give_up(self, serial: int) -> None:
        try:
            await self._client.supersede([serial])
        except LegationError as error:
            # It expires by itself. Whoever needs more revokes it by hand.
            _log.warning("the replaced certificate %x is not revoked: %s", serial, error)

    def _own_renewed(self, identity: AgentIdentity, feed_keys: tuple[bytes, ...]) -> None:
        membership = with_feed_keys(self._membership, feed_keys)
        if membership != self._membership:
            self._store.save_membership(membership)
            self._membership = membership
        self._store.save(identity)
        self._use(identity)
        self.sync.reconnect()

    def _use(self, identity: AgentIdentity) -> None:
        authorities = self.identities.bundle.x509_authorities
        self._client.use(Credentials(identity=identity, authorities=authorities))

    def _verify_authority(self, chain: tuple[x509.Certificate, ...]) -> None:
        if not chain:
            raise InvalidInput("the authority showed no certificate")
        verify_svid(
            chain,
            bundle=self.identities.bundle,
            at=self._clock.now(),
            purpose=Purpose.SERVER,
            expected=self._authority_id,
        )
        state = self._receiver.state
        cause = state.refusal(serial=chain[0].serial_number, spiffe_id=self._authority_id)
        if cause is not None:
            failure = Failure(cause=cause, detail="the authority's own certificate")
            raise VerificationError([failure])
