"""How often an identity connects, against its own history.

Counted for each node by itself and for each process that has the identity there, so that more
replicas are no higher rate.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from legation.authority.misuse.model import (
    UNKNOWN,
    Evidence,
    Finding,
    Kind,
    Severity,
    Sighting,
    Thresholds,
    bounded,
)
from legation.authority.misuse.recent import Recent

WINDOW_S: Final = 60.0
# A burst, as after a restart of what everybody connects to, is shorter than this.
_WINDOWS = 4
# What lasts for so long is how it is from now on.
_ACCEPTED_AFTER_S = 3600.0
# What was ordinary once does not stay so for ever.
_DECAY_A_DAY, _DAY_S = 0.9, 86_400.0
_GROWTH = 1.25  # of the highest rate from one window to the next
_WORTH_A_WRITE = 1.5  # by how much the highest rate grows before that is kept for a restart


@dataclass(slots=True, kw_only=True)
class Rate:
    """One identity on one node; rates are connections a minute and process.

    Attributes:
        since: since when it is known.
        peak: the highest rate that was ordinary, decayed.
        holders: processes that have the identity there.
        start: of the window that is being counted.
        count: in that window.
        high: windows in a row that were too high.
        high_since: when the first of them began.
        alarmed: whether a signal was raised about the present height.
    """

    name: str
    spiffe_id: str
    requester: str
    since: float
    peak: float = 0.0
    holders: int = 1
    start: float = 0.0
    count: int = 0
    high: int = 0
    high_since: float = 0.0
    alarmed: bool = False
    peak_at: float = 0.0
    evidence: tuple[Evidence, ...] = field(default=())


class Rates:
    """The rates of all identities. Bounded: what was not heard of for longest is forgotten.

    Attributes:
        changed: names of the rates whose peak has changed since it was emptied.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self.changed: set[str] = set()
        self._thresholds = thresholds
        self._rates: Recent[str, Rate] = Recent(thresholds.max_identities)

    def of(self, spiffe_id: str, requester: str, *, at: float) -> Rate:
        """Return the rate of an identity on the node of `requester`."""
        name = f"{spiffe_id} {requester}"
        found = self._rates.get(name)
        if found is None:
            made = Rate(name=name, spiffe_id=spiffe_id, requester=requester, since=at)
            found = self._rates.put(name, made)
        return found

    def observe(self, sighting: Sighting, rate: Rate) -> list[Finding]:
        """Count connections; return what is odd about the windows that are over."""
        findings: list[Finding] = []
        if sighting.last >= rate.start + WINDOW_S:
            findings = self._window_over(rate, sighting.last)
        rate.count += sighting.count
        if rate.high:
            rate.evidence = bounded((*rate.evidence, Evidence.of(sighting)))
        return findings

    def accept(self, spiffe_id: str, requester: str, *, at: float) -> None:
        """Take the present rate for ordinary."""
        rate = self.of(spiffe_id, requester, at=at)
        rate.peak = max(rate.peak, rate.count / rate.holders, self._thresholds.rate_floor)
        rate.high, rate.alarmed, rate.peak_at = 0, False, at
        self.changed.add(rate.name)

    def document(self, name: str) -> dict[str, Any] | None:
        """Return what was learned of a rate, as JSON values; None if it is forgotten."""
        rate = self._rates.get(name)
        if rate is None:
            return None
        return {"since": rate.since, "peak": rate.peak, "peak_at": rate.peak_at}

    def restore(self, name: str, document: dict[str, Any]) -> None:
        """Learn what `document` returned before a restart."""
        spiffe_id, _, requester = name.partition(" ")
        rate = self.of(spiffe_id, requester, at=float(document["since"]))
        rate.peak, rate.peak_at = float(document["peak"]), float(document["peak_at"])

    def _window_over(self, rate: Rate, now: float) -> list[Finding]:
        """Judge the window that is over, and begin the next; idle ones between end a row."""
        start, count = rate.start, rate.count
        rate.start, rate.count = now - now % WINDOW_S, 0
        height = count / rate.holders
        learning = start < rate.since + self._thresholds.learning_s
        stays = rate.alarmed and now - rate.high_since > _ACCEPTED_AFTER_S
        if learning or stays or height <= self._limit(rate):
            if start:
                self._ordinary(rate, height, start, at_once=learning or stays)
            return []
        if not rate.high:
            rate.high_since = start
        rate.high += 1
        findings = []
        if rate.high >= _WINDOWS:
            findings = [self._finding(rate, count, height, start)]
            rate.alarmed = True
        if now - start >= 2 * WINDOW_S:
            rate.high = 0
        return findings

    def _limit(self, rate: Rate) -> float:
        limit = max(rate.peak * self._thresholds.rate_factor, float(self._thresholds.rate_floor))
        # Hysteresis: what was too high is ordinary again only when it has halved.
        return limit / 2 if rate.alarmed else limit

    def _accepted(self, rate: Rate, now: float) -> bool:
        return now - rate.high_since > _ACCEPTED_AFTER_S

    def _ordinary(self, rate: Rate, height: float, at: float, *, at_once: bool) -> None:
        rate.high, rate.alarmed, rate.evidence = 0, False, ()
        if height > rate.peak:
            if not at_once:
                # The window in which a rise begins is a mixture; it must not raise the limit
                # for those that follow.
                least = self._thresholds.rate_floor / self._thresholds.rate_factor
                height = min(height, max(rate.peak * _GROWTH, least))
            if height > rate.peak * _WORTH_A_WRITE:
                self.changed.add(rate.name)
            rate.peak, rate.peak_at = height, at
        elif at - rate.peak_at > _DAY_S:
            rate.peak, rate.peak_at = max(height, rate.peak * _DECAY_A_DAY), at

    def _finding(self, rate: Rate, count: int, height: float, start: float) -> Finding:
        node = rate.requester.rpartition("/")[2]
        return Finding(
            kind=Kind.ODD_RATE,
            severity=Severity.WARNING,
            spiffe_id=rate.spiffe_id,
            serial=UNKNOWN,
            requester=rate.requester,
            summary=f"{height:.0f} connections a minute and process from node {node}, "
            f"which had {rate.peak:.0f} at most",
            count=count,
            first=rate.high_since,
            last=start + WINDOW_S,
            evidence=rate.evidence,
        )
