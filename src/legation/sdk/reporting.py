"""What a process tells its agent: who it is, what it has in force, whom it has refused."""

from collections import Counter
from dataclasses import dataclass, replace

import legation
from legation.sdk.model import Refusal
from legation.wire.protobuf import enforcement_pb2 as pb

REPORT_EVERY_S = 1.0
_MAX_CASES = 1000
_MAX_TEXT = 300
_MAX_SPIFFE_ID = 2048
_MAX_NOTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What this process has in force.

    Attributes:
        revision: of the feed, open connections included.
        capabilities: what it can do, for example ``cuts-connections``.
        notes: what a person should know.
    """

    revision: int = 0
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The certificate that this process shows to its peers."""

    spiffe_id: str
    serial: int
    endpoint: str = ""


class Reporting:
    """Makes the messages for the agent, each once.

    Args:
        name: of this program, for people.

    Attributes:
        report_at: when collected refusals are to be sent, in monotonic seconds, or None.
    """

    def __init__(self, name: str) -> None:
        self.report_at: float | None = None
        self._name = name[:_MAX_TEXT]
        self._statement: Statement | None = None
        self._shown: Shown | None = None
        self._refusals: Counter[Refusal] = Counter()

    def hello(self, spiffe_id: str) -> bytes:
        """Return the first message of a stream; everything has to be told anew on it."""
        self._statement = self._shown = None
        hello = pb.Hello(
            kind="sdk", name=self._name, version=legation.__version__, spiffe_id=spiffe_id
        )
        return bytes(pb.FollowRequest(hello=hello).SerializeToString())

    def applied(self, statement: Statement) -> list[bytes]:
        """Return the message for a statement that has not been made yet."""
        if statement == self._statement:
            return []
        self._statement = statement
        applied = pb.Applied(
            revision=statement.revision,
            capabilities=[text[:_MAX_TEXT] for text in statement.capabilities[:_MAX_NOTES]],
            notes=[text[:_MAX_TEXT] for text in statement.notes[:_MAX_NOTES]],
        )
        return [pb.FollowRequest(applied=applied).SerializeToString()]

    def in_force(self, shown: Shown) -> list[bytes]:
        """Return the message for a certificate that has not been named yet."""
        if shown == self._shown:
            return []
        self._shown = shown
        in_force = pb.InForce(
            spiffe_id=shown.spiffe_id,
            serial=format(shown.serial, "x"),
            endpoint=shown.endpoint[:_MAX_TEXT],
        )
        return [pb.FollowRequest(in_force=in_force).SerializeToString()]

    def refused(self, refusal: Refusal, *, now: float) -> None:
        """Count a refusal; distinct cases are bounded, the rest share one row for each cause."""
        case = replace(
            refusal, count=1, raw=refusal.raw[:_MAX_TEXT], peer=refusal.peer[:_MAX_SPIFFE_ID]
        )
        if case not in self._refusals and len(self._refusals) >= _MAX_CASES:
            case = Refusal(cause=refusal.cause)
        self._refusals[case] += max(1, refusal.count)
        if self.report_at is None:
            self.report_at = now + REPORT_EVERY_S

    def refusals(self) -> list[bytes]:
        """Return the message with what was counted, and count anew."""
        counted, self._refusals, self.report_at = self._refusals, Counter(), None
        if not counted:
            return []
        refusals = [
            pb.Refusal(
                cause=case.cause,
                peer=case.peer,
                serial="" if case.serial is None else format(case.serial, "x"),
                raw=case.raw,
                count=count,
            )
            for case, count in counted.items()
        ]
        return [pb.FollowRequest(refusals=pb.Refusals(refusals=refusals)).SerializeToString()]
