"""What the authority takes for misuse."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from legation.config.values import Duration, DurationOrNone, Section


class Misuse(Section):
    """Misuse signals, raised from what enforcement points saw of peers.

    Attributes:
        enabled: whether signals are raised.
        learning: how long a node is watched before a network that its certificates are used from
            counts as new, and before its rates count as odd.
        settle: how long a new network may stay unexplained before there is a signal.
        window: how far apart two places may be seen and still be used at once.
        replaced_grace: how long a certificate may still be presented after its successor is in
            force everywhere on its node.
        revoked_grace: how long a revoked one may, until everybody has heard of it.
        rate_factor: how many times as many connections as ever before are odd.
        rate_floor: connections a minute, by one process, that are never odd.
        ipv4_prefix: length of the prefix that makes IPv4 addresses one place.
        ipv6_prefix: likewise of IPv6 addresses.
        loopback_is_one_place: whether loopback addresses are all the node itself.
        max_certificates: how many are remembered, a kilobyte each; those that were not seen for
            longest make room.
        keep: how long a signal stays on record after it was seen last.
    """

    enabled: bool = True
    learning: DurationOrNone = timedelta(hours=24)
    settle: DurationOrNone = timedelta(minutes=5)
    window: Duration = timedelta(minutes=5)
    replaced_grace: DurationOrNone = timedelta(minutes=10)
    revoked_grace: DurationOrNone = timedelta(seconds=30)
    rate_factor: Annotated[float, Field(ge=2, le=10_000, allow_inf_nan=False)] = 20.0
    rate_floor: Annotated[int, Field(ge=1, le=10_000_000)] = 600
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = 24
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    loopback_is_one_place: bool = True
    max_certificates: Annotated[int, Field(ge=1000, le=10_000_000)] = 100_000
    keep: Duration = timedelta(days=90)
