"""When to renew, when to try again, when to reconnect.

Pure functions of validity, now, failures and a random share: the caller draws the share,
so that every case can be tested and a fleet of agents never acts in step.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from legation.agent.identities.freeze import Settled
from legation.config.windows import Windows

RENEW_AT_REMAINING = 1 / 3
# How much earlier than necessary a renewal may start, as a share of the time until then.
# Agents that were enrolled by one script hold certificates of one minute; this spreads them.
SPREAD = 1 / 10
# The longest pause after a failed renewal, as a share of the lifetime.
LONGEST_RETRY = 1 / 10
FIRST_RETRY_S = 1.0
# The shortest pause after a success, as a share of the lifetime. By a clock that is wrong, a
# certificate may be due for renewal when it arrives, and the next one, and so on.
SHORTEST_PAUSE = 1 / 20

FIRST_RECONNECT_S = 0.25
LONGEST_RECONNECT_S = 30.0
# How long overdue renewals may wait for each other once the authority answers again.
RESUME_WINDOW_S = 10.0

# Doubling beyond this changes nothing, and 2.0**1100 is not a float.
_MAX_DOUBLINGS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalTiming:
    """When renewals start.

    Attributes:
        renew_at_remaining: share of the lifetime that is left then.
        spread: how much earlier it may be, at random, as a share of the time until then.
        freezes: windows in which nothing starts that can wait.
    """

    renew_at_remaining: float = RENEW_AT_REMAINING
    spread: float = SPREAD
    freezes: tuple[Windows, ...] = ()


DEFAULT_TIMING = RenewalTiming()


def next_renewal(
    not_before: datetime,
    not_after: datetime,
    *,
    now: datetime,
    failures: int = 0,
    jitter: float,
    renew_at_remaining: float = RENEW_AT_REMAINING,
    spread: float = SPREAD,
) -> datetime:
    """Return the moment of the next attempt to renew a certificate.

    Without failures that is when `renew_at_remaining` of the lifetime is left, or earlier by
    up to `spread` of the time until then. After failures it is an exponential back-off with full
    jitter, never longer than a tenth of the lifetime. It is never before `now`, and never
    after the expiry while the certificate still lives.

    Args:
        not_before: start of the validity.
        not_after: end of the validity.
        now: the current time.
        failures: attempts that failed since the last success.
        jitter: a random number in [0, 1), drawn once for each certificate or failure.
        renew_at_remaining: share of the lifetime that is left when renewal starts.
        spread: see `RenewalTiming`.
    """
    lifetime = max(not_after - not_before, timedelta())
    if failures:
        longest = lifetime.total_seconds() * LONGEST_RETRY
        moment = now + timedelta(
            seconds=_full_jitter(failures, jitter, first_s=FIRST_RETRY_S, longest_s=longest)
        )
    else:
        moment = not_before + lifetime * ((1 - renew_at_remaining) * (1 - spread * jitter))
    if now < not_after:
        moment = min(moment, not_after)
    return max(moment, now)


def plan_renewal(
    not_before: datetime,
    not_after: datetime,
    *,
    now: datetime,
    failures: int = 0,
    jitter: float,
    timing: RenewalTiming = DEFAULT_TIMING,
) -> Settled:
    """Return the next attempt as `next_renewal` has it, moved around the freeze windows.

    After a success it is `SHORTEST_PAUSE` away at least, unless the expiry is nearer.
    """
    due = next_renewal(
        not_before,
        not_after,
        now=now,
        failures=failures,
        jitter=jitter,
        renew_at_remaining=timing.renew_at_remaining,
        spread=timing.spread,
    )
    if not failures:
        pause = max(not_after - not_before, timedelta()) * SHORTEST_PAUSE
        due = max(due, min(now + pause, not_after))
    return Settled.around(
        due, now=now, validity=(not_before, not_after), freezes=timing.freezes, jitter=jitter
    )


def reconnect_delay_s(failures: int, *, jitter: float) -> float:
    """Return the seconds to wait before connecting again after `failures` failed attempts.

    The first is short, so that a restarted authority has its agents back within a quarter
    of a second; the longest is half a minute, so that a dead one is not hammered.
    """
    return _full_jitter(failures, jitter, first_s=FIRST_RECONNECT_S, longest_s=LONGEST_RECONNECT_S)


def resume_delay_s(not_after: datetime, *, now: datetime, jitter: float) -> float:
    """Return the seconds an overdue renewal waits once the authority answers again.

    After an outage everything is due at once. What has expired goes first; the rest
    spreads over a tenth of what it has left, at most `RESUME_WINDOW_S`.
    """
    remaining = max((not_after - now).total_seconds(), 0.0)
    return min(remaining / 10, RESUME_WINDOW_S) * jitter


def _full_jitter(failures: int, jitter: float, *, first_s: float, longest_s: float) -> float:
    doublings = min(max(failures - 1, 0), _MAX_DOUBLINGS)
    return min(first_s * 2.0**doublings, longest_s) * jitter
