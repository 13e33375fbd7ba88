"""How an enforcement point stands: up to date, late, out of reach, or gone."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from legation.pki.spiffe_id import SpiffeID
from legation.policy import Bound, Freshness


class PointRecord(NamedTuple):
    """One enforcement point as its agent last stated it.

    A tuple, for a thousand are made while a revocation spreads.
    """

    agent: SpiffeID
    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: datetime | None  # the agent's clock
    received_at: datetime  # the authority's clock
    reached_at: datetime  # the same clock, when it was first stated to have this revision
    capabilities: tuple[str, ...]
    notes: tuple[str, ...]
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFreshness:
    """How one point stands to its bound.

    Attributes:
        state: in one word.
        bound: what governs it.
        age_s: seconds since it may have missed something.
        left_s: seconds until the bound; 0 past it.
    """

    state: Freshness
    bound: Bound
    age_s: float
    left_s: float


class Standing(StrEnum):
    """What can be said of a point, and whom to look at."""

    CONNECTED = "connected"  # up to date, or not long enough behind to mean anything
    LATE = "late"  # its agent is there, and it does not follow: look at the point
    UNREACHABLE = "unreachable"  # its agent is not there: look at the node
    LEFT = "left"  # its agent has stated that it is no more, or is gone for good


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStanding:
    """One enforcement point, and how it stands.

    Attributes:
        point: as its agent last stated it.
        standing: in one word.
        lag: revisions that it lacks; 0 for one that has left.
        lag_s: seconds since the first of them was committed, or since the authority began, if
            that is later.
        last_contact: when its agent was last heard of.
        left_at: when its agent no longer named it, or was gone for good; None before.
        freshness: how it stands to what its data may age; None for an agent itself, and for
            one that has left.
    """

    point: PointRecord
    standing: Standing
    lag: int
    lag_s: float
    last_contact: datetime | None
    left_at: datetime | None = None
    freshness: PointFreshness | None = None
