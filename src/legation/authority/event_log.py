"""Events as log lines."""

import dataclasses
import logging
from typing import Any

from legation.authority.events import (
    AuthorityEvent,
    CertificateNotInForce,
    CRLFailed,
    DrillFailed,
    FeedWentBack,
    HandshakesRefused,
    Issued,
    IssuerMoved,
    MisuseSuspected,
    PointStale,
    PointStaleSoon,
    Refused,
    RevocationAsked,
    TokenIssued,
)

_log = logging.getLogger("legation.authority")


class EventLog:
    """Writes each event through `logging`: its word, and its fields as the record's data."""

    def __init__(self, logger: logging.Logger = _log) -> None:
        self._logger = logger

    def __call__(self, event: AuthorityEvent) -> None:
        level = _LEVELS.get(type(event), logging.INFO)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, _word(type(event).__name__), extra=_fields(event))


_LEVELS = {
    TokenIssued: logging.DEBUG,
    Issued: logging.DEBUG,  # thousands a second; the audit log has each of them
    Refused: logging.WARNING,
    CRLFailed: logging.WARNING,
    RevocationAsked: logging.WARNING,
    IssuerMoved: logging.WARNING,
    FeedWentBack: logging.ERROR,
    HandshakesRefused: logging.WARNING,
    PointStaleSoon: logging.WARNING,
    PointStale: logging.ERROR,
    CertificateNotInForce: logging.ERROR,
    DrillFailed: logging.ERROR,
    MisuseSuspected: logging.ERROR,
}
_MAX_SERIALS = 16  # in one line


def _fields(event: AuthorityEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name == "serial" and isinstance(value, int):
            value = format(value, "x")
        elif field.name == "serials":
            fields["count"] = len(value)
            value = [format(serial, "x") for serial in value[:_MAX_SERIALS]]
        elif isinstance(value, float):
            value = round(value, 6)
        # `logging` keeps "message" for the record's own text.
        fields["detail" if field.name == "message" else field.name] = value
    return fields


def _word(name: str) -> str:
    """Turn ``CRLPublished`` into ``crl_published``."""
    letters: list[str] = []
    for index, letter in enumerate(name):
        follows = name[index + 1 : index + 2].islower()
        if letter.isupper() and index and (follows or name[index - 1].islower()):
            letters.append("_")
        letters.append(letter.lower())
    return "".join(letters)
