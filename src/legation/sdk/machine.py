"""The protocol of every source as one state machine without input or output.

Events go in (bytes of a message, the end of a stream, a moment that has passed), commands
come out (connect, send, disconnect, tell the listeners). Threads, asyncio and gRPC are the
business of the drivers, `legation.sdk.sources` and `legation.sdk.sources_async`; a test
needs none of them.

What it does:

1. It follows FetchX509SVID, or FetchX509Bundles for a source without identity. A message
   that cannot be used is reported and discarded; the view before it stays.
2. PERMISSION_DENIED withdraws the identity; INVALID_ARGUMENT is our own fault and is not
   tried again (SPIFFE_Workload_Endpoint.md, section 6). Whatever else ends the stream, the
   view stays, and the machine comes back, with jittered and bounded waits.
3. With a view it follows the agent's EnforcementService. UNIMPLEMENTED means that the agent
   is not ours: the revocation lists of the Workload API count then.
4. It states what is in force, which peers were refused, and which were let in.
5. It tells when the own certificate or the revocation data has become too old.
6. A new certificate that must be stapled is taken into use with its staple, which comes on the
   other stream, if that is a matter of moments.
"""

import itertools
import logging
import random
from dataclasses import replace

from legation.errors import (
    InvalidInput,
    LegationError,
    NotFound,
    NotPermitted,
    Unavailable,
)
from legation.pki.ocsp import must_staple
from legation.sdk.backoff import Jitter
from legation.sdk.knowledge import Knowledge, RevocationData
from legation.sdk.lines import Command, Feed, Line, Publish, Send
from legation.sdk.model import X509SVID, Aspect, Change, Peer, Refusal
from legation.sdk.reporting import Reporting, Shown, Statement
from legation.sdk.sightings import Sightings
from legation.sdk.workload import Pick, Reader, Update
from legation.wire.protobuf import workload_pb2 as pb

# Nothing waits longer than this, so that a machine that slept, or whose clock was set,
# notices what has passed meanwhile.
LONGEST_WAIT_S = 15.0
# How long a certificate waits for its staple while the one before still serves.
STAPLE_WAIT_S = 5.0
_MAX_DETAILS = 300

_log = logging.getLogger(__name__)


