"""What every source has in common: answers, listeners, and the parts that act on changes."""

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from legation.causes import Cause
from legation.clock import Clock
from legation.errors import Conflict, LegationError, NotFound, TimedOut, Unavailable
from legation.pki.spiffe_id import SpiffeID
from legation.policy.decision import Decision, Request
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.sdk.model import X509SVID, Change, Listener, Refusal, Source, Stapling, TrustView
from legation.sdk.reporting import Statement

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Enforcer:
    """A part of the process that has to act on changes, and how far it has come."""

    applied: int
    capabilities: tuple[str, ...]
    notes: tuple[str, ...] = ()


class SourceCore:
    """Implements `Source` over a `Knowledge` that somebody else keeps up to date.

    Args:
        knowledge: what the answers are taken from.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self._lock = threading.Lock()
        self._listeners: dict[int, Listener] = {}
        self._numbers = itertools.count()
        self._enforcers: dict[str, _Enforcer] = {}
        _SOURCES.add(self)

    # --- answers --------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """What tells the time, also to the contexts that follow this source."""
        return self.knowledge.clock

    @property
    def revision(self) -> int:
        """Revision of the feed that the answers follow; 0 without an agent of ours."""
        return self.knowledge.enforcement.revision

    @property
    def revocation_data(self) -> RevocationData:
        """Where the answer to "is it revoked?" comes from."""
        return self.knowledge.revocation_data

    def view(self) -> TrustView:
        """Return the current view, as `Source.view`."""
        return self.knowledge.view()

    def refusal(
        self, *, serial: int, spiffe_id: SpiffeID, issuer: x509.Certificate | None = None
    ) -> Cause | None:
        """Return why a peer is refused, as `Source.refusal`."""
        return self.knowledge.refusal(serial=serial, spiffe_id=spiffe_id, issuer=issuer)

    def staple(self, svid: X509SVID) -> bytes | None:
        """Return what to staple to an own certificate, as `Stapling.staple`."""
        return self.knowledge.staple(svid)

    def decide(self, request: Request) -> Decision:
        """Decide on a request, as `Source.decide`."""
        return self.knowledge.enforcement.decide(request)

    # --- listeners ------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change, as `Source.subscribe`."""
        number = next(self._numbers)
        with self._lock:
            self._listeners[number] = listener

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.pop(number, None)

        return unsubscribe

    def publish(self, change: Change) -> None:
        """Tell every listener; one that fails keeps no other from hearing."""
        with self._lock:
            listeners = tuple(self._listeners.values())
        for listener in listeners:
            try:
                listener(change)
            except Exception:
                _log.exception("a listener failed")

    # --- parts that act -------------------------------------------------------------------

    def attach(self, enforcer: str, capabilities: Collection[str] = ()) -> Callable[[], None]:
        """Announce a part that acts on changes, as `Source.attach`.

        Raises:
            Conflict: the name is taken.
        """
        with self._lock:
            if enforcer in self._enforcers:
                raise Conflict(f"{enforcer!a} is attached to this source already")
            # It has nothing to do for what was in force before it came.
            self._enforcers[enforcer] = _Enforcer(
                applied=self.revision, capabilities=tuple(capabilities)
            )
        self._stated()

        def detach() -> None:
            with self._lock:
                self._enforcers.pop(enforcer, None)
            self._stated()

        return detach

    def applied(self, enforcer: str, revision: int, notes: Collection[str] = ()) -> None:
        """State that a part has done what `revision` asks for, as `Source.applied`.

        Raises:
            NotFound: no part is attached under this name.
        """
        with self._lock:
            part = self._enforcers.get(enforcer)
            if part is None:
                raise NotFound(f"nothing is attached to this source as {enforcer!a}")
            part.applied, part.notes = revision, tuple(notes)
        self._stated()

    def refused(self, report: Refusal) -> None:
        """Tell the agent of a refusal, as `Source.refused`; without an agent, do nothing."""

    def statement(self) -> Statement:
        """Return what this process has in force as a whole: no more than its slowest part.

        For the one who keeps the knowledge up to date, after each change of it.
        """
        enforcement = self.knowledge.enforcement
        revision, acted_on = enforcement.revision, enforcement.acted_on
        with self._lock:
            parts = tuple(self._enforcers.values())
            for part in parts:
                if acted_on <= part.applied <= revision:
                    # It has seen the last change that mattered, so it has seen everything.
                    part.applied = revision
                elif part.applied > revision:
                    # The feed went back, as after a restore: that was another revision.
                    part.applied = 0
            return Statement(
                revision=min((part.applied for part in parts), default=revision),
                capabilities=tuple(sorted({each for part in parts for each in part.capabilities})),
                notes=(*enforcement.notes, *(note for part in parts for note in part.notes)),
            )

    def _stated(self) -> None:
        """`statement` may have changed."""


if TYPE_CHECKING:
    _: type[Source] = SourceCore  # checked by the type checker alone
    __: type[Stapling] = SourceCore


def not_ready(knowledge: Knowledge, problem: LegationError | None, timeout: float) -> TimedOut:
    """Say what a source still lacks after `timeout` seconds."""
    if knowledge.held is None:
        missing = knowledge.absence
        return TimedOut(f"no view within {timeout:g} s: {missing.message}", remedy=missing.remedy)
    return TimedOut(
        f"no word within {timeout:g} s on who is revoked",
        remedy=str(problem) if problem else "`legation status` on the node says more",
    )


_SOURCES: "weakref.WeakSet[SourceCore]" = weakref.WeakSet()


def _forked() -> None:
    """In the child nobody keeps a source up to date: it must not go on with what it has."""
    for source in list(_SOURCES):
        source.knowledge.abandon(
            Unavailable(
                "this source was made before the process was forked",
                remedy="make it in each worker process, after the fork",
            )
        )


os.register_at_fork(after_in_child=_forked)
