"""Misuse signals as a service: what agents report goes in, signals and responses come out.

Reports are taken in one after the other, behind the streams that bring them: no stream waits for
a look at the inventory, and one that reports too much loses reports, not the authority.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, Protocol

from legation.authority.events import EventBus, MisuseSuspected
from legation.authority.misuse.correlator import Correlator
from legation.authority.misuse.model import (
    UNKNOWN,
    CertificateFacts,
    Finding,
    FindingKey,
    HeldCertificate,
    RevokedFacts,
    Sighting,
    Signal,
    SignalState,
    Thresholds,
)
from legation.authority.misuse.recent import Recent
from legation.authority.misuse.response import Response, response_to
from legation.authority.misuse.waiting import Waiting, Work
from legation.authority.model import Actor, InForceRecord, RevocationOutcome
from legation.authority.moments import stamp
from legation.authority.revoking.scopes import (
    AgentScope,
    IdentityScope,
    KeyScope,
    RequestState,
    RevocationRequest,
    Scope,
    SerialScope,
)
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, InventoryStore
from legation.authority.store.signals import SignalStore
from legation.clock import Clock
from legation.config.misuse import Misuse
from legation.errors import LegationError, NotFound
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import FeedState
from legation.wire.sightings import is_telling

MAX_SIGNALS: Final = 10_000
MAX_NOTE: Final = 500
_EVERY_S = 1.0
_LEARN_EVERY = timedelta(minutes=1)
_PRUNE_EVERY = timedelta(hours=1)
_MAX_STRANGERS = 10_000
_SERIALS_END = 1 << 159  # RFC 5280, section 4.1.2.2
_log = logging.getLogger(__name__)


class MisuseStore(SignalStore, InventoryStore, Protocol):
    """What the signals need of the store."""


class Revoking(Protocol):
    """What carries out a response: `legation.authority.services.RevocationService`."""

    async def revoke(
        self, scope: Scope, *, reason: str, actor: Actor
    ) -> RevocationOutcome | RevocationRequest: ...


class MisuseSignals:
    """Implements `legation.authority.services.SignalService`, and takes in reports of agents."""

    def __init__(
        self,
        store: MisuseStore,
        state: FeedState,
        revocations: Revoking,
        *,
        settings: AuthoritySettings,
        clock: Clock,
        events: EventBus,
    ) -> None:
        """Raise signals.

        Args:
            store: where signals and certificates are recorded.
            state: the folded feed: who is revoked.
            revocations: carries out responses.
            settings: what is odd.
            clock: the time.
            events: who hears of new signals.
        """
        self._store = store
        self._state = state
        self._revocations = revocations
        self._enabled = settings.misuse.enabled
        self._keep = settings.misuse.keep
        self._clock = clock
        self._events = events
        self._correlator = Correlator(thresholds_of(settings.misuse), revoked=self._revoked)
        self._waiting = Waiting()
        self._found: dict[FindingKey, Finding] = {}
        self._strangers: Recent[int, int] = Recent(_MAX_STRANGERS)
        self._dropped = 0
        self._learned_at = self._pruned_at = clock.now()

    async def load(self) -> None:
        """Learn what was learned before the last end."""
        if self._enabled:
            self._correlator.restore(await self._store.learned())

    # --- what agents report ------------------------------------------------------------------

    def saw(self, sightings: Sequence[Sighting]) -> None:
        """Take in what points saw of peers; never waits."""
        telling = [one for one in sightings if is_telling(one.cause) and one.serial != UNKNOWN]
        if telling:
            agent = telling[0].agent  # a message is of one
            self._later(agent, lambda: self._observe(telling), rows=len(telling))

    def placed(self, agent: str, addresses: Sequence[str]) -> None:
        """Take in which addresses an agent's node has."""
        at = self._now()

        async def state() -> None:
            self._correlator.stated_places(agent, addresses, at=at)

        self._later(agent, state)

    def stream_opened(self, agent: str, serial: int, *, instance: bytes, address: str) -> None:
        """Take in that a process opened a stream as an agent."""
        at = self._now()

        async def opened() -> None:
            self._note(
                self._correlator.stream_opened(
                    agent, serial, instance=instance, address=address, at=at
                )
            )

        self._later(agent, opened)

    def held(self, agent: str, rows: Iterable[InForceRecord]) -> None:
        """Take in which certificates are in force behind an agent: a full statement."""
        stated = [
            HeldCertificate(
                point=row.point,
                spiffe_id=row.spiffe_id,
                issued=row.serial_issued,
                serial=row.serial_in_force,
            )
            for row in rows
        ]

        at = self._now()

        async def state() -> None:
            for row in stated:
                if row.serial is not None:
                    await self._look_up(row.serial)
            self._note(self._correlator.stated_in_force(agent, stated, at=at))

        self._later(agent, state, rows=len(stated) + 1)

    def _later(self, agent: str, work: Work, *, rows: int = 1) -> None:
        if self._enabled and not self._waiting.put(agent, work, rows=rows):
            self._dropped += 1

    # --- correlation -------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        if not self._enabled:
            await asyncio.Event().wait()
        while True:
            end = self._clock.monotonic() + _EVERY_S
            while (left := end - self._clock.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        work = await self._waiting.get()
                except TimeoutError:
                    break
                try:
                    await work()
                except LegationError as error:
                    self._dropped += 1
                    _log.debug("a report is not looked at: %s", error)
            try:
                await self.flush()
            except LegationError as error:
                _log.warning("misuse signals are not kept, and tried again: %s", error)

    async def flush(self) -> None:
        """Keep what was found and learned, and forget what has had its time.

        Raises:
            Unavailable: the store cannot be written.
        """
        self._note(self._correlator.due(self._now()))
        if self._dropped:
            _log.warning("%d reports of agents could not be looked at in time", self._dropped)
            self._dropped = 0
        if self._found:
            findings = list(self._found.values())
            signals = await self._store.put_findings(findings)
            self._found.clear()
            for signal in signals:
                if signal.new:
                    self._events.emit(_event(signal))
        now = self._clock.now()
        if now - self._learned_at >= _LEARN_EVERY:
            self._learned_at = now
            if changes := self._correlator.take_changes():
                await self._store.learn(changes, at=now)
        if now - self._pruned_at >= _PRUNE_EVERY:
            self._pruned_at = now
            await self._store.prune_signals(before=now - self._keep, most=MAX_SIGNALS)
            await self._store.forget_learned(before=now - self._keep)

    async def _observe(self, sightings: Iterable[Sighting]) -> None:
        for sighting in sightings:
            await self._look_up(sighting.serial)
            self._note(self._correlator.observe(sighting))

    async def _look_up(self, serial: int) -> None:
        if not 0 < serial < _SERIALS_END:
            return  # of nobody; as long as an agent likes, so nothing to remember
        if self._correlator.knows(serial) or self._strangers.get(serial):
            return
        try:
            record = await self._store.certificate(serial)
        except NotFound:
            self._strangers.put(serial, serial)
            return
        facts = CertificateFacts(
            serial=serial,
            spiffe_id=record.spiffe_id,
            requester=record.requester,
            entry=record.entry_id or "",
            not_before=record.not_before.timestamp(),
            not_after=record.not_after.timestamp(),
        )
        self._correlator.certified(facts, at=self._now())

    def _note(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            before = self._found.get(finding.key)
            if before is not None:
                self._found[finding.key] = before.joined(finding)
            elif len(self._found) < MAX_SIGNALS:  # more wait only while the store is away
                self._found[finding.key] = finding

    def _revoked(self, serial: int) -> RevokedFacts | None:
        row = self._state.revocations.get(serial)
        if row is None:
            return None
        return RevokedFacts(at=row.revoked_at.timestamp(), reason=row.reason)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    # --- what operators do -------------------------------------------------------------------

    async def list(
        self, *, state: SignalState | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Signal]:
        """Return signals, the newest first; `before` is where the page before ended."""
        return await self._store.signals(state=state, before=before, limit=limit)

    async def get(self, signal_id: int) -> Signal:
        """Return one.

        Raises:
            NotFound: there is none with this number.
        """
        return await self._store.signal(signal_id)

    async def dismiss(self, signal_id: int, *, note: str, actor: Actor) -> Signal:
        """Call a signal ordinary: it is not raised again, and its network or rate is learned.

        Raises:
            NotFound: there is none with this number.
            Conflict: it is not open.
        """
        audit = self._audit("signal.dismiss", await self.get(signal_id), actor, note=note)
        signal = await self._store.decide_signal(
            signal_id, SignalState.DISMISSED, note=note[:MAX_NOTE], audit=audit
        )
        self._correlator.ordinary(signal.finding, at=self._now())
        return signal

    async def respond(
        self, signal_id: int, *, actor: Actor
    ) -> tuple[Signal, RevocationOutcome | RevocationRequest]:
        """Revoke what the signal proposes, by the rules of any revocation.

        While a second operator has to agree, the signal stays open.

        Raises:
            NotFound: there is no such signal, or its certificate has expired and is forgotten.
            Conflict: it is not open, or its certificate has expired.
        """
        signal = await self.get(signal_id)
        signal.require_open()
        response = response_to(signal.finding)
        outcome = await self._revocations.revoke(
            await self._scope(response), reason=response.reason, actor=actor
        )
        if isinstance(outcome, RevocationRequest) and outcome.state is RequestState.PENDING:
            return signal, outcome
        audit = self._audit("signal.respond", signal, actor, revision=outcome.revision)
        note = f"revoked with revision {outcome.revision}"
        decided = await self._store.decide_signal(
            signal_id, SignalState.RESPONDED, note=note, audit=audit
        )
        return decided, outcome

    async def _scope(self, response: Response) -> Scope:
        match response.what:
            case "identity":
                return IdentityScope(spiffe_id=SpiffeID.parse(response.value), ban=False)
            case "agent":
                return AgentScope(agent=SpiffeID.parse(response.value))
        serial = int(response.value, 16)
        if response.what == "key":
            record = await self._store.certificate(serial)
            return KeyScope(fingerprint=record.key_fingerprint)
        return SerialScope(serial=serial)

    def _audit(self, action: str, signal: Signal, actor: Actor, **detail: object) -> AuditDraft:
        finding = signal.finding
        return AuditDraft(
            time=stamp(self._clock),
            actor=str(actor.spiffe_id),
            action=action,
            subject=finding.spiffe_id,
            detail={
                "signal": signal.id,
                "kind": str(finding.kind),
                "serial": "" if finding.serial == UNKNOWN else format(finding.serial, "x"),
                **detail,
            },
        )


def thresholds_of(config: Misuse) -> Thresholds:
    """Take what is odd from the configuration."""
    return Thresholds(
        learning_s=config.learning.total_seconds(),
        settle_s=config.settle.total_seconds(),
        window_s=config.window.total_seconds(),
        replaced_grace_s=config.replaced_grace.total_seconds(),
        revoked_grace_s=config.revoked_grace.total_seconds(),
        rate_factor=config.rate_factor,
        rate_floor=config.rate_floor,
        ipv4_prefix=config.ipv4_prefix,
        ipv6_prefix=config.ipv6_prefix,
        loopback_is_one_place=config.loopback_is_one_place,
        max_certificates=config.max_certificates,
        max_identities=config.max_certificates,
    )


def _event(signal: Signal) -> MisuseSuspected:
    finding = signal.finding
    return MisuseSuspected(
        signal=signal.id,
        kind=str(finding.kind),
        severity=str(finding.severity),
        spiffe_id=finding.spiffe_id,
        serial=finding.serial,
        summary=finding.summary,
    )