class Machine:
    """Follows the Workload API and the agent's EnforcementService.

    Args:
        knowledge: is kept up to date; its clock is read.
        feed: `Feed.SVIDS`, or `Feed.BUNDLES` for a source without identity.
        pick: chooses among several identities.
        name: of this program, for people who look at the agent's enforcement points.
        jitter: spreads the waits.

    Attributes:
        problem: why something is not as it should be, or None.
        failed: whether the Workload API has refused for good.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        feed: Feed = Feed.SVIDS,
        pick: Pick = lambda svids: svids[0],
        name: str = "python",
        jitter: Jitter = random.random,  # noqa: S311 - spreads waits, guards nothing
    ) -> None:
        self.knowledge = knowledge
        self.problem: LegationError | None = None
        self.failed = False
        self._clock = knowledge.clock
        self._pick = pick
        self._reader = Reader()
        attempts = itertools.count(1)
        self._identity = Line(feed, clock=self._clock, jitter=jitter, attempts=attempts)
        self._enforcement = Line(
            Feed.ENFORCEMENT, clock=self._clock, jitter=jitter, attempts=attempts
        )
        self._reporting = Reporting(name)
        self._sightings = Sightings()
        self._endpoint = ""
        self._acts_as = ""
        self._unimplemented = False
        self._was_stale = False
        self._unstapled: tuple[Update, float] | None = None  # what waits, and until when
        self._expired = 0  # serial of the own certificate whose end has been told

    # --- events ---------------------------------------------------------------------------

    def start(self) -> list[Command]:
        """Begin."""
        return [self._connect_identity()]

    def received(self, attempt: int, data: bytes) -> list[Command]:
        """A message has arrived on a stream."""
        line = self._line_of(attempt)
        if line is None:
            return []
        first = not line.answered
        line.heard()
        if line is self._enforcement:
            return self._enforcement_message(data)
        if first:
            # Perhaps another agent than before, so its services are not known.
            self._unimplemented = False
        return self._identity_message(data)

    def ended(self, attempt: int, code: str, details: str = "") -> list[Command]:
        """A stream has ended, with a gRPC status by its name."""
        line = self._line_of(attempt)
        if line is None:
            return []
        _log.debug("%s ended: %s %s", line.feed, code, details)
        details = details[:_MAX_DETAILS]
        if line is self._identity and code == "PERMISSION_DENIED":
            line.retry_denied()
            return self._withdraw(NotPermitted(details or "this process has no identity"))
        if line is self._identity and code == "INVALID_ARGUMENT":
            return self._give_up(details)
        if line is self._enforcement and code == "UNIMPLEMENTED":
            return self._fall_back()
        return self._lost(line, f"{code}: {details}")

    def tick(self) -> list[Command]:
        """Do what is due. Calling it too early or too often does no harm."""
        commands: list[Command] = []
        now = self._clock.monotonic()
        for line in (self._identity, self._enforcement):
            if not line.is_due(now):
                continue
            if line.open:
                commands += line.disconnect()
                commands += self._lost(line, "no message came")
            elif line is self._identity:
                commands.append(self._connect_identity())
            else:
                commands.append(self._connect_enforcement())
        report_at = self._reporting.report_at
        if report_at is not None and now >= report_at:
            commands += self._send(self._reporting.refusals())
        seen_at = self._sightings.report_at
        if seen_at is not None and now >= seen_at:
            commands += self._send(self._sightings.message(now=now))
        return commands + self._waited() + self._passed()

    def state(self, statement: Statement) -> list[Command]:
        """State what the parts of this process have in force, if the agent does not know it."""
        # Before the first message the agent may not serve this at all, and before a complete
        # snapshot there is nothing to state.
        if not self._enforcement.answered or not self.knowledge.enforcement.current:
            return []
        return self._send(self._reporting.applied(statement))

    def refused(self, refusal: Refusal) -> list[Command]:
        """Report a refused peer, together with others within a second."""
        self._reporting.refused(refusal, now=self._clock.monotonic())
        return []

    def seen(self, peer: Peer, address: str) -> bool:
        """Count a peer that was let in; from any thread.

        Returns:
            Whether that is to be reported, within a second, and was not before.
        """
        return self._sightings.see(peer, address, now=self._clock.monotonic())

    def serve_at(self, endpoint: str) -> list[Command]:
        """Report that this process shows its certificate at ``host:port``."""
        self._endpoint = endpoint
        return self._show()

    def close(self) -> list[Command]:
        """End everything."""
        commands = self._send(self._reporting.refusals())
        commands += self._identity.disconnect() + self._enforcement.disconnect()
        self.knowledge.abandon(Unavailable("the source is closed"))
        return commands

    @property
    def wait_s(self) -> float:
        """How long nothing is due unless something happens, in seconds."""
        now, wall = self._clock.monotonic(), self._clock.now()
        unstapled = self._unstapled[1] if self._unstapled else None
        moments = (
            self._identity.due,
            self._enforcement.due,
            self._reporting.report_at,
            self._sightings.report_at,
            unstapled,
        )
        waits = [moment - now for moment in moments if moment is not None]
        view = self.knowledge.held
        left = [
            self.knowledge.enforcement.freshness.left_s(self._clock),
            (view.svid.not_after - wall).total_seconds() if view and view.svids else None,
        ]
        # What has passed is told at the next tick, and does not become due again.
        waits += [each for each in left if each is not None and each > 0]
        return max(0.0, min([LONGEST_WAIT_S, *waits]))

    # --- the Workload API -----------------------------------------------------------------

    def _identity_message(self, data: bytes) -> list[Command]:
        try:
            if self._identity.feed is Feed.SVIDS:
                update = self._reader.svids(data, self._pick)
            else:
                update = self._reader.bundles(data)
        except NotFound as error:
            # None of what there is is wanted; what was there before is redacted (section 4.4).
            return self._withdraw(error)
        except LegationError as error:
            self._trouble("a message of the Workload API is discarded", error)
            if self.knowledge.held is None:
                self.knowledge.withdraw(error)
            return []
        self.problem = None
        self._unstapled = None
        if self._waits_for_staple(update):
            self._unstapled = update, self._clock.monotonic() + STAPLE_WAIT_S
            update = replace(update, svids=self._shown_svids)
        return self._use(update)

    def _use(self, update: Update) -> list[Command]:
        change = self.knowledge.show(update.svids, update.bundles, update.crls)
        return [*_published(change), *self._follow_enforcement(), *self._show(), *self._passed()]

    def _waits_for_staple(self, update: Update) -> bool:
        """Tell whether clients would refuse the new certificate, and not the one before."""
        before, enforcement = self._shown_svids, self.knowledge.enforcement
        if not update.svids or not before or not enforcement.current:
            return False
        new, old = update.svids[0], before[0]
        return (
            new.spiffe_id == old.spiffe_id
            and new.serial != old.serial
            and self._clock.now() < old.not_after
            and must_staple(new.chain[0])
            and not enforcement.staples.knows(new.serial)
            and enforcement.refusal(old.serial, old.spiffe_id) is None
        )

    @property
    def _shown_svids(self) -> tuple[X509SVID, ...]:
        view = self.knowledge.held
        return () if view is None else view.svids

    def _waited(self) -> list[Command]:
        """Use what waited for a staple that is there now, or has not come in time."""
        if self._unstapled is None:
            return []
        update, until = self._unstapled
        if self._waits_for_staple(update) and self._clock.monotonic() < until:
            return []
        self._unstapled = None
        return self._use(update)

    def _give_up(self, details: str) -> list[Command]:
        self._identity.disconnect()
        self.failed = True
        error = InvalidInput(
            f"the Workload API refuses the request: {details}",
            remedy="is there something else between this process and the agent?",
        )
        self._trouble("not tried again", error)
        if self.knowledge.held is None:
            self.knowledge.withdraw(error)
        return []

    def _withdraw(self, why: LegationError) -> list[Command]:
        self._trouble("this process has no identity", why)
        commands = self._enforcement.disconnect()
        self._acts_as, self._unstapled = "", None
        return [*commands, *_published(self.knowledge.withdraw(why))]

    # --- the agent's EnforcementService ----------------------------------------------------

    def _follow_enforcement(self) -> list[Command]:
        """See to it that the stream is there, under the identity that is in force."""
        view = self.knowledge.held
        acts_as = str(view.svid.spiffe_id) if view and view.svids else ""
        line = self._enforcement
        commands = line.disconnect() if line.open and acts_as != self._acts_as else []
        self._acts_as = acts_as
        if self._unimplemented or line.open or line.due is not None:
            return commands
        return [*commands, self._connect_enforcement()]

    def _enforcement_message(self, data: bytes) -> list[Command]:
        enforcement = self.knowledge.enforcement
        try:
            change = enforcement.accept(data, clock=self._clock)
        except LegationError as error:
            commands = self._enforcement.disconnect()
            return commands + self._lost(self._enforcement, str(error))
        if enforcement.current:
            self.knowledge.revocation_data = RevocationData.LIVE
        self.knowledge.check_staples()
        return [*_published(change), *self._waited(), *self._passed()]

    def _fall_back(self) -> list[Command]:
        """The agent is not ours. What ours may have said before stays refused."""
        self._enforcement.disconnect()
        self._unimplemented = True
        before = self.knowledge.revocation_data
        self.knowledge.revocation_data = RevocationData.LISTS
        if before is RevocationData.LISTS:
            return []
        return _published(frozenset({Aspect.REVOCATIONS}))

    def _show(self) -> list[Command]:
        view = self.knowledge.held
        if view is None or not view.svids:
            return []
        svid = view.svid
        shown = Shown(spiffe_id=str(svid.spiffe_id), serial=svid.serial, endpoint=self._endpoint)
        return self._send(self._reporting.in_force(shown)) if self._enforcement.open else []

    def _send(self, messages: list[bytes]) -> list[Command]:
        attempt = self._enforcement.attempt
        return [Send(attempt=attempt, data=data) for data in messages] if attempt else []

    # --- both -------------------------------------------------------------------------------

    def _line_of(self, attempt: int) -> Line | None:
        """Return the line whose open stream this is; None for one that was left."""
        lines = (self._identity, self._enforcement)
        return next((line for line in lines if line.open and line.attempt == attempt), None)

    def _connect_identity(self) -> Command:
        empty = (
            pb.X509SVIDRequest() if self._identity.feed is Feed.SVIDS else pb.X509BundlesRequest()
        )
        return self._identity.connect(empty.SerializeToString())

    def _connect_enforcement(self) -> Command:
        self.knowledge.enforcement.begin()
        return self._enforcement.connect(self._reporting.hello(self._acts_as))

    def _lost(self, line: Line, why: str) -> list[Command]:
        line.retry()
        error = Unavailable(
            f"no answer from the agent: {why}",
            remedy="is it running, and is this its socket?",
        )
        self._trouble(f"{line.feed} is tried again", error)
        if line is self._identity and self.knowledge.held is None:
            self.knowledge.withdraw(error)
        return []

    def _trouble(self, what: str, error: LegationError) -> None:
        # A process whose agent is away for an hour says so once.
        level = logging.DEBUG if str(error) == str(self.problem) else logging.WARNING
        _log.log(level, "%s: %s", what, error)
        self.problem = error

    def _passed(self) -> list[Command]:
        """Tell what the time alone has changed."""
        changed = set()
        stale = self.knowledge.refuses_as_stale
        if stale is not self._was_stale:
            self._was_stale = stale
            changed.add(Aspect.STALENESS)
        view = self.knowledge.held
        if (
            view
            and view.svids
            and view.svid.not_after <= self._clock.now()
            and view.svid.serial != self._expired
        ):
            self._expired = view.svid.serial
            changed.add(Aspect.IDENTITY)
        return _published(frozenset(changed))


def _published(change: Change) -> list[Command]:
    return [Publish(change=change)] if change else []
