"""Misuse signals: what is suspected, the evidence, and the answer to it."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from legation.authority.misuse.model import UNKNOWN, Kind, Severity, Signal, SignalState
from legation.authority.misuse.response import response_to
from legation.authority.misuse.signals import MAX_NOTE
from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Moment, PageSize, Request, Shown, serial_text
from legation.authority.rest.paging import DEFAULT_PAGE
from legation.authority.rest.revocation_answers import Revoked
from legation.authority.revoking.scopes import RevocationRequest
from legation.errors import Conflict, NotFound

_MAX_ID = 2**53


class SignalBrief(Shown):
    """A signal in one line. `serial` is null if it is about the identity as such."""

    id: int
    kind: Kind
    severity: Severity
    state: SignalState
    spiffe_id: str
    serial: str | None
    requester: str
    summary: str
    count: int
    first: Moment
    last: Moment

    @classmethod
    def of(cls, signal: Signal) -> Self:
        """Translate."""
        finding = signal.finding
        return cls(
            id=signal.id,
            kind=finding.kind,
            severity=finding.severity,
            state=signal.state,
            spiffe_id=finding.spiffe_id,
            serial=None if finding.serial == UNKNOWN else serial_text(finding.serial),
            requester=finding.requester,
            summary=finding.summary,
            count=finding.count,
            first=_moment(finding.first),
            last=_moment(finding.last),
        )


class EvidenceShown(Shown):
    """One thing that was seen. `outcome` is `accepted`, why it was refused, or what was stated."""

    at: Moment
    agent: str
    point: str
    address: str
    outcome: str
    count: int


class ResponseShown(Shown):
    """What `respond` revokes, and the command that does the same."""

    revokes: str
    reason: str
    command: str


class SignalShown(Shown):
    """A signal with its evidence: how it began, and what was seen last."""

    id: int
    kind: Kind
    severity: Severity
    state: SignalState
    spiffe_id: str
    serial: str | None
    requester: str
    network: str
    summary: str
    count: int
    first: Moment
    last: Moment
    evidence: list[EvidenceShown]
    response: ResponseShown
    decided_by: str | None
    decided_at: Moment | None
    note: str

    @classmethod
    def of(cls, signal: Signal) -> Self:
        """Translate."""
        finding = signal.finding
        response = response_to(finding)
        return cls(
            **SignalBrief.of(signal).model_dump(exclude={"first", "last"}),
            first=_moment(finding.first),
            last=_moment(finding.last),
            network=finding.network,
            evidence=[
                EvidenceShown(
                    at=_moment(row.at),
                    agent=row.agent,
                    point=row.point,
                    address=row.address,
                    outcome=row.outcome,
                    count=row.count,
                )
                for row in sorted(finding.evidence, key=lambda row: row.at)
            ],
            response=ResponseShown(
                revokes=response.effect, reason=response.reason, command=response.command
            ),
            decided_by=signal.decided_by,
            decided_at=signal.decided_at,
            note=signal.note,
        )


class Responded(Shown):
    """A signal after the answer to it, and what was revoked."""

    signal: SignalShown
    revocation: Revoked


class SignalPage(Shown):
    """Signals, the newest first; `next` is null on the last page."""

    items: list[SignalBrief]
    next: int | None = None


class SignalQuery(Request):
    """Which signals; `after` is the number of the last row of the page before."""

    state: Literal["open", "dismissed", "responded"] | None = None
    after: Annotated[int, Field(ge=1, le=_MAX_ID)] | None = None
    limit: PageSize = DEFAULT_PAGE


class SignalKey(Request):
    """Which signal."""

    id: Annotated[int, Field(ge=1, le=_MAX_ID)]


class Dismissal(Request):
    """Why a signal is ordinary."""

    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""


async def list_signals(call: Call, parameters: SignalQuery) -> Reply:
    """Return a page of signals, the newest first."""
    # One more than asked for tells whether there is a next page.
    found = await call.services.signals.list(
        state=parameters.state and SignalState(parameters.state),
        before=parameters.after,
        limit=parameters.limit + 1,
    )
    page = found[: parameters.limit]
    cursor = page[-1].id if len(found) > len(page) else None
    return Reply(value=SignalPage(items=[SignalBrief.of(each) for each in page], next=cursor))


async def get_signal(call: Call, parameters: SignalKey) -> Reply:
    """Return one signal."""
    return Reply(value=SignalShown.of(await call.services.signals.get(parameters.id)))


async def dismiss_signal(call: Call, parameters: SignalKey, body: Dismissal) -> Reply:
    """Call a signal ordinary."""
    signal = await call.services.signals.dismiss(parameters.id, note=body.note, actor=call.actor)
    return Reply(value=SignalShown.of(signal))


async def respond_to_signal(call: Call, parameters: SignalKey) -> Reply:
    """Revoke what a signal proposes, or ask a second operator."""
    signal, outcome = await call.services.signals.respond(parameters.id, actor=call.actor)
    asked = isinstance(outcome, RevocationRequest)
    return Reply(
        value=Responded(signal=SignalShown.of(signal), revocation=Revoked.of(outcome)),
        status=202 if asked else None,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


ROUTES = (
    Route(
        method="GET",
        path="/v1/signals",
        operation="listSignals",
        summary="List misuse signals, the newest first.",
        role=Role.VIEWER,
        handler=list_signals,
        parameters=SignalQuery,
        returns=SignalPage,
    ),
    Route(
        method="GET",
        path="/v1/signals/{id}",
        operation="getSignal",
        summary="Show a misuse signal, its evidence and the proposed response.",
        role=Role.VIEWER,
        handler=get_signal,
        parameters=SignalKey,
        returns=SignalShown,
        errors=(NotFound,),
    ),
    Route(
        method="POST",
        path="/v1/signals/{id}/dismiss",
        operation="dismissSignal",
        summary="Call a misuse signal ordinary; what it was about is learned.",
        role=Role.OPERATOR,
        handler=dismiss_signal,
        parameters=SignalKey,
        body=Dismissal,
        returns=SignalShown,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="POST",
        path="/v1/signals/{id}/respond",
        operation="respondToSignal",
        summary="Revoke what a misuse signal proposes.",
        role=Role.OPERATOR,
        handler=respond_to_signal,
        parameters=SignalKey,
        returns=Responded,
        also={202: "A second operator has to agree; nothing is revoked yet"},
        errors=(NotFound, Conflict),
    ),
)
