"""The error tree, and how each branch leaves the process.

::

    LegationError
    |-- InvalidInput          the request, file or message is not acceptable as it is
    |   `-- LimitExceeded     it is larger, deeper or more frequent than what is allowed
    |-- VerificationError     a certificate, chain, list or response failed its checks
    |-- NotAuthenticated      the caller has not shown who it is
    |-- NotPermitted          the caller is known, and may not do this
    |-- NotFound              there is no such thing
    |-- Conflict              it exists already, was used already, or changed meanwhile
    |-- Unavailable           the other side cannot be reached or cannot answer now
    |-- TimedOut              the answer did not come in time
    `-- InternalError         a defect of Legation

An error says what is wrong in one line; `remedy` says what to do about it.
`OUTCOMES` maps every branch to HTTP, gRPC and exit status; nothing else does.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from legation.causes import Failure


class LegationError(Exception):
    """Base of all errors that Legation raises on purpose.

    Attributes:
        message: what is wrong, one line, without secrets.
        remedy: what to do about it, one line, or None.
        code: the stable word for this kind of error, the same in every interface.
    """

    code = "error"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InvalidInput(LegationError):
    """The request, file or message is not acceptable as it is."""

    code = "invalid_input"


class LimitExceeded(InvalidInput):
    """The input is larger, deeper or more frequent than what is allowed."""

    code = "limit_exceeded"


class VerificationError(LegationError):
    """A certificate, chain, list or response failed its checks.

    Attributes:
        failures: every failed check, as data, in the order of the procedure. Never empty.
    """

    code = "verification_failed"

    def __init__(self, failures: Iterable[Failure], *, remedy: str | None = None) -> None:
        self.failures = tuple(failures)
        if not self.failures:
            raise ValueError("a VerificationError needs at least one failure")
        super().__init__(
            "; ".join(str(failure) for failure in self.failures),
            remedy=remedy or self.failures[0].cause.remedy,
        )


class NotAuthenticated(LegationError):
    """The caller has not shown who it is."""

    code = "not_authenticated"


class NotPermitted(LegationError):
    """The caller is known, and may not do this."""

    code = "not_permitted"


class NotFound(LegationError):
    """There is no such thing."""

    code = "not_found"


class Conflict(LegationError):
    """It exists already, was used already, or changed meanwhile."""

    code = "conflict"


class Unavailable(LegationError):
    """The other side cannot be reached or cannot answer now."""

    code = "unavailable"


class TimedOut(LegationError):
    """The answer did not come in time."""

    code = "timed_out"


class InternalError(LegationError):
    """A defect of Legation."""

    code = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an error leaves the process: HTTP status, gRPC status name, exit status."""

    http: int
    grpc: str
    exit: int


OUTCOMES: dict[type[LegationError], Outcome] = {
    LegationError: Outcome(http=500, grpc="UNKNOWN", exit=1),
    InvalidInput: Outcome(http=400, grpc="INVALID_ARGUMENT", exit=2),
    LimitExceeded: Outcome(http=413, grpc="RESOURCE_EXHAUSTED", exit=2),
    VerificationError: Outcome(http=422, grpc="FAILED_PRECONDITION", exit=1),
    NotAuthenticated: Outcome(http=401, grpc="UNAUTHENTICATED", exit=4),
    NotPermitted: Outcome(http=403, grpc="PERMISSION_DENIED", exit=4),
    NotFound: Outcome(http=404, grpc="NOT_FOUND", exit=5),
    Conflict: Outcome(http=409, grpc="ALREADY_EXISTS", exit=6),
    Unavailable: Outcome(http=503, grpc="UNAVAILABLE", exit=3),
    TimedOut: Outcome(http=504, grpc="DEADLINE_EXCEEDED", exit=7),
    InternalError: Outcome(http=500, grpc="INTERNAL", exit=1),
}


def outcome_of(error: LegationError) -> Outcome:
    """Return how `error` leaves the process, by its nearest mapped ancestor."""
    return next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)


def error_from_code(code: str, message: str, *, remedy: str | None = None) -> LegationError:
    """Rebuild the error that another process reported by its `code`."""
    kinds = {kind.code: kind for kind in OUTCOMES if kind is not VerificationError}
    return kinds.get(code, LegationError)(message, remedy=remedy)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the member of `words` that `word` was most likely meant to be, or None."""
    matches = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return matches[0] if matches else None
