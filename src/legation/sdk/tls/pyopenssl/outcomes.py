"""How long a TLS connection may take, where it is, and what it ends with."""

import asyncio
import enum
import ssl
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from legation.causes import cause_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        handshake: for a handshake, from the connection on.
        shutdown: for the peer's goodbye, and for what it has not read yet, after `close`.
    """

    handshake: float = 30.0
    shutdown: float = 10.0


class TLSFailure(ssl.SSLError):
    """TLS failed: the other end refused us, or what it sent is not TLS.

    Attributes:
        cause: the word for it.
    """

    def __init__(self, words: str) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, words)
        self.cause = cause_of(words)
        self.reason = words.upper().replace(" ", "_")
        self.library = "SSL"

    def __reduce__(self) -> tuple[type["TLSFailure"], tuple[Any]]:
        return type(self), (self.args[1],)


class State(enum.Enum):
    """Where a connection is; see the drawing at the top of the module."""

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


def words_of(error: SSL.Error) -> str:
    """Return OpenSSL's own words for an error."""
    entries = error.args[0] if error.args else ()
    if isinstance(entries, list | tuple) and entries:
        return str(entries[0][-1] or "unknown")
    return "unknown"


def cut_short() -> ConnectionResetError:
    """Return the error for a transport that ended, while TLS had not."""
    return ConnectionResetError("the peer closed without saying so")


def failure_of(error: SSL.Error) -> OSError:
    """Return the error of ours for what OpenSSL says of a record that it cannot take."""
    words = words_of(error)
    return cut_short() if "unexpected eof" in words else TLSFailure(words)


def tell(opened: "asyncio.Future[None] | None", error: Exception | None) -> None:
    """Tell whoever waits for the handshake, if anybody does still, what it came to."""
    if opened is None or opened.done():
        return
    if error is None:
        opened.set_result(None)
    else:
        opened.set_exception(error)
