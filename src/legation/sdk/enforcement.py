"""What the agent says has to be refused: the fold of the messages of its EnforcementService.

Pure: messages in, answers out. One thread writes, any number of others ask.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.message import DecodeError

from legation.causes import Cause
from legation.clock import Clock
from legation.errors import InvalidInput, LegationError, LimitExceeded
from legation.pki.spiffe_id import SpiffeID
from legation.policy import AuthorizationPolicy, Decision, PolicyMatcher, Request
from legation.sdk.model import Aspect, Change
from legation.sdk.serial_set import SerialSet
from legation.sdk.staples import Staples
from legation.wire.canonical import parse_json
from legation.wire.protobuf import enforcement_pb2 as pb

MAX_POLICIES = 10_000
MAX_POLICY_BYTES = 2 << 20
NOTHING: Change = frozenset()
_MAX_BOUND_MS = 10 * 365 * 86_400_000
_MAX_NAME = 63
_NOT_UNDERSTOOD = "policies not understood, so every request is denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """Until when revocation data may be believed.

    Attributes:
        as_of: when the authority last vouched for it; None while nothing bounds it.
        bound: how much older it may become.
        refuse: whether new peers are refused afterwards.
        policy: the staleness policy that says so; empty where the revocation lists do.
        ends_at: where a policy says so, when it ends by the process's monotonic clock, in
            seconds: nobody can set that one.
    """

    as_of: datetime | None = None
    bound: timedelta = timedelta()
    refuse: bool = True
    policy: str = ""
    ends_at: float | None = None

    def left_s(self, clock: Clock) -> float | None:
        """Return for how many seconds the data is fresh, below 0 when stale, or None."""
        if self.ends_at is not None:
            return self.ends_at - clock.monotonic()
        if self.as_of is None:
            return None
        return (self.as_of + self.bound - clock.now()).total_seconds()

    def is_stale(self, clock: Clock) -> bool:
        """Tell whether the data is older than it may be."""
        left = self.left_s(clock)
        return left is not None and left < 0


class Enforcement:
    """Revoked serials, bans, policies and freshness at one revision of the feed.

    Attributes:
        current: whether the open stream has brought a snapshot in full.
        revision: of the feed; everything up to it is known.
        acted_on: the newest revision that changed what is refused or allowed.
        freshness: until when all of this may be believed.
        notes: what a person should know.
        staples: what this process may staple to its certificates.
    """

    def __init__(self) -> None:
        self.current = False
        self.revision = 0
        self.acted_on = 0
        self.freshness = Freshness()
        self.notes: tuple[str, ...] = ()
        self.staples = Staples()
        self._revoked = SerialSet()
        self._banned: set[str] = set()
        self._matcher = PolicyMatcher([])
        self._documents: tuple[bytes, ...] = ()
        self._staged: tuple[SerialSet, set[str]] | None = None
        self._staged_documents: list[bytes] | None = None
        self._changed: set[Aspect] = set()

    @property
    def revoked_count(self) -> int:
        """How many serial numbers are revoked."""
        return len(self._revoked)

    def refusal(self, serial: int, spiffe_id: SpiffeID) -> Cause | None:
        """Return why a peer is refused, its staleness aside, or None."""
        if serial in self._revoked:
            return Cause.CERTIFICATE_REVOKED
        if self._banned and str(spiffe_id) in self._banned:
            return Cause.IDENTITY_BANNED
        return None

    def decide(self, request: Request) -> Decision:
        """Decide by the policies in force."""
        return self._matcher.decide(request)

    def begin(self) -> None:
        """Expect a snapshot from a new stream. What is known stays in force until then."""
        self._staged = self._staged_documents = None
        self.current = False

    def accept(self, data: bytes, *, clock: Clock) -> Change:
        """Fold one message that has just come; return what has changed for those who ask.

        Raises:
            InvalidInput: not such a message, or one out of order. What was known still is.
        """
        try:
            message = pb.FollowResponse.FromString(data)
        except DecodeError:
            raise InvalidInput("the agent sent something else than a FollowResponse") from None
        match message.WhichOneof("message"):
            case "changes":
                return self._changes(message.changes)
            case "policies":
                return self._policies(message.policies)
            case "freshness":
                return self._fresh(message.freshness, clock)
            case "staple":
                self.staples.receive(message.staple.serial, message.staple.response)
                return NOTHING
            case _:  # made by a newer agent
                return NOTHING

    def _changes(self, part: pb.Changes) -> Change:
        if part.snapshot:
            self._staged = SerialSet(), set()
        elif self._staged is None and not self.current:
            raise InvalidInput("the agent sent changes before a snapshot")
        if self._fold(part, *(self._staged or (self._revoked, self._banned))):
            self._changed.add(Aspect.REVOCATIONS)
        if not part.complete:
            return NOTHING
        if self._staged is not None:
            self._revoked, self._banned = self._staged
            self._staged = None
            # Lists may have counted until now.
            self._changed.add(Aspect.REVOCATIONS)
        self.current = True
        self.revision = part.revision
        if self._changed:
            self.acted_on = part.revision
        changed, self._changed = frozenset(self._changed), set()
        return changed

    @staticmethod
    def _fold(part: pb.Changes, revoked: SerialSet, banned: set[str]) -> bool:
        changed = [
            revoked.add(part.revoked),
            revoked.add_long(part.revoked_long),
            revoked.discard(part.forgotten),
            revoked.discard_long(part.forgotten_long),
            not banned.issuperset(part.banned),
            not banned.isdisjoint(part.unbanned),
        ]
        banned.update(part.banned)
        banned.difference_update(part.unbanned)
        return any(changed)

    def _policies(self, part: pb.Policies) -> Change:
        if part.first:
            self._staged_documents = []
        staged = self._staged_documents
        if staged is None:
            raise InvalidInput("the agent sent a part of policies that never began")
        staged.extend(part.documents)
        if len(staged) > MAX_POLICIES:
            raise LimitExceeded(f"more than {MAX_POLICIES} policies for one process")
        if not part.last:
            return NOTHING
        documents, self._staged_documents = tuple(staged), None
        if documents == self._documents:
            return NOTHING
        self._documents = documents
        try:
            self._matcher = _matcher(documents)
            self.notes = ()
        except LegationError:
            # Nobody can say what a policy that we cannot read would have denied.
            self._matcher, self.notes = PolicyMatcher([]), (_NOT_UNDERSTOOD,)
        # Told with the part that completes the revision, so that readers see both.
        self._changed.add(Aspect.POLICIES)
        return NOTHING

    def _fresh(self, message: pb.Freshness, clock: Clock) -> Change:
        try:
            as_of = datetime.fromtimestamp(message.as_of_ms / 1000, UTC)
            bound = _milliseconds(message.bound_ms)
            _ = as_of + bound
        except (ValueError, OverflowError, OSError):
            raise InvalidInput("the agent sent a moment that is none") from None
        self.freshness = Freshness(
            as_of=as_of if message.as_of_ms else None,
            bound=bound,
            # An action that this version does not know is taken for the stricter one.
            refuse=message.action != pb.Freshness.CONTINUE,
            policy=message.policy[:_MAX_NAME],
            ends_at=(
                clock.monotonic() + (bound - _milliseconds(message.age_ms)).total_seconds()
                if message.HasField("age_ms")
                else None
            ),
        )
        return NOTHING


def _milliseconds(count: int) -> timedelta:
    return timedelta(milliseconds=min(count, _MAX_BOUND_MS))


def _matcher(documents: Iterable[bytes]) -> PolicyMatcher:
    return PolicyMatcher(
        AuthorizationPolicy.from_document(parse_json(document, limit=MAX_POLICY_BYTES))
        for document in documents
    )
