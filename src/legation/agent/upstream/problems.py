"""Errors that the authority tells of, back from RFC 9457 problem documents."""

from legation.causes import Cause, Failure
from legation.errors import (
    InvalidInput,
    LegationError,
    Unavailable,
    VerificationError,
    error_from_code,
)
from legation.wire.canonical import parse_json

_MAX_PROBLEM = 1 << 20


def error_of(status: int, content: bytes) -> LegationError:
    """Return the error behind an HTTP answer that is not a success, whatever its body is."""
    try:
        document = parse_json(content, limit=_MAX_PROBLEM)
    except InvalidInput:
        document = None
    match document:
        case {"code": str(code), **members}:
            message = str(members.get("detail") or members.get("title") or code)
            remedy = members.get("remedy")
            remedy = str(remedy) if remedy else None
            failures = _failures(members.get("failures"))
            if code == VerificationError.code and failures:
                return VerificationError(failures, remedy=remedy)
            return error_from_code(code, message, remedy=remedy)
    return Unavailable(f"the authority answered with HTTP status {status}")


def _failures(members: object) -> list[Failure]:
    """Return the failed checks whose cause this version knows."""
    found: list[Failure] = []
    for member in members if isinstance(members, list) else ():
        match member:
            case {"cause": str(cause), "detail": str(detail)} if cause in set(Cause):
                subject = str(member.get("subject", ""))
                found.append(Failure(cause=Cause(cause), detail=detail, subject=subject))
    return found
