"""Messages of the agent's EnforcementService, as a trust domain in memory sends them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from legation.pki import SpiffeID
from legation.policy import AuthorizationPolicy
from legation.sdk.serial_set import LONG_WIDTH, WIDTH
from legation.wire.canonical import canonical_json
from legation.wire.protobuf import enforcement_pb2 as pb

Make = Callable[[int], Iterable[pb.FollowResponse]]
"""Makes the messages of one revision."""


def snapshot(
    revision: int, *, revoked: Collection[int], banned: Collection[SpiffeID]
) -> pb.FollowResponse:
    """Return everything that is refused."""
    message = changes(revision, revoked=revoked, banned=banned)
    message.changes.snapshot = True
    return message


def changes(
    revision: int,
    *,
    revoked: Collection[int] = (),
    banned: Collection[SpiffeID] = (),
    unbanned: Collection[SpiffeID] = (),
) -> pb.FollowResponse:
    """Return what is refused, or no more, since the revision before."""
    short = [serial for serial in revoked if serial < 1 << (8 * WIDTH)]
    long = [serial for serial in revoked if serial >= 1 << (8 * WIDTH)]
    return pb.FollowResponse(
        changes=pb.Changes(
            complete=True,
            revision=revision,
            revoked=b"".join(serial.to_bytes(WIDTH) for serial in short),
            revoked_long=b"".join(serial.to_bytes(LONG_WIDTH) for serial in long),
            banned=sorted(map(str, banned)),
            unbanned=sorted(map(str, unbanned)),
        )
    )


def policies(in_force: Sequence[AuthorizationPolicy]) -> list[pb.FollowResponse]:
    """Return every policy of one identity."""
    documents = [canonical_json(policy.to_document()) for policy in in_force]
    return [pb.FollowResponse(policies=pb.Policies(first=True, last=True, documents=documents))]


def freshness(
    as_of: datetime | None, *, bound: timedelta = timedelta(), refuse: bool = True
) -> pb.FollowResponse:
    """Return until when the revocation data may be believed; None for always."""
    action = pb.Freshness.REFUSE if refuse else pb.Freshness.CONTINUE
    return pb.FollowResponse(
        freshness=pb.Freshness(
            as_of_ms=0 if as_of is None else int(as_of.timestamp() * 1000),
            bound_ms=int(bound.total_seconds() * 1000),
            action=action,
        )
    )
