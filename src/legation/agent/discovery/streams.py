"""Which calls of a proxy last: streams, WebSockets, slow requests.

Envoy judges a call when it begins. One that lasts longer than a second is reported, so that
it can be judged again when the policies change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from legation.agent.discovery.connections import Endpoints
from legation.envoy.access_log import FLUSH_INTERVAL_MS, STREAM_INTERVAL_MS

MAX_STREAMS = 50_000
# A longer path is not kept. What cannot be seen counts against the caller.
MAX_PATH = 8192
# Within this time every call that lasts is known, the shortest of them included.
REPORTED_WITHIN_S = (STREAM_INTERVAL_MS + FLUSH_INTERVAL_MS + 400) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LastingCall:
    """One call that is in flight for a while.

    Attributes:
        endpoints: of the connection that it runs on.
        spiffe_id: the verified identity of the peer; empty for plaintext.
        method: HTTP method.
        path: normalised, with the query; None if it was too long to keep.
        began_at: Unix nanoseconds.
    """

    endpoints: Endpoints
    spiffe_id: str
    method: str
    path: str | None
    began_at: int


class StreamTable:
    """The lasting calls of one proxy. Pure: it is fed, and it is asked."""

    def __init__(self, limit: int = MAX_STREAMS) -> None:
        self._limit = limit
        self._calls: dict[Endpoints, set[LastingCall]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[LastingCall]:
        return (call for calls in self._calls.values() for call in calls)

    def lasts(self, call: LastingCall) -> bool:
        """Record a call, or hear of it again; False if the table is full."""
        calls = self._calls.get(call.endpoints, set())
        if call in calls:
            return True
        if self._count >= self._limit:
            return False
        self._calls.setdefault(call.endpoints, calls).add(call)
        self._count += 1
        return True

    def over(self, call: LastingCall) -> None:
        """Forget a call that has ended."""
        calls = self._calls.get(call.endpoints)
        if calls is None or call not in calls:
            return
        calls.remove(call)
        self._count -= 1
        if not calls:
            del self._calls[call.endpoints]

    def closed(self, endpoints: Endpoints, *, at: float) -> None:
        """Forget the calls of a connection that ended `at`, Unix seconds.

        Those that began later belong to a newer connection that took the same ports.
        """
        for call in list(self._calls.get(endpoints, ())):
            if call.began_at <= at * 1e9:
                self.over(call)

    def refused(self, refused: Callable[[LastingCall], bool]) -> frozenset[Endpoints]:
        """Return the connections on which a call runs for which `refused` holds."""
        return frozenset(
            endpoints
            for endpoints, calls in self._calls.items()
            if any(refused(call) for call in calls)
        )
