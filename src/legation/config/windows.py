"""Windows of time, every week or once, in UTC: as configured, and as spans."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Protocol

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput

_WEEK = timedelta(days=7)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKLY = re.compile(r"([A-Za-z]{3}) ([01][0-9]|2[0-3]):([0-5][0-9])\Z", re.ASCII)
_REMEDY = 'write "Fri 16:00/Mon 08:00" or "2030-12-20T00:00:00Z/2031-01-04T00:00:00Z", in UTC'


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time; its end is no longer part of it."""

    begin: datetime
    end: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.begin <= moment < self.end


class Windows(Protocol):
    """One or many windows."""

    def windows(self, begin: datetime, end: datetime) -> Iterable[Window]:
        """Return at least the windows that touch the time from `begin` to `end`."""
        ...


@dataclass(frozen=True, slots=True)
class OnceWindow:
    """A window that comes once."""

    begin: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{to_rfc3339(self.begin)}/{to_rfc3339(self.end)}"

    def windows(self, begin: datetime, end: datetime) -> Iterable[Window]:
        """Return it if it touches that time."""
        return (Window(self.begin, self.end),) if self.begin <= end and begin < self.end else ()


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """A window that comes every week; both ends are counted from Monday, 00:00 UTC."""

    begin: timedelta
    end: timedelta

    def __str__(self) -> str:
        return f"{_named(self.begin)}/{_named(self.end)}"

    def windows(self, begin: datetime, end: datetime) -> Iterator[Window]:
        """Yield those of the weeks that this time touches, and of the week before."""
        length = (self.end - self.begin) % _WEEK
        day = begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start = day - timedelta(days=day.weekday()) - _WEEK + self.begin
        while start <= end:
            yield Window(start, start + length)
            start += _WEEK


def parse_windows(text: str) -> Windows:
    """Read ``"Fri 16:00/Mon 08:00"``, every week, or ``"<RFC 3339>/<RFC 3339>"``, once.

    Raises:
        InvalidInput: neither, or a window that has no length.
    """
    first, slash, second = (part.strip() for part in text.partition("/"))
    begin, end = _WEEKLY.match(first), _WEEKLY.match(second)
    if begin and end:
        weekly = WeeklyWindow(_place(begin), _place(end))
        if weekly.begin == weekly.end:
            raise InvalidInput(f"{text[:80]!a} has no length", remedy=_REMEDY)
        return weekly
    try:
        if not slash:
            raise ValueError
        once = OnceWindow(from_rfc3339(first), from_rfc3339(second))
    except ValueError:
        raise InvalidInput(f"{text[:80]!a} is not a window of time", remedy=_REMEDY) from None
    if once.begin >= once.end:
        raise InvalidInput(f"{text[:80]!a} ends before it begins", remedy=_REMEDY)
    return once


def _place(match: re.Match[str]) -> timedelta:
    day = match[1].lower()
    if day not in _DAYS:
        raise InvalidInput(f"{match[1]!a} is not a day of the week", remedy=_REMEDY)
    return timedelta(days=_DAYS.index(day), hours=int(match[2]), minutes=int(match[3]))


def _named(place: timedelta) -> str:
    minutes = place.seconds // 60
    return f"{_DAYS[place.days].capitalize()} {minutes // 60:02}:{minutes % 60:02}"


def _configured(value: object) -> Windows:
    if isinstance(value, OnceWindow | WeeklyWindow):
        return value
    if not isinstance(value, str):
        raise ValueError("not a window of time")  # noqa: TRY004 - pydantic's protocol
    try:
        return parse_windows(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


FreezeWindow = Annotated[
    OnceWindow | WeeklyWindow,
    BeforeValidator(_configured),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 128}),
]
