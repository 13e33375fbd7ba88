"""The kinds of value that a configuration holds: addresses, durations, names, log settings."""

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from legation.errors import LegationError
from legation.pki.spiffe_id import TrustDomain

_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhdw])+\Z", re.ASCII)
_PART = re.compile(r"([0-9]+)([smhdw])", re.ASCII)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z",
    re.ASCII,
)
MAX_DURATION = timedelta(days=36500)


class Section(BaseModel):
    """A table of the configuration: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host and a port; an IPv6 host is written in brackets, ``[::1]:8443``."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port``.

        Raises:
            ValueError: not an address.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
            raise ValueError('not an address; write "host:port"')
        if int(port) > 65535:
            raise ValueError("a port is at most 65535")
        if host.startswith("[") and host.endswith("]"):
            return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        if len(host) > 253 or not _HOST.match(host):
            raise ValueError('not a host; write "host:port", an IPv6 host in brackets')
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_duration(text: object) -> timedelta:
    """Read ``"90s"``, ``"1h30m"``, ``"30d"`` or a whole number of seconds.

    Raises:
        ValueError: not a duration, zero, or longer than a century.
    """
    if isinstance(text, timedelta):
        duration = text
    elif isinstance(text, int) and not isinstance(text, bool):
        if not 0 <= text <= MAX_DURATION.total_seconds():
            raise ValueError("a duration is positive and at most 36500d")
        duration = timedelta(seconds=text)
    elif isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 12:
        return parse_duration(int(text))
    elif isinstance(text, str) and len(text) <= 64 and _DURATION.match(text):
        seconds = sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
        return parse_duration(seconds)
    else:
        raise ValueError('not a duration; write "90s", "1h30m", "30d" or a number of seconds')
    if not timedelta(0) < duration <= MAX_DURATION:
        raise ValueError("a duration is positive and at most 36500d")
    return duration


def render_duration(duration: timedelta) -> str:
    """Render in the units that `parse_duration` reads: ``"1h30m"``."""
    rest = int(duration.total_seconds())
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError('not an address; write "host:port"')  # noqa: TRY004 - pydantic's protocol
    return Address.parse(value)


def _remote(address: Address) -> Address:
    if not address.port:
        raise ValueError("the port of a server is not 0")
    return address


def _trust_domain(value: object) -> TrustDomain:
    if isinstance(value, TrustDomain):
        return value
    if not isinstance(value, str):
        raise ValueError("not a trust domain name")  # noqa: TRY004 - pydantic's protocol
    try:
        return TrustDomain.parse(value)
    except LegationError as error:
        raise ValueError(str(error)) from None


def _server_name(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if len(text) <= 253 and _HOST.match(text):
            return text.lower()
    raise ValueError("not a DNS name or an IP address")


_ADDRESS_SCHEMA = {"type": "string", "pattern": r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"}

ListenAddress = Annotated[
    Address,
    BeforeValidator(_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(_ADDRESS_SCHEMA),
]
ServerAddress = Annotated[
    Address,
    BeforeValidator(_address),
    AfterValidator(_remote),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(_ADDRESS_SCHEMA),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(render_duration, return_type=str),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^([0-9]{1,9}[smhdw])+$", "minimum": 1}
    ),
]


def _duration_or_none(value: object) -> timedelta:
    nothing = value in {0, "0", "0s"} and not isinstance(value, bool)
    return timedelta() if nothing or value == timedelta() else parse_duration(value)


# A duration that may be nothing at all, written "0s" or 0.
DurationOrNone = Annotated[
    timedelta,
    BeforeValidator(_duration_or_none),
    PlainSerializer(render_duration, return_type=str),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^([0-9]{1,9}[smhdw])+$", "minimum": 0}
    ),
]
TrustDomainName = Annotated[
    TrustDomain,
    BeforeValidator(_trust_domain),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[a-z0-9._-]{1,255}$"}),
]
ServerName = Annotated[str, AfterValidator(_server_name)]
CredentialName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$")]
FilePath = Annotated[Path, Field(min_length=1)]


class LogLevel(StrEnum):
    """The least severe message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


class Log(Section):
    """Logging, to standard error."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT
