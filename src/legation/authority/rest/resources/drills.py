"""Drills: what was found when a revocation was tried out."""

from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    Moment,
    PageSize,
    Request,
    SerialNumber,
    Shown,
    serial_text,
)
from legation.authority.rest.paging import DEFAULT_PAGE
from legation.errors import NotFound
from legation.pki.spiffe_id import MAX_ID_LENGTH
from legation.wire.drill import DrillRecord, DrillReport, DrillRow, DrillSummary, Kind, Outcome

_MAX_ROWS = 4096
_MAX_REVISION = 2**53
_Milliseconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class RowFields(Request):
    """One thing that was tried at one target."""

    target: Annotated[str, Field(min_length=1, max_length=512)]
    spiffe_id: Annotated[str, Field(max_length=MAX_ID_LENGTH)] = ""
    kind: Kind
    outcome: Outcome
    after_ms: _Milliseconds | None = None
    detail: Annotated[str, Field(max_length=512)] = ""


class DrillCreate(Request):
    """A drill that was held."""

    at: AwareDatetime
    serial: SerialNumber
    revision: Annotated[int, Field(ge=0, le=_MAX_REVISION)]
    timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
    rows: Annotated[list[RowFields], Field(min_length=1, max_length=_MAX_ROWS)]

    def report(self) -> DrillReport:
        """Translate."""
        return DrillReport(
            at=self.at,
            serial=int(self.serial, 16),
            revision=self.revision,
            timeout_s=self.timeout_s,
            rows=tuple(DrillRow(**row.model_dump()) for row in self.rows),
        )


class DrillBrief(Shown):
    """A drill in one line. `slowest_ms` is the slowest refusal of what was revoked."""

    id: int
    at: Moment
    by: str
    targets: int
    findings: int
    slowest_ms: float | None

    @classmethod
    def of(cls, summary: DrillSummary) -> Self:
        """Translate."""
        return cls(
            id=summary.id,
            at=summary.at,
            by=summary.by,
            targets=summary.targets,
            findings=summary.findings,
            slowest_ms=summary.slowest_ms,
        )


class RowShown(Shown):
    """One thing that was tried at one target."""

    target: str
    spiffe_id: str
    kind: Kind
    outcome: Outcome
    after_ms: float | None
    detail: str


class Drill(Shown):
    """A drill with everything that was tried."""

    id: int
    at: Moment
    by: str
    targets: int
    findings: int
    slowest_ms: float | None
    serial: str
    revision: int
    timeout_s: float
    rows: list[RowShown]

    @classmethod
    def of(cls, record: DrillRecord) -> Self:
        """Translate."""
        report = record.report
        return cls(
            **DrillBrief.of(record.summary).model_dump(exclude={"at"}),
            at=record.summary.at,
            serial=serial_text(report.serial),
            revision=report.revision,
            timeout_s=report.timeout_s,
            rows=[
                RowShown(
                    target=row.target,
                    spiffe_id=row.spiffe_id,
                    kind=row.kind,
                    outcome=row.outcome,
                    after_ms=row.after_ms,
                    detail=row.detail,
                )
                for row in report.rows
            ],
        )


class DrillPage(Shown):
    """Drills, the newest first; `next` is null on the last page."""

    items: list[DrillBrief]
    next: int | None = None


class DrillQuery(Request):
    """Which drills; `after` is the number of the last row of the page before."""

    after: Annotated[int, Field(ge=1, le=_MAX_REVISION)] | None = None
    limit: PageSize = DEFAULT_PAGE


class DrillKey(Request):
    """Which drill."""

    id: Annotated[int, Field(ge=1, le=_MAX_REVISION)]


async def report_drill(call: Call, body: DrillCreate) -> Reply:
    """Keep a report."""
    record = await call.services.drills.record(body.report(), actor=call.actor)
    return Reply(value=Drill.of(record))


async def list_drills(call: Call, parameters: DrillQuery) -> Reply:
    """Return a page of drills, the newest first."""
    # One more than asked for tells whether there is a next page.
    found = await call.services.drills.list(before=parameters.after, limit=parameters.limit + 1)
    page = found[: parameters.limit]
    cursor = page[-1].id if len(found) > len(page) else None
    return Reply(value=DrillPage(items=[DrillBrief.of(each) for each in page], next=cursor))


async def get_drill(call: Call, parameters: DrillKey) -> Reply:
    """Return one drill."""
    return Reply(value=Drill.of(await call.services.drills.get(parameters.id)))


ROUTES = (
    Route(
        method="POST",
        path="/v1/drills",
        operation="reportDrill",
        summary="Report what a drill has found.",
        role=Role.OPERATOR,
        handler=report_drill,
        body=DrillCreate,
        returns=Drill,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/drills",
        operation="listDrills",
        summary="List the drills on record, the newest first.",
        role=Role.VIEWER,
        handler=list_drills,
        parameters=DrillQuery,
        returns=DrillPage,
    ),
    Route(
        method="GET",
        path="/v1/drills/{id}",
        operation="getDrill",
        summary="Show what a drill has found.",
        role=Role.VIEWER,
        handler=get_drill,
        parameters=DrillKey,
        returns=Drill,
        errors=(NotFound,),
    ),
)
