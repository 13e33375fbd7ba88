"""One connected proxy: bring it to the newest snapshot, and state what it has in force.

The order of things at each revision:

1. The snapshot is built; what changed is sent, and the proxy acknowledges or refuses it.
2. When everything is acknowledged, new handshakes and requests of revoked peers are refused,
   so no connection that is cut now can come back.
3. The open connections of revoked peers are cut, and those with what no policy allows any
   more: a TCP connection, or a call that lasts.
4. Only then the point is stated to be at that revision. If policies took something from the
   peer of an open HTTP connection, calls may run on it that are too young to be known: they
   are waited for, and cut, first.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable

from legation.agent.discovery.connections import ConnectionTable, Endpoints, OpenConnection
from legation.agent.discovery.cutting import DRAIN, SOCKET_DESTROY, counted
from legation.agent.discovery.identity import find_identity, identity_for, inputs_from
from legation.agent.discovery.judging import Judge
from legation.agent.discovery.messages import RawMessage
from legation.agent.discovery.newly_revoked import peers_revoked, upstreams_revoked
from legation.agent.discovery.offered import Offer, OfferedIdentity, places_to_look
from legation.agent.discovery.session import Request, Session
from legation.agent.discovery.settling import Settling
from legation.agent.discovery.stapling import Stapling
from legation.agent.discovery.streams import LastingCall, StreamTable
from legation.agent.discovery.surroundings import Surroundings
from legation.agent.model import AttestedCaller, PointState, WorkloadIdentity
from legation.agent.tls import KEY_ALGORITHMS
from legation.causes import Cause
from legation.envoy import type_urls
from legation.envoy.snapshot import Snapshot, build
from legation.envoy.spec import Address, Outbound, ProxySpec
from legation.errors import LegationError

KIND = "envoy"
# How long a drain may take before the revision is stated with a note about it.
DRAIN_LIMIT_S = 15.0
_DRAIN_POLL_S = 0.05
_CUT_AGAIN_S = 1.0
_MAX_NOTE = 300
_NEVER = -1
_FULL = "proxy %s: too many %s to record"

_log = logging.getLogger(__name__)

Send = Callable[[RawMessage], Awaitable[None]]


class ConnectedProxy:
    """One Envoy with an open ADS stream.

    Args:
        point: the name of the enforcement point.
        spec: what the proxy is for.
        caller: the attested process.
        around: what all proxies share.
        attest: attests the process again; a key goes only to who has just shown itself.

    Raises:
        NotPermitted: no identity for this caller.
    """

    def __init__(
        self,
        point: str,
        spec: ProxySpec,
        caller: AttestedCaller,
        around: Surroundings,
        *,
        attest: Callable[[], Awaitable[AttestedCaller]],
    ) -> None:
        self.point = point
        self.spec = spec
        self.pid = caller.pid
        self.table = ConnectionTable()
        self.streams = StreamTable()
        self.judge = Judge(spec.inbound)
        self._around = around
        self._attest = attest
        self._caller = caller
        self._offered = OfferedIdentity(
            identity_for(around.identities, caller, spec), now=around.clock.now
        )
        self._told: object = None  # of the certificate offered
        self._session = Session()
        self._drain_epochs: dict[str, int] = {}
        self._stale = False
        self._withdrawn = self._cut_note = ""
        self._stapling = Stapling(around.staple)
        self._runner: asyncio.Task[None] | None = None
        self._work, self._enforce = asyncio.Event(), asyncio.Event()
        self._settling = Settling(self._enforce.set, stated=_NEVER)
        self._snapshot = self._build(None)
        self._enforced: Snapshot | None = None
        self._forbidden_seen = False
        self._stated = _NEVER
        self._applied_at = around.clock.now()
        # From now on this point exists, with nothing in force yet.
        self._state(_NEVER)

    @property
    def spiffe_id(self) -> str:
        """The identity it acts under."""
        return self._offered.newest.spiffe_id

    @property
    def offer(self) -> Offer:
        """The certificate that it was given, and what it says about it."""
        taken, newest = self._offered.taken, self._offered.newest
        visible = newest.entry.key_algorithm in KEY_ALGORITHMS
        return Offer(
            point=self.point,
            spiffe_id=self.spiffe_id,
            serial=newest.serial,
            held=None if taken is None else taken.serial,
            problem=self._offered.problem,
            addresses=places_to_look(self.spec, self.pid) if visible else (),
            connected=self._runner is not None and not self._runner.done(),
        )

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this point can do beyond refusing."""
        return (SOCKET_DESTROY if self._around.cutter.reaches(self.pid) else DRAIN,)

    def state_changed(self) -> None:
        """Take note that identities or the feed have changed."""
        self._stale = True
        self._work.set()

    def receive(self, request: Request) -> None:
        """Take in a request of the proxy.

        Raises:
            InvalidInput: a type that is not served here.
        """
        settled = self._session.receive(request)
        if settled and request.type_url == type_urls.SECRET:
            self._settle_identity(self._session.sent(request.type_url), request.error)
        if request.error and settled:
            kind = request.type_url.rpartition(".")[2]
            _log.error("proxy %s refuses its new %s: %s", self.point, kind, request.error)
            self._state(self._stated)
        self._work.set()

    def _settle_identity(self, version: str, error: str) -> None:
        if not error:
            self._offered.accepted(version)
        elif self._stapling.refuse():
            # Perhaps it is only the staple, which must not hold up anything else.
            self._snapshot = self._build(self._snapshot)
        elif self._offered.refused(version, error):
            _log.error("proxy %s is given its certificate before again", self.point)
            self._snapshot = self._build(self._snapshot)
        self._tell_offer()

    def _tell_offer(self) -> None:
        if self._offered.said != self._told:
            self._told = self._offered.said
            self._around.offers.notify()

    def refusal(self, connection: OpenConnection) -> Cause | None:
        """Return the cause for which the peer of a new connection is refused, or None."""
        return connection.refusal(self._around.identities.state, is_open=False)

    def opened(self, connection: OpenConnection) -> None:
        """Record a new connection."""
        # Whatever ran on an earlier one between the same ports is over.
        self.streams.closed(connection.endpoints, at=connection.opened_at)
        if self.table.opened(connection):
            return
        self._around.cutter.prune(self.pid, self._inbound_ports(), self.table)
        if not self.table.opened(connection):
            _log.warning(_FULL, self.point, "connections")

    def closed(self, endpoints: Endpoints, *, at: float) -> None:
        """Forget the connection that ended `at`, Unix seconds."""
        self.table.closed(endpoints, at=at)
        self.streams.closed(endpoints, at=at)

    def lasts(self, call: LastingCall, *, over: bool) -> None:
        """Record a call that lasts, or that is over."""
        if over:
            self.streams.over(call)
            return
        if not self.streams.lasts(call):
            _log.warning(_FULL, self.point, "calls")
        self._go_by_policies()
        if self.judge.refuses_call(call):
            # It began before a change, and is old enough to be known only now.
            self._forbidden_seen = True
            self._enforce.set()

    def succeed(self, before: "ConnectedProxy") -> None:
        """Take over from the stream that the same process had before."""
        self.table, self.streams, self.judge = before.table, before.streams, before.judge
        before.end()

    def end(self) -> None:
        """End `run`."""
        if self._runner is not None:
            self._runner.cancel()

    async def run(self, send: Send) -> None:
        """Serve the proxy until cancelled; `send` writes to its stream."""
        self._runner = asyncio.current_task()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._push(send))
            tasks.create_task(self._enforce_held())

    async def _push(self, send: Send) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._stale:
                self._stale = False
                await self._refresh()
            for push in self._session.offer(self._snapshot):
                held = self._snapshot.by_type[push.type_url]
                if push.type_url == type_urls.SECRET:
                    self._offered.pushed(push.version)
                encoded = self._around.encoder.resources(push.type_url, held.digest, held.resources)
                await send(
                    self._around.encoder.response(
                        push.type_url,
                        push.version,
                        push.nonce,
                        [encoded[name] for name in push.names],
                    )
                )
            if self._session.holds(self._snapshot):
                self._enforce.set()

    async def _refresh(self) -> None:
        held = self._around.identities.identities_for(self._caller)
        current = find_identity(held, self.spiffe_id)
        if current is not None and current.serial != self._offered.newest.serial:
            # The process behind an old stream may be another program by now.
            current = await self._identity_shown_again()
        if current is None:
            # It keeps what it has: a proxy that hears of no revocation would be worse.
            self._withdrawn = "its identity was withdrawn"
        else:
            self._offered.renew(current)
            self._withdrawn = ""
            self._tell_offer()
        self._snapshot = self._build(self._snapshot)

    async def _identity_shown_again(self) -> WorkloadIdentity | None:
        try:
            self._caller = await self._attest()
        except LegationError as error:
            _log.warning("proxy %s cannot be attested again: %s", self.point, error)
            return None
        held = self._around.identities.identities_for(self._caller)
        return find_identity(held, self.spiffe_id)

    def _build(self, previous: Snapshot | None) -> Snapshot:
        inputs = inputs_from(
            self._offered.current,
            self.spec,
            self._around.identities,
            drain_epochs=self._drain_epochs,
            ocsp_staple=self._stapling.choose(self._offered.current),
            verdict=self._around.verdict(self.point, self.spiffe_id),
        )
        return build(inputs, previous=previous)

    async def _enforce_held(self) -> None:
        hidden = False
        while True:
            await self._enforce.wait()
            self._enforce.clear()
            snapshot = self._snapshot
            held = self._stated, self._enforced and self._enforced.force
            if held == (snapshot.revision, snapshot.force) and not self._forbidden_seen:
                continue
            self._forbidden_seen = False
            self._go_by_policies()
            hidden = self.judge.may_hide_calls(self.table) or hidden
            try:
                note = await self._end_open_connections(snapshot)
            except LegationError as error:
                self._not_cut(error)
                continue
            self._cut_note = note or (self._cut_note if self._settling.waits else "")
            self._enforced = snapshot
            self._settling.enforced(snapshot.revision, wait=hidden)
            hidden = False
            self._state(self._settling.settled())

    def _not_cut(self, error: LegationError) -> None:
        """State why the revision is not in force, and try again in a moment."""
        _log.error("proxy %s: open connections were not cut: %s", self.point, error)
        self._cut_note, self._forbidden_seen = f"open connections were not cut: {error}", True
        self._state(self._settling.settled())
        asyncio.get_running_loop().call_later(_CUT_AGAIN_S, self._enforce.set)

    async def _end_open_connections(self, snapshot: Snapshot) -> str:
        """Cut or drain what may not stay open; return what was done."""
        enforced, session = self._enforced, self._session
        upstreams = upstreams_revoked(snapshot, enforced=enforced, session=session)
        unknown = peers_revoked(snapshot, enforced=enforced, session=session)
        cutter = self._around.cutter
        if not cutter.reaches(self.pid):
            return await self._drain(upstreams, unknown=unknown)
        doomed = self._doomed()
        cut = await cutter.cut_inbound(self._inbound_ports(), self.table, doomed, unknown=unknown)
        for endpoints in doomed:
            self.streams.closed(endpoints, at=math.inf)
        cut += await cutter.cut_outbound(
            self.pid, [Address.parse(one.upstream) for one in upstreams]
        )
        return f"cut {counted(cut)}" if cut else ""

    async def _drain(self, upstreams: Iterable[Outbound], *, unknown: bool) -> str:
        doomed = self._doomed()
        listens = [outbound.listen for outbound in upstreams]
        if doomed or unknown:
            listens += [inbound.listen for inbound in self.spec.inbound]
        if not listens:
            return ""
        for listen in listens:
            self._drain_epochs[listen] = self._drain_epochs.get(listen, 0) + 1
        self._snapshot = self._build(self._snapshot)
        self._work.set()
        clock, left = self._around.clock, len(doomed)
        deadline = clock.monotonic() + DRAIN_LIMIT_S
        while clock.monotonic() < deadline:
            left = sum(endpoints in self.table for endpoints in doomed)
            if not left and self._session.holds(self._snapshot):
                break
            await asyncio.sleep(_DRAIN_POLL_S)
        drained = f"drained {counted(len(doomed) - left)}"
        return f"{drained}, {left} are still open" if left else drained

    def _inbound_ports(self) -> list[int]:
        return [Address.parse(inbound.listen).port for inbound in self.spec.inbound]

    def _go_by_policies(self) -> None:
        held = self._around.identities.state.policies  # without any, nobody is allowed
        policies = () if self._snapshot.refuses else held.values()
        self.judge.go_by(policies, target=self.spiffe_id)

    def _doomed(self) -> frozenset[Endpoints]:
        """Return the connections that may not stay open."""

        def refused(connection: OpenConnection) -> bool:
            revoked = connection.refusal(self._around.identities.state, is_open=True) is not None
            return revoked or self.judge.refuses_connection(connection)

        connections = (item.endpoints for item in self.table.refused(refused))
        return self.streams.refused(self.judge.refuses_call).union(connections)

    def _state(self, revision: int) -> None:
        if revision != self._stated:
            self._stated, self._applied_at = revision, self._around.clock.now()
        refused = (
            f"refused {url.rpartition('.')[2]}: {e}" for url, e in self._session.errors.items()
        )
        notes = (self._cut_note, self._withdrawn, *self._snapshot.notes, *refused)
        self._around.board.put(
            PointState(
                id=self.point,
                kind=KIND,
                spiffe_id=self.spiffe_id,
                revision=max(revision, 0),
                applied_at=self._applied_at,
                capabilities=self.capabilities,
                notes=tuple(note[:_MAX_NOTE] for note in notes if note),
            )
        )
