"""Counts what happens in the authority."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter, Histogram

from legation.authority.events import (
    AgentConnected,
    AgentDisconnected,
    AuthorityEvent,
    CertificateNotInForce,
    CRLFailed,
    CRLPublished,
    DrillFailed,
    DrillHeld,
    Enrolled,
    HandshakesRefused,
    Issued,
    MisuseSuspected,
    PointStale,
    PointStaleSoon,
    Refused,
    Revoked,
    TokenIssued,
)
from legation.causes import Cause
from legation.observe.authority import definitions as known
from legation.observe.metric import POINT_KINDS, Instruments, Metric
from legation.policy import Freshness, Then

_CAUSES: Final = frozenset(map(str, Cause))


class EventCounts:
    """A subscriber of the authority's events."""

    def __init__(self, instruments: Instruments) -> None:
        self._counters = {
            metric.name: instruments.counter(metric)
            for metric in known.METRICS
            if metric in _COUNTED
        }
        self._crl_duration = instruments.histogram(known.CRL_DURATION)
        self._issuance_duration = instruments.histogram(known.ISSUANCE_DURATION)
        for outcome in ("held", "failed"):
            self._of(known.DRILLS, outcome).inc(0)
        self._handlers: Mapping[type[AuthorityEvent], Callable[[Any], None]] = {
            Issued: self._issued,
            Revoked: self._revoked,
            CRLPublished: self._crl_published,
            **{kind: self._one(count) for kind, count in _SIMPLE.items()},
        }

    def __call__(self, event: AuthorityEvent) -> None:
        """Count one event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _one(self, count: "_Count") -> Callable[[Any], None]:
        metric, labels, amount = count
        return lambda event: self._of(metric, *labels(event)).inc(amount(event))

    def _issued(self, event: Issued) -> None:
        self._of(known.CERTIFICATES_ISSUED, event.profile).inc(len(event.serials))
        self._issuance_duration.labels(event.profile).observe(event.duration_s)

    def _revoked(self, event: Revoked) -> None:
        self._of(known.CERTIFICATES_REVOKED, event.reason).inc(event.count)
        if not event.continued:
            self._of(known.REVOCATIONS, event.scope, event.reason).inc()

    def _crl_published(self, event: CRLPublished) -> None:
        self._of(known.CRLS_PUBLISHED).inc()
        self._crl_duration.observe(event.duration_s)

    def _of(self, metric: Metric, *labels: str) -> Counter:
        found = self._counters[metric.name]
        return found.labels(*labels) if labels else found


class PropagationCounts:
    """Takes in how long revocations took to reach points."""

    def __init__(self, instruments: Instruments) -> None:
        self._times: Histogram = instruments.histogram(known.PROPAGATION)
        self._missed: Counter = instruments.counter(known.UNACKNOWLEDGED)
        for kind in sorted(POINT_KINDS):  # a rise from nothing is none to Prometheus
            self._times.labels(kind)
            self._missed.labels(kind)

    def acknowledged(self, kind: str, after_s: float) -> None:
        """A point of a kind has acknowledged a revocation."""
        self._times.labels(kind).observe(after_s)

    def missed(self, kind: str) -> None:
        """A point of a kind has not acknowledged a revocation in time."""
        self._missed.labels(kind).inc()


_Labels = Callable[[Any], tuple[str, ...]]
_Count = tuple[Metric, _Labels, Callable[[Any], float]]


def _none(_event: object) -> tuple[str, ...]:
    return ()


def _once(_event: object) -> float:
    return 1


def _staleness(event: PointStale) -> tuple[str, ...]:
    refusing = event.then == Then.REFUSE
    return (str(Freshness.STALE_REFUSING if refusing else Freshness.STALE_CONTINUING),)


def _cause(event: HandshakesRefused) -> tuple[str, ...]:
    # An agent states it, and so it may be anything.
    return (event.cause if event.cause in _CAUSES else str(Cause.UNKNOWN),)


_SIMPLE: Final[Mapping[type[AuthorityEvent], _Count]] = {
    TokenIssued: (known.TOKENS_ISSUED, _none, _once),
    Refused: (known.REQUESTS_REFUSED, lambda event: (event.action, event.code), _once),
    Enrolled: (known.ENROLMENTS, lambda event: (event.evidence.partition(" ")[0],), _once),
    CRLFailed: (known.CRL_FAILURES, _none, _once),
    AgentConnected: (
        known.STREAMS_OPENED,
        lambda event: ("snapshot" if event.snapshot else "resumed",),
        _once,
    ),
    AgentDisconnected: (known.STREAMS_ENDED, _none, _once),
    PointStaleSoon: (known.STALENESS_ALARMS, lambda _: (str(Freshness.STALE_SOON),), _once),
    PointStale: (known.STALENESS_ALARMS, _staleness, _once),
    CertificateNotInForce: (known.NOT_IN_FORCE, _none, _once),
    HandshakesRefused: (known.HANDSHAKES_REFUSED, _cause, lambda event: event.count),
    DrillHeld: (known.DRILLS, lambda _: ("held",), _once),
    DrillFailed: (known.DRILLS, lambda _: ("failed",), _once),
    MisuseSuspected: (known.SIGNALS, lambda event: (event.kind, event.severity), _once),
}
_COUNTED: Final = frozenset(
    {metric for metric, _, _ in _SIMPLE.values()}
    | {known.CERTIFICATES_ISSUED, known.CERTIFICATES_REVOKED, known.REVOCATIONS}
    | {known.CRLS_PUBLISHED}
)
COUNTED_BY_EVENTS: Final = _COUNTED | {
    known.CRL_DURATION,
    known.ISSUANCE_DURATION,
    known.PROPAGATION,
    known.UNACKNOWLEDGED,
}
