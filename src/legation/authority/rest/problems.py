"""Errors as the HTTP interfaces show them: problem details (RFC 9457).

Every error of `legation.errors` becomes a problem here and nowhere else; its status comes
from `OUTCOMES`. What HTTP itself finds wrong (no such path, method, media type) has a
status of its own and the code of the nearest error.
"""

import logging
import secrets
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import Response

from legation.errors import (
    Conflict,
    InternalError,
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    TimedOut,
    Unavailable,
    VerificationError,
    outcome_of,
)

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:legation:problem:"
# RFC 9110, section 15.5.2, wants a challenge with every 401. No registered scheme means
# "present a certificate in the handshake"; this word only says so to a reader.
CHALLENGE = 'ClientCertificate realm="legation"'

TITLES: dict[type[LegationError], str] = {
    LegationError: "The request failed",
    InvalidInput: "The request is not acceptable as it is",
    LimitExceeded: "The request is larger than what is allowed",
    VerificationError: "A certificate, chain, list or response failed its checks",
    NotAuthenticated: "The caller has not shown who it is",
    NotPermitted: "The caller may not do this",
    NotFound: "There is no such thing",
    Conflict: "It exists already, was used already, or changed meanwhile",
    Unavailable: "The authority cannot answer now",
    TimedOut: "The answer did not come in time",
    InternalError: "A defect of Legation",
}


class FailedCheck(BaseModel):
    """One failed check of a certificate, chain, list or response."""

    cause: str
    detail: str
    subject: str = ""


class Problem(BaseModel):
    """A problem detail object (RFC 9457, section 3)."""

    type: Annotated[str, Field(examples=[f"{TYPE_PREFIX}not_found"])]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: Annotated[str, Field(description="the stable word for this kind of error")]
    remedy: Annotated[str | None, Field(description="what to do about it")] = None
    incident: Annotated[str | None, Field(description="where to find it in the log")] = None
    failures: Annotated[
        list[FailedCheck] | None, Field(description="every failed check, in order")
    ] = None

    def to_json(self) -> bytes:
        """Render, without the members that it does not have."""
        return self.model_dump_json(exclude_none=True).encode()

    def to_response(self) -> Response:
        """Render as a response."""
        headers = {"www-authenticate": CHALLENGE} if self.status == 401 else None
        return Response(
            self.to_json(), status_code=self.status, headers=headers, media_type=MEDIA_TYPE
        )


def problem_of(error: LegationError, *, incident: str | None = None) -> Problem:
    """Describe an error."""
    failures = None
    if isinstance(error, VerificationError):
        failures = [
            FailedCheck(cause=failure.cause, detail=failure.detail, subject=failure.subject)
            for failure in error.failures
        ]
    return Problem(
        type=TYPE_PREFIX + error.code,
        title=next(TITLES[kind] for kind in type(error).__mro__ if kind in TITLES),
        status=outcome_of(error).http,
        detail=_printable(error.message),
        code=error.code,
        remedy=error.remedy and _printable(error.remedy),
        incident=incident,
        failures=failures,
    )


def http_problem(status: int, detail: str, *, remedy: str | None = None) -> Problem:
    """Describe what HTTP itself finds wrong with a request."""
    kind = _NEAREST.get(status, InvalidInput)
    return Problem(
        type=TYPE_PREFIX + kind.code,
        title=TITLES[kind],
        status=status,
        detail=detail,
        code=kind.code,
        remedy=remedy,
    )


def incident_problem(error: Exception) -> Problem:
    """Log a defect under a name that the caller is told; the details stay in the log."""
    incident = secrets.token_hex(8)
    _log.error("incident %s", incident, exc_info=error)
    return problem_of(
        InternalError("the authority failed on this request", remedy="look into its log"),
        incident=incident,
    )


def problem_headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the ASGI headers that a problem needs whatever is asked."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    if problem.status == 401:
        headers.append((b"www-authenticate", CHALLENGE.encode()))
    return headers


_NEAREST: dict[int, type[LegationError]] = {
    404: NotFound,
    408: TimedOut,
    413: LimitExceeded,
    414: LimitExceeded,
    431: LimitExceeded,
    500: InternalError,
    503: Unavailable,
}


def _printable(text: str) -> str:
    """Replace lone surrogates, which JSON in UTF-8 cannot carry."""
    return text.encode("utf-8", "replace").decode()
