"""Moments as certificates and lists write them (RFC 5280, section 4.1.2.5)."""

from datetime import UTC, datetime

from legation.errors import InvalidInput

_FIRST_YEAR = 1950  # the first that UTCTime has, and `cryptography` writes


def whole_seconds(moment: datetime, name: str) -> datetime:
    """Return `moment` in UTC without fractions of a second.

    Raises:
        InvalidInput: it has no time zone, or lies before 1950.
    """
    if moment.tzinfo is None:
        raise InvalidInput(f"{name} needs a time zone")
    if moment.year <= _FIRST_YEAR:
        raise InvalidInput(f"{name} lies before {_FIRST_YEAR + 1}")
    return moment.astimezone(UTC).replace(microsecond=0)
