"""Keeps one sink up to date: what to deliver, and when to try again."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from legation.agent.identities.schedule import next_renewal
from legation.agent.identities.staples import Stapled, unstapled
from legation.agent.model import InForce, PointBoard, WorkloadIdentity
from legation.agent.sinks.choosing import one_identity, still_valid, to_deliver
from legation.agent.sinks.delivery import Delivery, Lookout, Result
from legation.agent.sinks.generations import Generations, access_of
from legation.agent.sinks.model import Generation, Listener, Material, SinkStatus
from legation.agent.sinks.plan import Outcome, Step
from legation.agent.sinks.reporting import Reporter
from legation.agent.sinks.revocation_lists import RevocationLists, names_all
from legation.agent.sinks.servers import Cutting, Server
from legation.agent.sinks.standing import Standing
from legation.agent.sinks.stapling import StapleFile
from legation.clock import Clock
from legation.config.sinks import Sink
from legation.errors import InternalError, LegationError, Unavailable
from legation.pki import TrustBundle, certificate_from_der
from legation.wire.feed import FeedState

# How often a server that was confirmed is looked at again, and the clock at the latest.
_LOOK_S = 30.0

_log = logging.getLogger(__name__)


class Issued(Protocol):
    """The identities that an agent holds, and what they are used under."""

    @property
    def state(self) -> FeedState: ...
    @property
    def bundle(self) -> TrustBundle: ...

    def identities_showing(self, selectors: Collection[str]) -> Sequence[WorkloadIdentity]:
        """Return the unexpired identities all of whose selectors are among these."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Yield at once, then after each change."""
        ...


