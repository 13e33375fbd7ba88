"""Holds sightings against what is known of certificates. Pure: it reads no clock and no store.

What it does for each sighting, in this order; the first finding ends it:

1. A certificate that this authority has not issued, and a decoy's, says nothing.
2. Revoked, for longer than it takes everybody to hear of it: a signal.
3. Replaced by one that is in force everywhere on its node, for longer than the grace: a signal.
4. From a network that nothing explains: `places`.
5. More often than ever: `rates`.

Everything is bounded; nothing grows with the number of certificates ever issued.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from legation.authority.misuse.model import (
    CertificateFacts,
    Evidence,
    Finding,
    HeldCertificate,
    Kind,
    RevokedFacts,
    Severity,
    Sighting,
    Thresholds,
)
from legation.authority.misuse.networks import Networks
from legation.authority.misuse.places import Place, Places
from legation.authority.misuse.rates import Rate, Rates
from legation.authority.misuse.recent import Recent
from legation.authority.model import AGENT_PREFIX, DECOY_PREFIX
from legation.causes import Cause

_MAX_AGENTS: Final = 20_000
_MAX_INSTANCES = 16  # of one agent
# Points that say themselves which certificate they serve. What others serve is seen from
# outside, where a load balancer may answer for another node.
_SELF_STATING = ("envoy/", "sdk/")
# Revoked as a matter of routine: the holder has another one, and may be a moment late.
_ROUTINE = frozenset({"superseded", "certificateHold"})


@dataclass(slots=True, kw_only=True)
class _Line:
    """The certificates of one entry on one node: one after the other.

    Attributes:
        serial: of the one that every point has in force; 0 while they differ, or one is silent.
        held: serial numbers that some point has in force.
        not_before: of `serial`.
        since: when all points had it.
    """

    serial: int = 0
    held: frozenset[int] = frozenset()
    not_before: float = 0.0
    since: float = 0.0


@dataclass(slots=True)
class _Known:
    """A certificate, and what it belongs to."""

    facts: CertificateFacts
    line: _Line
    place: Place
    rate: Rate


@dataclass(slots=True)
class _Instances:
    """The processes that have opened streams as one agent."""

    current: bytes = b""
    displaced: dict[bytes, str] = field(default_factory=dict)  # and from where
    address: str = ""


class Correlator:
    """Finds misuse in what enforcement points report.

    Args:
        thresholds: what is taken for odd.
        revoked: tells when a serial number was revoked, or None.
    """

    def __init__(
        self, thresholds: Thresholds, *, revoked: Callable[[int], RevokedFacts | None]
    ) -> None:
        self._thresholds = thresholds
        self._revoked = revoked
        self._places = Places(
            thresholds,
            Networks(
                ipv4_prefix=thresholds.ipv4_prefix,
                ipv6_prefix=thresholds.ipv6_prefix,
                loopback_is_one_place=thresholds.loopback_is_one_place,
            ),
        )
        self._rates = Rates(thresholds)
        self._certificates: Recent[int, _Known] = Recent(thresholds.max_certificates)
        self._lines: Recent[tuple[str, str], _Line] = Recent(thresholds.max_identities)
        self._instances: Recent[str, _Instances] = Recent(_MAX_AGENTS)
        self._addresses: Recent[str, tuple[str, ...]] = Recent(_MAX_AGENTS)
        self._stated: Recent[str, dict[str, list[HeldCertificate]]] = Recent(_MAX_AGENTS)

    def knows(self, serial: int) -> bool:
        """Tell whether `certified` has been called for a certificate, lately enough."""
        return self._certificates.get(serial) is not None

    def certified(self, facts: CertificateFacts, *, at: float) -> None:
        """Take in what the inventory says of a certificate; once, before it is observed."""
        key = (facts.requester, facts.entry or facts.spiffe_id)
        line = self._lines.get(key) or self._lines.put(key, _Line())
        self._certificates.put(
            facts.serial,
            _Known(
                facts,
                line,
                self._places.of(facts.requester, facts.spiffe_id, at=at),
                self._rates.of(facts.spiffe_id, facts.requester, at=at),
            ),
        )

    # --- what agents say ---------------------------------------------------------------------

    def observe(self, sighting: Sighting) -> list[Finding]:
        """Take in what a point saw; return what is odd about it."""
        known = self._certificates.get(sighting.serial)
        if known is None:  # step 1
            return []
        facts = known.facts
        if DECOY_PREFIX in facts.spiffe_id:
            return []
        revoked = self._revoked(facts.serial)
        if revoked is not None:  # step 2
            return self._seen_revoked(sighting, facts, revoked)
        line = known.line
        if line.serial and line.serial != facts.serial and self._replaced(sighting, known):
            return [_replaced(sighting, facts, line)]  # step 3
        findings = self._places.observe(sighting, facts.serial, facts.spiffe_id, known.place)
        if not findings and not sighting.cause:  # steps 4 and 5
            findings = self._rates.observe(sighting, known.rate)
        return findings

    def stated_places(self, agent: str, addresses: Iterable[str], *, at: float) -> None:
        """Take in the addresses of an agent's node."""
        self._addresses.put(agent, tuple(addresses))
        self._state_places(agent, at=at)

    def stream_opened(
        self, agent: str, serial: int, *, instance: bytes, address: str, at: float
    ) -> list[Finding]:
        """Take in that an agent opened its stream.

        An agent has one process at a time. One that comes back after another has taken its
        place was alive all the while: two processes have the agent's key.
        """
        seen = self._instances.get(agent) or self._instances.put(agent, _Instances())
        before, seen.address = seen.address, address
        self._state_places(agent, at=at)
        if not instance or instance == seen.current:
            return []
        came_back = seen.displaced.pop(instance, None)
        if seen.current:
            if len(seen.displaced) >= _MAX_INSTANCES:
                seen.displaced.pop(next(iter(seen.displaced)))
            seen.displaced[seen.current] = before
        seen.current = instance
        if came_back is None:
            return []
        rows = [
            Evidence(at=at, agent=agent, point="agent", address=where, outcome=what, count=1)
            for where, what in ((before, "was displaced"), (address, "came back"))
        ]
        summary = "two processes take turns as this agent: its key was copied"
        return [_two_processes(agent, serial, agent, summary, rows)]

    def stated_in_force(
        self, agent: str, rows: Sequence[HeldCertificate], *, at: float
    ) -> list[Finding]:
        """Take in which certificates are in force behind an agent: a full statement."""
        findings: list[Finding] = []
        by_identity: dict[str, list[HeldCertificate]] = {}
        for row in rows:
            by_identity.setdefault(row.spiffe_id, []).append(row)
        before = self._stated.get(agent) or {}
        self._stated.put(agent, by_identity)
        for spiffe_id, same in by_identity.items():
            if before.get(spiffe_id) == same:
                continue
            self._rates.of(spiffe_id, agent, at=at).holders = max(1, len(same))
            findings += self._held(agent, same, at=at)
        return findings

    def due(self, at: float) -> list[Finding]:
        """Return what has become odd because time has passed."""
        return self._places.due(at)

    def ordinary(self, finding: Finding, *, at: float) -> None:
        """Learn that what was found is how things are."""
        if finding.kind is Kind.ODD_RATE:
            self._rates.accept(finding.spiffe_id, finding.requester, at=at)
        elif finding.network:
            self._places.learn(finding.requester, finding.network, at=at)

    # --- memory across restarts --------------------------------------------------------------

    def take_changes(self) -> dict[str, dict[str, Any]]:
        """Return what was learned since the last call, by subject, as JSON values."""
        changes = {
            f"{kind} {name}": document
            for kind, part in (("place", self._places), ("rate", self._rates))
            for name in part.changed
            if (document := part.document(name)) is not None
        }
        self._places.changed.clear()
        self._rates.changed.clear()
        return changes

    def restore(self, subjects: Mapping[str, dict[str, Any]]) -> None:
        """Learn what was kept before a restart."""
        for subject, document in subjects.items():
            kind, _, name = subject.partition(" ")
            part = self._places if kind == "place" else self._rates
            part.restore(name, document)

    # --- the steps ---------------------------------------------------------------------------

    def _seen_revoked(
        self, sighting: Sighting, facts: CertificateFacts, revoked: RevokedFacts
    ) -> list[Finding]:
        grace = self._thresholds.revoked_grace_s
        if revoked.reason in _ROUTINE:
            grace = max(grace, self._thresholds.replaced_grace_s)
        if sighting.first <= revoked.at + grace:
            return []
        return [
            _of_sighting(
                Kind.REVOKED_CERTIFICATE_SEEN,
                sighting,
                facts,
                severity=Severity.WARNING if sighting.cause else Severity.CRITICAL,
                summary="presented after it was revoked, and "
                + ("refused" if sighting.cause else f"let in by {sighting.point}"),
            )
        ]

    def _replaced(self, sighting: Sighting, known: _Known) -> bool:
        line = known.line
        return (
            line.not_before >= known.facts.not_before
            and known.facts.serial not in line.held
            and sighting.first > line.since + self._thresholds.replaced_grace_s
            # It is over anyway: a process that slept comes back with what it had.
            and sighting.cause != Cause.CERTIFICATE_EXPIRED
        )

    def _held(self, agent: str, rows: list[HeldCertificate], *, at: float) -> list[Finding]:
        findings: list[Finding] = []
        silent = any(row.serial is None for row in rows)
        by_line: dict[int, tuple[_Line, dict[int, float]]] = {}
        for row in rows:
            known = None if row.serial is None else self._certificates.get(row.serial)
            if known is None:
                silent = True
                continue
            facts = known.facts
            if facts.requester == agent:
                held = by_line.setdefault(id(known.line), (known.line, {}))[1]
                held[facts.serial] = facts.not_before
            elif _is_misplaced(row, facts):
                findings.append(_misplaced(agent, row, facts, at=at))
        for line, held in by_line.values():
            line.held = frozenset(held)
            serial = next(iter(held)) if len(held) == 1 and not silent else 0
            if serial != line.serial:
                line.serial, line.since = serial, at
                line.not_before = held.get(serial, 0.0)
        return findings

    def _state_places(self, agent: str, *, at: float) -> None:
        seen = self._instances.get(agent)
        shown = (seen.address,) if seen and seen.address else ()
        self._places.state(agent, (*shown, *(self._addresses.get(agent) or ())), at=at)


