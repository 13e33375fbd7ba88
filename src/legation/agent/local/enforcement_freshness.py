"""Until when the processes of this node may believe what they are told."""

from datetime import datetime, timedelta

from legation.agent.freshness import NodeFreshness
from legation.policy import StalenessPolicy, Then
from legation.wire.feed import FeedState
from legation.wire.protobuf import enforcement_pb2 as pb


def freshness_message(
    state: FeedState, node: NodeFreshness | None, spiffe_id: str, *, at: datetime
) -> tuple[object, bytes]:
    """Return the message for the processes that act under `spiffe_id`, and its occasion.

    While the occasion is the same, nobody needs to be told anew.
    """
    policy = None if node is None else node.policy_of(spiffe_id)
    if node is None or policy is None:
        message = _of_lists(state)
        return message, message
    return node.vouched(spiffe_id), _of_policy(policy, age_s=node.age_s, at=at)


def _of_lists(state: FeedState) -> bytes:
    """Say that all of this may be believed as long as the newest revocation list.

    The feed is one ordered log. Who has a list has everything that was revoked before it was
    signed, so the newest one vouches for all issuers. See docs/decisions/staleness.md.
    """
    newest = max(state.crls.values(), key=lambda crl: crl.next_update, default=None)
    freshness = pb.Freshness()
    if newest is not None:
        freshness.as_of_ms = _milliseconds(newest.this_update)
        bound = newest.next_update - newest.this_update
        freshness.bound_ms = round(bound.total_seconds() * 1000)
    return _message(freshness)


def _of_policy(policy: StalenessPolicy, *, age_s: float, at: datetime) -> bytes:
    return _message(
        pb.Freshness(
            as_of_ms=_milliseconds(at - timedelta(seconds=age_s)),
            bound_ms=policy.bound_s * 1000,
            action=pb.Freshness.REFUSE if policy.then is Then.REFUSE else pb.Freshness.CONTINUE,
            age_ms=round(age_s * 1000),
            policy=policy.name,
        )
    )


def _message(freshness: pb.Freshness) -> bytes:
    return bytes(pb.FollowResponse(freshness=freshness).SerializeToString())


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
