"""When keys for JWT-SVIDs come and go: a pure function of their ages.

A key is published before it signs, and stays published until the last token that it has
signed is over. So every verifier that reads the bundle in time knows every key it meets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# Clocks of verifiers may be behind by this much when a token ends.
SLACK = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTiming:
    """What the operator has chosen.

    Attributes:
        lifetime: how long a key signs before the next one takes over.
        published_ahead: how long before it signs a key is in the bundle.
        longest_token: the longest lifetime of a token.
    """

    lifetime: timedelta
    published_ahead: timedelta
    longest_token: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedKey:
    """A key in the bundle.

    Attributes:
        created_at: when it was published.
        known: whether every connected agent has acknowledged it.
        last_signed: a moment after which it has signed nothing.
    """

    id: str
    created_at: datetime
    known: bool
    last_signed: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """What is to be done.

    Attributes:
        signing: which key signs now; None only when there is none at all.
        create: whether a new one is due.
        remove: which ones nobody needs any more.
        next_look: when the answer may change by time alone.
    """

    signing: str | None
    create: bool
    remove: tuple[str, ...]
    next_look: datetime


def plan(keys: Sequence[PublishedKey], *, now: datetime, timing: KeyTiming) -> KeyPlan:
    """Say which key signs at `now`, and which come and go.

    Args:
        keys: those in the bundle, the oldest first.
        now: the moment.
        timing: what the operator has chosen.
    """
    if not keys:
        return KeyPlan(signing=None, create=True, remove=(), next_look=now)
    ready = [
        place
        for place, key in enumerate(keys)
        if key.known and key.created_at + timing.published_ahead <= now
    ]
    # The very first key has no predecessor to wait behind. A key that some agent does not
    # know yet leaves the older one in office: tokens that nobody can check help nobody.
    current = ready[-1] if ready else 0
    newest = keys[-1]
    due = newest.created_at + timing.lifetime
    ends = {key.id: key.last_signed + timing.longest_token + SLACK for key in keys[:current]}
    moments = [due, *ends.values(), *(key.created_at + timing.published_ahead for key in keys)]
    return KeyPlan(
        signing=keys[current].id,
        create=due <= now,
        remove=tuple(name for name, end in ends.items() if end <= now),
        next_look=min((moment for moment in moments if moment > now), default=now + SLACK),
    )