def _is_misplaced(row: HeldCertificate, facts: CertificateFacts) -> bool:
    """Tell whether a point serves what another node's agent was given."""
    return (
        AGENT_PREFIX in facts.requester
        and row.spiffe_id == facts.spiffe_id
        and row.point.startswith(_SELF_STATING)
    )


def _misplaced(agent: str, row: HeldCertificate, facts: CertificateFacts, *, at: float) -> Finding:
    here, there = agent.rpartition("/")[2], facts.requester.rpartition("/")[2]
    stated = Evidence(
        at=at, agent=agent, point=row.point, address="", outcome="has it in force", count=1
    )
    return _two_processes(
        facts.spiffe_id,
        facts.serial,
        facts.requester,
        f"in force at node {here}, and its key was made on node {there}",
        [stated],
    )


def _two_processes(
    spiffe_id: str, serial: int, requester: str, summary: str, rows: list[Evidence]
) -> Finding:
    return Finding(
        kind=Kind.SERIAL_IN_TWO_PROCESSES,
        severity=Severity.CRITICAL,
        spiffe_id=spiffe_id,
        serial=serial,
        requester=requester,
        summary=summary,
        count=1,
        first=rows[0].at,
        last=rows[-1].at,
        evidence=tuple(rows),
    )


def _replaced(sighting: Sighting, facts: CertificateFacts, line: _Line) -> Finding:
    return _of_sighting(
        Kind.REPLACED_CERTIFICATE_SEEN,
        sighting,
        facts,
        severity=Severity.WARNING,
        summary=f"presented {sighting.first - line.since:.0f} s after {line.serial:x} "
        "has replaced it everywhere on its node",
    )


def _of_sighting(
    kind: Kind, sighting: Sighting, facts: CertificateFacts, *, severity: Severity, summary: str
) -> Finding:
    return Finding(
        kind=kind,
        severity=severity,
        spiffe_id=facts.spiffe_id,
        serial=facts.serial,
        requester=facts.requester,
        summary=summary,
        count=sighting.count,
        first=sighting.first,
        last=sighting.last,
        evidence=(Evidence.of(sighting),),
    )
