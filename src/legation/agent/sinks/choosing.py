"""Decisions about a delivery that need nothing but their arguments."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from legation.agent.identities.proof import still_proved
from legation.agent.model import WorkloadIdentity
from legation.agent.sinks.model import Generation
from legation.config.sinks import Sink
from legation.errors import Conflict, LegationError, NotFound
from legation.pki import SpiffeID, TrustBundle
from legation.wire.feed import FeedState


def one_identity(sink: Sink, found: Iterable[WorkloadIdentity]) -> WorkloadIdentity:
    """Return the identity that goes to `sink`.

    Args:
        sink: where to.
        found: identities whose selectors the sink shows.

    Raises:
        NotFound: there is none.
        Conflict: there are several, and the sink does not say which.
    """
    fitting = [one for one in found if sink.spiffe_id in {None, one.spiffe_id}]
    if not fitting:
        raise NotFound(
            "no identity is issued to this sink",
            remedy=f"it needs an entry with the selector sink:name:{sink.name}, and no ban",
        )
    if len(fitting) > 1:
        names = ", ".join(one.spiffe_id for one in fitting[:3])
        raise Conflict(f"several identities fit: {names}", remedy="set the sink's spiffe_id")
    return fitting[0]


def to_deliver(
    issued: WorkloadIdentity,
    held: WorkloadIdentity | None,
    refused: Mapping[int, datetime],
    *,
    at: datetime,
) -> WorkloadIdentity | None:
    """Return the identity to deliver: what was issued, or, while that fails, what is in force.

    A certificate that a server does not take must not hold up its revocation lists.

    Args:
        issued: the current one.
        held: the one that the files in force were made of.
        refused: serial numbers that failed, and when they may be tried again.
        at: now.
    """
    for identity in (issued, held):
        if identity is None or identity.not_after <= at:
            continue
        if refused.get(identity.serial, at) <= at:
            return identity
    return None


def still_valid(
    previous: Generation,
    held: WorkloadIdentity | None,
    *,
    spiffe_id: str,
    state: FeedState,
    bundle: TrustBundle,
    at: datetime,
) -> bool:
    """Tell whether `previous` may be put in force again.

    Args:
        previous: what would be.
        held: what it was made of, where that is still known.
        spiffe_id: whose files these are to be.
        state: says what is revoked.
        bundle: the current one.
        at: now.
    """
    if previous.not_after <= at or previous.spiffe_id != spiffe_id:
        return False
    if state.refusal(serial=previous.serial, spiffe_id=spiffe_id) is not None:
        return False
    if held is None or held.serial != previous.serial:
        return True
    try:
        still_proved(held.chain, expected=SpiffeID.parse(spiffe_id), bundle=bundle, at=at)
    except LegationError:
        return False
    return True