class Keeper:
    """Delivers to one sink for as long as it runs."""

    def __init__(
        self,
        sink: Sink,
        *,
        issued: Issued,
        lists: RevocationLists,
        board: PointBoard,
        clock: Clock,
        tell: Listener,
        server: Server,
        in_force: InForce | None = None,
        staple: Stapled = unstapled,
    ) -> None:
        self._sink = sink
        self._issued = issued
        self._lists = lists
        self._clock = clock
        self._server = server
        self._staple = StapleFile(
            sink.files, staple, server, state=lambda: issued.state, clock=clock
        )
        self._generations: Generations | None = None
        self._known = Standing()
        self._reporter = Reporter(
            sink,
            self._known,
            server=server,
            board=board,
            in_force=in_force,
            tell=tell,
            begun=clock.now(),
        )
        self._refused: dict[int, datetime] = {}  # serial: not to be tried again before
        self._wake = asyncio.Event()

    def status(self) -> SinkStatus:
        """Return how the sink is."""
        return self._reporter.status(self._staple.notes)

    async def run(self) -> None:
        """Deliver until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                self._wake.clear()
                await self._round()
                if self._generations is not None:
                    await self._staple.keep(self._generations)
                self._reporter.state(self._staple.notes)
                await self._nap()
        finally:
            watching.cancel()
            self._reporter.withdraw()

    @property
    def _loads_lists(self) -> bool:
        return self._sink.files.crl is not None

    async def _watch(self) -> None:
        async for _ in self._issued.watch():
            self._wake.set()

    async def _nap(self) -> None:
        pause_s = _LOOK_S
        if self._known.next_attempt is not None:
            left = (self._known.next_attempt - self._clock.now()).total_seconds()
            pause_s = min(max(left, 0.0), _LOOK_S)
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            await self._look_again()

    async def _round(self) -> None:
        now = self._clock.now()
        try:
            await self._bring_up_to_date(now)
        except LegationError as error:
            self._postpone(str(error), now)
        except Exception as error:
            _log.exception("sink %s failed", self._sink.name)
            self._postpone(str(InternalError(f"a {type(error).__name__}")), now)

    async def _bring_up_to_date(self, now: datetime) -> None:
        known = self._known
        generations = self._prepared()
        shown = self._issued.identities_showing(self._sink.selectors)
        known.issued = None
        known.issued = one_identity(self._sink, shown)
        identity = to_deliver(known.issued, known.held, self._refused, at=now)
        if identity is None:
            later = [until for until in self._refused.values() if until > now]
            known.next_attempt = min(later, default=None)
            return
        new = known.generation is None or known.generation.serial != identity.serial
        if new and (until := self._staple.awaited_until(identity.serial)) is not None:
            known.next_attempt = until
            return
        material = await self._material(identity)
        current = None if known.uncertain else known.generation
        settled = current is not None and current.digest == material.digest
        if not settled and not await self._deliver(generations, material):
            return
        await self._cut(material)
        known.settle(identity)
        self._in_force(material)

    def _prepared(self) -> Generations:
        """Return the generations, taking up what an earlier run of the agent left."""
        if self._generations is None:
            sink = self._sink
            access = access_of(sink.owner, sink.group, sink.file_mode)
            generations = Generations(sink.directory, access)
            generations.prepare()
            self._generations, current = generations, generations.current()
            self._known.generation = current
            self._known.in_force = current.serial if current else None
        return self._generations

    async def _material(self, identity: WorkloadIdentity) -> Material:
        state = self._issued.state
        revision, bundle = state.revision, self._issued.bundle
        if not self._loads_lists:
            return Material(identity=identity, bundle=bundle, revision=revision)
        above = [certificate_from_der(der) for der in identity.chain[1:]]
        lists = await self._lists.current(
            tuple(state.crls.values()), [*bundle.x509_authorities, *above]
        )
        return Material(
            identity=identity,
            bundle=bundle,
            lists=lists,
            revision=revision,
            # Asked of the state as it is now: what was revoked meanwhile makes it incomplete.
            complete=names_all(lists, self._issued.state, at=self._clock.now()),
        )

    async def _deliver(self, generations: Generations, material: Material) -> bool:
        """Deliver, and tell whether `material` is in force."""
        begun = self._clock.monotonic()
        previous = self._known.generation
        delivery = Delivery(
            self._sink,
            generations,
            self._server,
            previous=previous,
            fallback=previous is not None and self._may_return_to(previous, material),
        )
        if not self._server.acknowledges:
            material = material.following(previous)
        material = replace(material, staple=self._staple.response(material.identity))
        result = await delivery.run(material)
        accepted = self._take(result, material)
        keep = {g.number for g in (previous, self._known.generation) if g is not None}
        current = generations.current()
        try:
            generations.prune(keep | ({current.number} if current else set()))
        except LegationError as error:
            _log.warning("sink %s: %s", self._sink.name, error)
        self._reporter.tell(result, material.identity, self._clock.monotonic() - begun)
        return accepted

    async def _cut(self, material: Material) -> None:
        """End what revoked peers have open. The lists are in force: they do not come back."""
        revoked = material.revoked
        if not isinstance(self._server, Cutting) or self._known.cut == revoked:
            return
        self._known.cut = None
        if ended := await self._server.cut(revoked):
            _log.info("sink %s: connections of revoked peers ended: %d", self._sink.name, ended)
        self._known.cut = revoked

    def _may_return_to(self, previous: Generation, material: Material) -> bool:
        return still_valid(
            previous,
            self._known.held,
            spiffe_id=material.identity.spiffe_id,
            state=self._issued.state,
            bundle=material.bundle,
            at=self._clock.now(),
        )

    def _take(self, result: Result, material: Material) -> bool:
        known, now = self._known, self._clock.now()
        known.state, known.since, known.in_force = result.outcome.value, now, result.in_force
        if result.outcome in {Outcome.CONFIRMED, Outcome.DELIVERED}:
            known.generation, known.held, known.uncertain = (
                result.generation,
                material.identity,
                False,
            )
            self._refused.pop(material.identity.serial, None)
            return True
        known.uncertain = result.outcome is Outcome.FAILED
        problem = result.problem or "the delivery failed"
        known.rejected = material.identity, problem
        self._postpone(problem, now, material.identity)
        return False

    def _in_force(self, material: Material) -> None:
        """Take note that the server uses `material`, as far as it was confirmed."""
        proved = self._sink.probe is not None or self._server.acknowledges
        if (
            proved
            and self._known.state != Outcome.FAILED
            and material.complete
            and self._loads_lists
        ):
            if self._known.revision != material.revision:
                self._known.applied_at = self._clock.now()
            self._known.revision = material.revision

    def _postpone(
        self, problem: str, now: datetime, identity: WorkloadIdentity | None = None
    ) -> None:
        known = self._known
        if known.problem != problem:
            _log.warning("sink %s: %s", self._sink.name, problem)
            # It backs off on its own account: whoever waited long for an identity was told so by
            # every change of the feed, and the server's first refusal has nothing to do with it.
            known.failures = 0
        known.problem = problem
        known.failures += 1
        paced = identity or known.issued or known.held
        known.next_attempt = next_renewal(
            paced.not_before if paced else now,
            paced.not_after if paced and paced.not_after > now else now + timedelta(hours=1),
            now=now,
            failures=known.failures,
            jitter=random.random(),  # noqa: S311 - spreads load, keeps no secret
        )
        if identity is not None:
            self._refused = {identity.serial: known.next_attempt} | {
                serial: until for serial, until in self._refused.items() if until > now
            }
            self._refused[identity.serial] = known.next_attempt

    async def _look_again(self) -> None:
        """See whether what was confirmed is still served: it may have been restarted, or edited."""
        # A handshake that was under way when the lists came into force may have ended since.
        self._known.cut = None
        known, probe = self._known, self._sink.probe
        if probe is None or known.generation is None or known.state != Outcome.CONFIRMED:
            return
        begun = self._clock.monotonic()
        try:
            serial, digest = await Lookout(probe).serial_and_digest()
            if digest == known.generation.served:
                return
            raise Unavailable(f"{probe.address} has gone over to {serial:x} by itself")
        except LegationError as error:
            problem = str(error)
        known.state, known.in_force, known.problem = Outcome.FAILED.value, None, problem
        known.uncertain = True
        self._reporter.tell(
            Result(outcome=Outcome.FAILED, in_force=None, failed_at=Step.PROBE, problem=problem),
            known.issued,
            self._clock.monotonic() - begun,
        )
