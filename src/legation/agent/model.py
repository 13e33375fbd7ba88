"""What the parts of an agent share."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from legation.agent.sightings import Case, Seen, SightingBoard
from legation.causes import Cause
from legation.pki import certificate_from_der
from legation.pki.spiffe_id import SpiffeID
from legation.wire.feed import FeedState, WorkloadEntry
from legation.wire.sightings import is_telling


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadIdentity:
    """One entry's current certificate and key."""

    entry: WorkloadEntry
    chain: tuple[bytes, ...]  # DER, leaf first, without the root
    private_key: bytes = field(repr=False)  # PKCS#8, DER
    serial: int
    not_before: datetime
    not_after: datetime

    @property
    def spiffe_id(self) -> str:
        """The identity."""
        return self.entry.spiffe_id

    def refusal(self, state: FeedState) -> Cause | None:
        """Return why the peers refuse its certificate, by the folded feed, or None."""
        issuer_name = _issuer_name(self.chain[0]) if state.revoked_issuers else ""
        return state.refusal(serial=self.serial, spiffe_id=self.spiffe_id, issuer_name=issuer_name)


# Asked for each identity with each change of the feed.
@lru_cache(maxsize=4096)
def _issuer_name(certificate: bytes) -> str:
    return certificate_from_der(certificate).issuer.rfc4514_string()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedCaller:
    """A process on the other end of the local socket, and what was established about it."""

    pid: int
    uid: int
    gid: int
    selectors: frozenset[str]  # for example "unix:uid:1000", "unix:path:/usr/bin/envoy"


class Attestor(Protocol):
    """Establishes facts about the process at the other end of a Unix socket."""

    async def attest(self, fd: int, *, connected_at: float) -> AttestedCaller:
        """Attest the peer of the connected socket `fd`.

        Raises:
            NotPermitted: nothing certain can be said about the peer.
        """
        ...


class Identities(Protocol):
    """The identities that this agent holds, and the feed state they are used under."""

    @property
    def agent_id(self) -> SpiffeID: ...
    @property
    def state(self) -> FeedState:
        """The folded feed. Read it; never change it."""
        ...

    def identities_for(self, caller: AttestedCaller) -> Sequence[WorkloadIdentity]:
        """Return the unexpired identities all of whose selectors the caller shows."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Yield at once, then after each change of identities or feed state, coalesced."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PointState:
    """What one enforcement point behind this agent has in force."""

    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: datetime
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalReport:
    """Handshakes that a point refused for one cause, counted."""

    point: str
    cause: str
    peer: str
    serial: str
    raw: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCertificate:
    """Which certificate one point serves an identity with.

    Attributes:
        point: its name, as in `PointState`.
        spiffe_id: the identity.
        offered: serial number of the certificate that the point was given last.
        serial: of the one that it serves, or None when that is not known.
        problem: why it does not serve the one that it was given, in the point's own words;
            empty while there is nothing wrong, or nothing wrong yet.
        connected: whether the point is there; one that is not is given time.
    """

    point: str
    spiffe_id: str
    offered: int
    serial: int | None
    problem: str = ""
    connected: bool = True


class InForce(Protocol):
    """Takes in what points serve. A point reports after each change, and now and then."""

    def serves(self, served: ServedCertificate) -> None:
        """Take in what a point serves, as it says or as was seen."""
        ...

    def gone(self, point: str) -> None:
        """Forget a point that is no more."""
        ...


class Changes:
    """Wakes every waiting reader after a change; changes while a reader is busy coalesce."""

    def __init__(self) -> None:
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Record a change and wake the readers."""
        self._version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def watch(self) -> AsyncIterator[None]:
        """Yield at once, then after each change."""
        seen = -1
        while True:
            if seen == self._version:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
            seen = self._version
            yield


class PointBoard:
    """The enforcement points behind this agent, as the discovery services state them.

    Attributes:
        changes: notified when a point or a refusal comes, changes or goes.
        sightings: peers that the points saw.
    """

    _MAX_CASES = 1000

    def __init__(self) -> None:
        self.changes = Changes()
        self._points: dict[str, PointState] = {}
        self._untold: Counter[RefusalReport] = Counter()
        self._all: Counter[RefusalReport] = Counter()
        self.sightings = SightingBoard()

    def put(self, point: PointState) -> None:
        """State what a point has in force."""
        if self._points.get(point.id) != point:
            self._points[point.id] = point
            self.changes.notify()

    def remove(self, point_id: str) -> None:
        """State that a point is gone."""
        if self._points.pop(point_id, None) is not None:
            self.changes.notify()

    def point(self, point_id: str) -> PointState | None:
        """Return a point, or None if there is none of that name."""
        return self._points.get(point_id)

    def points(self) -> tuple[PointState, ...]:
        """Return all points."""
        return tuple(self._points.values())

    def see(
        self,
        point_id: str,
        *,
        peer: str,
        serial: str,
        address: str,
        first: float,
        last: float,
        cause: str = "",
        count: int = 1,
    ) -> None:
        """Count connections of a peer that a point let in or, with a `cause`, refused.

        What was refused for a cause that says nothing about the peer is passed over.

        Args:
            point_id: the point.
            peer: SPIFFE ID.
            serial: of the peer's certificate, lower-case hexadecimal.
            address: where the connections came from; empty where it is not known.
            first: when the first of them was, in monotonic seconds.
            last: when the last of them was.
            cause: why they were refused; empty if they were let in.
            count: how many.
        """
        if not is_telling(cause):
            return
        point = self._points.get(point_id)
        case = Case(point_id, point.spiffe_id if point else "", peer, serial, address, cause)
        self.sightings.add(Seen(case=case, count=count, first=first, last=last))

    def refuse(self, report: RefusalReport) -> None:
        """Count a refused handshake; distinct cases are bounded, the rest share one row."""
        case = replace(report, count=1)
        if case not in self._all and len(self._all) >= self._MAX_CASES:
            case = replace(case, peer="", serial="", raw="")
        self._untold[case] += report.count
        self._all[case] += report.count
        self.changes.notify()

    def refusals(self) -> tuple[RefusalReport, ...]:
        """Return every refusal since the agent started."""
        return tuple(replace(case, count=count) for case, count in self._all.items())

    def take_refusals(self) -> tuple[RefusalReport, ...]:
        """Return the refusals counted since the last call, and start anew."""
        if not self._untold:
            return ()
        taken, self._untold = self._untold, Counter()
        return tuple(replace(case, count=count) for case, count in taken.items())
