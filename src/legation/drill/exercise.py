"""One drill, from the first decoy to the report.

1. Three decoys are certified: one to revoke, one to go on meanwhile, one that expires at once.
2. At each target the first is let in, in every protocol that the target speaks; else a refusal
   afterwards would prove nothing. Peers without a certificate, and of another authority, are not.
3. Connections are opened and a session is kept; the second decoy begins to work.
4. Each kind is tried again and again, for a moment as a good decoy: a server that has enough of
   that refuses for another reason.
5. The first decoy's certificate is revoked. The authority's answer starts the clock, and the tries
   go on until each is refused, or the time is over.
6. The third decoy's certificate has expired by now, and is refused as well.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol as Interface

from legation.drill.connection import Identity
from legation.drill.outcomes import (
    Sight,
    Streak,
    Treatment,
    Watched,
    judge_baseline,
    judge_stranger,
    judge_watch,
    pause_s,
    treatment,
)
from legation.drill.probes import Held, Prober
from legation.drill.stranger import stranger
from legation.drill.targets import Protocol, Target
from legation.pki import SpiffeID
from legation.wire.drill import DrillReport, DrillRow, Kind, Outcome

DECOY_LIFETIME_S = 600
_EXPIRING_LIFETIME_S = 1
# The authority counts whole seconds and rounds outwards: 1 s may become nearly 2.
_EXPIRED_AFTER_S = 2.1
_BYSTANDER_PAUSE_S = 0.05
_LET_IN_S = 0.1  # some twenty tries of each kind
_OPEN_KINDS = {
    Protocol.HTTP1: Kind.OPEN_HTTP1,
    Protocol.HTTP2: Kind.OPEN_HTTP2,
    Protocol.TCP: Kind.OPEN_TCP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A decoy: who it is, what it shows, and by which serial number it is revoked."""

    spiffe_id: SpiffeID
    identity: Identity
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A revocation that the authority has recorded."""

    at: datetime
    revision: int


class DrillAuthority(Interface):
    """What a drill asks of the authority."""

    @property
    def bundle_pem(self) -> str: ...
    async def certify(self, name: str, *, lifetime_s: int) -> Certified: ...
    async def revoke(self, serial: int) -> Recorded: ...


async def run(
    targets: Sequence[Target],
    authority: DrillAuthority,
    *,
    timeout_s: float,
    path: str,
    at: datetime,
) -> DrillReport:
    """Drill `targets`, all at once.

    Args:
        targets: where.
        authority: certifies the decoys and revokes one.
        timeout_s: how long each point has to refuse.
        path: what to ask for in HTTP; anything that harms nobody.
        at: the time, for the stranger's certificate.

    Raises:
        LegationError: as the authority answers. What was revoked is a decoy, in any case.
    """
    now = asyncio.get_running_loop().time
    cast = await _cast(authority, at=at)
    expired_at = now() + _EXPIRED_AFTER_S
    points = [
        _Point(
            Prober(target, bundle_pem=authority.bundle_pem, path=path), cast, timeout_s=timeout_s
        )
        for target in targets
    ]
    tasks: list[asyncio.Task[None]] = []
    try:
        await asyncio.gather(*(point.prepare() for point in points))
        revoked = Moment()
        for point in points:
            tasks += point.begin(revoked, expired=Moment(expired_at))
        await asyncio.sleep(_LET_IN_S)
        asked = now()
        recorded = await authority.revoke(cast.revoked.serial)
        revoked.set(now(), asked=asked)
        await asyncio.gather(*tasks)
        for point in points:
            await point.finish()
    finally:
        tasks += [task for point in points for task in point.close()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return DrillReport(
        at=recorded.at,
        serial=cast.revoked.serial,
        revision=recorded.revision,
        timeout_s=timeout_s,
        rows=tuple(row for point in points for row in point.rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    revoked: Certified
    bystander: Certified
    expiring: Certified
    stranger: Identity


async def _cast(authority: DrillAuthority, *, at: datetime) -> _Cast:
    revoked = await authority.certify("revoked", lifetime_s=DECOY_LIFETIME_S)
    bystander = await authority.certify("bystander", lifetime_s=DECOY_LIFETIME_S)
    expiring = await authority.certify("expired", lifetime_s=_EXPIRING_LIFETIME_S)
    return _Cast(
        revoked=revoked,
        bystander=bystander,
        expiring=expiring,
        stranger=stranger(bystander.spiffe_id, at=at),
    )


class Moment:
    """When something happens, on the event loop's clock.

    Attributes:
        asked: before then nobody can have known of it.
    """

    def __init__(self, at: float | None = None) -> None:
        self.asked = -math.inf
        self._at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        if at is not None:
            self.set(at)

    def set(self, at: float, *, asked: float = -math.inf) -> None:
        """Say when it was, or will be."""
        self.asked = asked
        self._at.set_result(at)

    async def known(self) -> float:
        """Return when, as soon as that is known."""
        return await asyncio.shield(self._at)

    def passed(self, now: float) -> float:
        """Return the seconds since then; 0 before."""
        return max(0.0, now - self._at.result()) if self._at.done() else 0.0


async def watch(
    attempt: Callable[[], Awaitable[Sight]], *, baseline: Sight, since: Moment, timeout_s: float
) -> Watched:
    """Try until the refusal holds, or `timeout_s` have passed since the moment."""
    now = asyncio.get_running_loop().time
    streak = Streak()
    while True:
        sight = await attempt()
        seen_at = now()
        if (held := streak.add(seen_at, sight, baseline)) is not None:
            return held
        passed = since.passed(seen_at)
        # A refusal that came in time may be confirmed later.
        if passed > timeout_s and not streak.begun:
            return Watched(refused_at=None, sight=sight)
        await asyncio.sleep(pause_s(passed))


class _Point:
    """One target in the course of a drill, and the rows about it so far."""

    def __init__(self, prober: Prober, cast: _Cast, *, timeout_s: float) -> None:
        self.rows: list[DrillRow] = []
        self._prober = prober
        self._cast = cast
        self._timeout_s = timeout_s
        self._baselines: dict[Protocol, Sight] = {}
        self._attempts: dict[Kind, tuple[Protocol, Callable[[], Awaitable[Sight]]]] = {}
        self._held: list[Held] = []
        self._bystander: _Bystander | None = None
        self._bystanding: asyncio.Task[None] | None = None

    @property
    def _main(self) -> Protocol:
        return next(iter(self._baselines))

    async def prepare(self) -> None:
        """Steps 2 and 3."""
        decoy = self._cast.revoked.identity
        baselines = await self._prober.discover(decoy)
        for sight in baselines.values():
            if (problem := judge_baseline(sight)) is not None:
                self._add(Kind.NEW_HANDSHAKE, problem[0], detail=problem[1])
                return
        self._baselines = baselines
        await self._refuse_strangers()
        self._attempts[Kind.NEW_HANDSHAKE] = (
            self._main,
            lambda: self._prober.fresh(decoy, self._main),
        )
        for protocol in baselines:
            await self._hold(protocol)
        await self._keep_session()
        self._bystander = _Bystander(
            self._prober, self._cast.bystander.identity, self._main, baselines[self._main]
        )
        await self._bystander.work()
        self._held.append(self._bystander.held)

    def begin(self, revoked: Moment, *, expired: Moment) -> list[asyncio.Task[None]]:
        """Steps 4 to 6, which go on until each is decided; the bystander until `finish`."""
        if self._bystander is None:
            return []
        self._bystanding = asyncio.create_task(self._bystander.go_on())
        tasks = [
            asyncio.create_task(self._watch(kind, protocol, attempt, revoked))
            for kind, (protocol, attempt) in self._attempts.items()
        ]
        return [*tasks, asyncio.create_task(self._watch_expired(expired))]

    async def finish(self) -> None:
        """Let the bystander stop, and say how it fared."""
        if self._bystander is None or self._bystanding is None:
            return
        self._bystander.stopping = True
        await self._bystanding
        bystander = self._bystander
        outcome = Outcome.HARMED if bystander.failed else Outcome.UNHARMED
        words = f"{bystander.tries} tries, {bystander.failed} failed"
        detail = f"{words}: {bystander.reason}" if bystander.failed else words
        self._add(Kind.BYSTANDER, outcome, detail=detail)
        order = list(Kind)
        self.rows.sort(key=lambda row: order.index(row.kind))

    def close(self) -> list[asyncio.Task[None]]:
        """Close every connection; return what still has to be cancelled."""
        for held in self._held:
            held.close()
        return [self._bystanding] if self._bystanding is not None else []

    async def _refuse_strangers(self) -> None:
        baseline = self._baselines[self._main]
        for kind, identity in (
            (Kind.ANOTHER_AUTHORITY, self._cast.stranger),
            (Kind.NO_CERTIFICATE, None),
        ):
            sight = await self._prober.fresh(identity, self._main)
            outcome, detail = judge_stranger(sight, baseline)
            self._add(kind, outcome, detail=detail)

    async def _hold(self, protocol: Protocol) -> None:
        kind = _OPEN_KINDS[protocol]
        held = Held(self._prober, self._cast.revoked.identity, protocol)
        self._held.append(held)
        await held.ask()
        if held.is_open:
            self._attempts[kind] = protocol, held.ask
        else:
            self._add(kind, Outcome.NOT_OFFERED, detail="the server keeps no connection open")

    async def _keep_session(self) -> None:
        decoy = self._cast.revoked.identity
        session = await self._prober.session(decoy, self._main)
        if session is None:
            self._add(
                Kind.RESUMED_SESSION, Outcome.NOT_OFFERED, detail="the server resumes no session"
            )
            return
        self._attempts[Kind.RESUMED_SESSION] = (
            self._main,
            lambda: self._prober.fresh(decoy, self._main, session=session),
        )

    async def _watch(
        self,
        kind: Kind,
        protocol: Protocol,
        attempt: Callable[[], Awaitable[Sight]],
        since: Moment,
    ) -> None:
        watched = await watch(
            attempt, baseline=self._baselines[protocol], since=since, timeout_s=self._timeout_s
        )
        at = await since.known()
        outcome, after_ms, detail = judge_watch(watched, since=at, asked=since.asked)
        self._add(kind, outcome, after_ms=after_ms, detail=detail)

    async def _watch_expired(self, expired: Moment) -> None:
        now = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, await expired.known() - now()))
        identity = self._cast.expiring.identity
        await self._watch(
            Kind.EXPIRED_CERTIFICATE,
            self._main,
            lambda: self._prober.fresh(identity, self._main),
            expired,
        )

    def _add(
        self, kind: Kind, outcome: Outcome, *, after_ms: float | None = None, detail: str
    ) -> None:
        self.rows.append(
            DrillRow(
                target=self._prober.target.name,
                spiffe_id=self._prober.shown,
                kind=kind,
                outcome=outcome,
                after_ms=None if after_ms is None else round(after_ms, 1),
                detail=detail,
            )
        )


class _Bystander:
    """A decoy that nobody revokes: one connection kept open, and new ones all the time."""

    def __init__(
        self, prober: Prober, identity: Identity, protocol: Protocol, baseline: Sight
    ) -> None:
        self.held = Held(prober, identity, protocol)
        self.stopping = False
        self.tries = self.failed = 0
        self.reason = ""
        self._fresh = lambda: prober.fresh(identity, protocol)
        self._baseline = baseline

    async def work(self) -> None:
        """Try once on each."""
        for attempt in (self.held.ask, self._fresh):
            cuts = self.held.cuts
            sight = await attempt()
            self.tries += 1
            if treatment(sight, self._baseline) is not Treatment.LET_IN or self.held.cuts > cuts:
                self.failed += 1
                self.reason = self.reason or str(sight)

    async def go_on(self) -> None:
        """Work until `stopping`."""
        while not self.stopping:
            await self.work()
            await asyncio.sleep(_BYSTANDER_PAUSE_S)
