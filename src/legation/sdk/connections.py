"""The open connections of this process, by peer, and how they end when a peer must go.

There is one registry for each source, shared by both TLS engines and by servers and
clients. When the source changes, it asks again about every peer that is connected, cuts
the connections of those that are refused by now, and no others, and tells the source that
the revision is in force.
"""

import errno
import logging
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from legation.causes import Cause, Failure
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.model import Aspect, Change, Peer, Source
from legation.sdk.peers import Verified
from legation.sdk.per_source import PerSource

ENFORCER: Final = "connections"
CAPABILITY: Final = "cuts-connections"
# What can make a peer unwelcome that was let in. A new identity of our own does not.
_TELLING: Final = frozenset({Aspect.REVOCATIONS, Aspect.STALENESS, Aspect.POLICIES, Aspect.BUNDLES})
_log = logging.getLogger(__name__)


class ConnectionCut(ssl.SSLEOFError):
    """The connection was cut from this side, because its peer is no longer accepted.

    A kind of SSLEOFError, and so of OSError: what libraries expect of a connection that
    ends in the middle.

    Attributes:
        cause: the word for it.
    """

    def __init__(self, cause: Cause) -> None:
        # Not SSL_ERROR_EOF: blocking sockets pass that one off as a regular end.
        super().__init__(errno.ECONNABORTED, f"the connection was cut: {cause}")
        self.cause = cause
        self.reason = cause.upper()
        self.library = "LEGATION"

    def __reduce__(self) -> tuple[type["ConnectionCut"], tuple[Cause]]:
        return type(self), (self.cause,)


class Verifier(Protocol):
    """Tells whether a peer that was let in would still be."""

    def recheck(self, verified: Verified) -> Cause | None:
        """Return why not, or None."""
        ...

    def refuse(
        self, failures: Sequence[Failure], *, peer: Peer | None = None, raw: str = ""
    ) -> Exception:
        """Tell the log and the source of a refusal."""
        ...


Cut = Callable[[Sequence[Any], Cause], None]
"""Cuts several connections of one kind at once, from any thread: no byte passes any more."""

_PeerKey = tuple[Verifier, SpiffeID, int]


class _Entry:
    """The connections of one peer under one verifier."""

    __slots__ = ("connections", "verified")

    def __init__(self, verified: Verified) -> None:
        self.verified = verified
        self.connections: dict[int, tuple[weakref.ref[Any], Cut]] = {}


class Connections:
    """Open connections by peer. Safe to use from any thread.

    It keeps no connection alive: one that is dropped leaves by itself.
    """

    def __init__(self, source: Source) -> None:
        """Watch `source`, for as long as it lives."""
        self._source = weakref.ref(source)
        self._lock = threading.Lock()
        self._entries: dict[_PeerKey, _Entry] = {}
        # The garbage collector may run at any point, also while the lock is held by the
        # same thread. So what it finds is noted, and taken out at the next occasion.
        self._gone: deque[tuple[_PeerKey, int]] = deque()
        source.attach(ENFORCER, (CAPABILITY,))
        source.subscribe(self._changed)

    def register(
        self, connection: object, *, verified: Verified, verifier: Verifier, cut: Cut
    ) -> None:
        """Add a connection whose peer was verified.

        The caller asks `Source.refusal` once more afterwards: what changed between the
        verification and this call was not seen by either.
        """
        key = (verifier, verified.peer.spiffe_id, verified.peer.serial)
        token = id(connection)
        gone = self._gone
        reference = weakref.ref(connection, lambda _: gone.append((key, token)))
        with self._lock:
            self._tidy()
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(verified)
            entry.connections[token] = (reference, cut)

    def discard(self, connection: object, *, verified: Verified, verifier: Verifier) -> None:
        """Take out a connection that has ended."""
        key = (verifier, verified.peer.spiffe_id, verified.peer.serial)
        with self._lock:
            self._remove(key, id(connection), connection)

    def __len__(self) -> int:
        """Return how many connections are open."""
        with self._lock:
            self._tidy()
            return sum(len(entry.connections) for entry in self._entries.values())

    def _tidy(self) -> None:
        while self._gone:
            key, token = self._gone.popleft()
            # The number may belong to a new object by now: None means "if it is dead".
            self._remove(key, token, None)

    def _remove(self, key: _PeerKey, token: int, connection: object) -> None:
        entry = self._entries.get(key)
        found = entry.connections.get(token) if entry is not None else None
        if entry is None or found is None or found[0]() is not connection:
            return
        del entry.connections[token]
        if not entry.connections:
            del self._entries[key]

    def _changed(self, change: Change) -> None:
        source = self._source()
        if source is None:
            return
        revision = source.revision
        if change & _TELLING:
            try:
                self._enforce(source, bundles_changed=Aspect.BUNDLES in change)
            except Exception:
                # The agent must not be told of what did not happen, and the source's other
                # listeners have done nothing wrong.
                _log.exception("the open connections could not be gone through")
                return
        source.applied(ENFORCER, revision)

    def _enforce(self, source: Source, *, bundles_changed: bool) -> None:
        with self._lock:
            self._tidy()
            entries = list(self._entries.items())
        domains = None
        if bundles_changed:
            try:
                domains = source.view().bundles.keys()
            except LegationError:
                domains = None
        for (verifier, spiffe_id, _), entry in entries:
            cause = verifier.recheck(entry.verified)
            if cause is None and domains is not None and spiffe_id.trust_domain not in domains:
                cause = Cause.WRONG_TRUST_DOMAIN
            if cause is not None:
                self._cut(verifier, entry, cause)

    def _cut(self, verifier: Verifier, entry: _Entry, cause: Cause) -> None:
        peer = entry.verified.peer
        with self._lock:
            references = list(entry.connections.values())
            if self._entries.get((verifier, peer.spiffe_id, peer.serial)) is entry:
                del self._entries[verifier, peer.spiffe_id, peer.serial]
        by_kind: dict[Cut, list[Any]] = {}
        for reference, cut in references:
            connection = reference()
            if connection is not None:
                by_kind.setdefault(cut, []).append(connection)
        for cut, connections in by_kind.items():
            cut(connections, cause)
            detail = f"open connections cut: {len(connections)}"
            verifier.refuse([Failure(cause=cause, detail=detail)], peer=peer)


connections_of = PerSource(Connections)
