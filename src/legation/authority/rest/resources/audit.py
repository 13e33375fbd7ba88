"""The audit log."""

from typing import Annotated, Any, Self

from pydantic import Field

from legation.authority.model import AuditEntry, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Moment, PageSize, Request, Shown
from legation.authority.rest.paging import DEFAULT_PAGE


class AuditShown(Shown):
    """One line of the audit log."""

    sequence: int
    time: Moment
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Translate."""
        return cls(
            sequence=entry.sequence,
            time=entry.time,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=dict(entry.detail),
        )


class AuditPage(Shown):
    """A part of the audit log; `next` is the sequence number to go on after."""

    items: list[AuditShown]
    next: int | None = None


class AuditQuery(Request):
    """Which part of the log."""

    after: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    limit: PageSize = DEFAULT_PAGE


async def read_audit(call: Call, parameters: AuditQuery) -> Reply:
    """Return the entries after a sequence number."""
    entries = await call.services.audit.read(after=parameters.after, limit=parameters.limit)
    items = [AuditShown.of(entry) for entry in entries]
    full = len(items) >= parameters.limit
    return Reply(value=AuditPage(items=items, next=items[-1].sequence if full else None))


ROUTES = (
    Route(
        method="GET",
        path="/v1/audit",
        operation="readAudit",
        summary="Read the audit log.",
        role=Role.VIEWER,
        handler=read_audit,
        parameters=AuditQuery,
        returns=AuditPage,
    ),
)
