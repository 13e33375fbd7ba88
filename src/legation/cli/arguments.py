"""Kinds of command-line values that several commands take."""

import sys
from pathlib import Path
from typing import Any

import click

from legation.errors import InvalidInput, LegationError, NotFound

AGENT_PREFIX = "/legation/agent/"
MAX_STDIN = 4 << 20


class DurationType(click.ParamType[int]):
    """``90s``, ``1h30m``, ``30d`` or a number of seconds; becomes whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one duration."""
        from legation.config.values import parse_duration

        if isinstance(value, int):
            return value
        try:
            return int(parse_duration(value).total_seconds())
        except ValueError as error:
            self.fail(f"{value!r} is {error}", param, ctx)


class SpiffeIDType(click.ParamType[str]):
    """A SPIFFE ID; stays text."""

    name = "spiffe-id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check one SPIFFE ID."""
        from legation.pki.spiffe_id import SpiffeID

        try:
            return str(SpiffeID.parse(value))
        except LegationError as error:
            self.fail(str(error), param, ctx)


class SerialType(click.ParamType[str]):
    """A serial number in hexadecimal, with or without colons; becomes lower-case digits."""

    name = "serial"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check one serial number."""
        digits = str(value).lower().replace(":", "").removeprefix("0x")
        # RFC 5280, section 4.1.2.2: at most 20 octets, positive.
        if not 1 <= len(digits) <= 40 or set(digits) - set("0123456789abcdef"):
            self.fail(f"{value!r} is not a serial number in hexadecimal", param, ctx)
        return digits.lstrip("0") or "0"


class MomentType(click.ParamType[Any]):
    """A moment in RFC 3339; becomes an aware datetime."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one moment."""
        from legation.clock import from_rfc3339

        try:
            return from_rfc3339(value)
        except ValueError:
            self.fail(f"{value!r} is not a time like 2026-01-31T12:00:00Z", param, ctx)


DURATION = DurationType()
SPIFFE_ID = SpiffeIDType()
SERIAL = SerialType()
MOMENT = MomentType()


def agent_id(name: str, trust_domain: str) -> str:
    """Return the SPIFFE ID of the agent `name`, which may be one already.

    Raises:
        InvalidInput: not a name that a SPIFFE ID can carry.
    """
    from legation.pki.spiffe_id import SpiffeID

    whole = name if "://" in name else f"spiffe://{trust_domain}{AGENT_PREFIX}{name}"
    return str(SpiffeID.parse(whole))


def agents_id(name: str, trust_domain: str) -> str:
    """Return the same for `name`, or for a pattern of such names, which ends in ``*``.

    Raises:
        InvalidInput: neither a name nor a pattern.
    """
    from legation.wire.feed.delegation import example_of, is_pattern

    if not is_pattern(name):
        return agent_id(name, trust_domain)
    whole = name if "://" in name else f"spiffe://{trust_domain}{AGENT_PREFIX}{name}"
    example_of(whole)
    return whole


def read_input(name: str) -> bytes:
    """Read a file, or stdin for ``-``; at most 4 MiB.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, or is larger.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_STDIN + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_STDIN + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {name}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidInput(f"{name} cannot be read: {reason}") from None
    if len(data) > MAX_STDIN:
        raise InvalidInput(f"{name} is larger than {MAX_STDIN} bytes")
    return data
