"""Revocation, holds, bans, and requests that wait for a second operator."""

from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Request, RequestID, SpiffeIDField
from legation.authority.rest.paging import PageQuery, page_of
from legation.authority.rest.revocation_answers import (
    BannedKeyPage,
    BannedKeyShown,
    BanPage,
    BanShown,
    Lifted,
    Preview,
    RequestPage,
    RequestShown,
    RevocationPage,
    RevocationShown,
    Revoked,
)
from legation.authority.rest.revocation_scopes import ReleaseRequest, RevocationRequest
from legation.authority.revoking.scopes import RevocationRequest as Requested
from legation.errors import Conflict, NotFound
from legation.pki.spiffe_id import SpiffeID


class BanKey(Request):
    """Whose ban; in the path, percent-encoded or as it is."""

    spiffe_id: SpiffeIDField


class RequestKey(Request):
    """Which request."""

    id: RequestID


async def revoke(call: Call, body: RevocationRequest) -> Reply:
    """Revoke, or ask a second operator."""
    wanted = body.root
    outcome = await call.services.revocations.revoke(
        wanted.to_scope(call.clock.now()), reason=wanted.reason, actor=call.actor
    )
    asked = isinstance(outcome, Requested)
    return Reply(value=Revoked.of(outcome), status=202 if asked else None)


async def preview(call: Call, body: RevocationRequest) -> Reply:
    """Tell what a revocation would do."""
    wanted, at = body.root, call.clock.now()
    found = await call.services.revocations.preview(wanted.to_scope(at), reason=wanted.reason)
    return Reply(value=Preview.of(found, at=at))


async def release(call: Call, body: ReleaseRequest) -> Reply:
    """Let what is on hold in again."""
    outcome = await call.services.revocations.release(
        body.root.to_scope(call.clock.now()), actor=call.actor
    )
    return Reply(value=Revoked.of(outcome))


async def list_requests(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of requests."""
    requests = await call.services.revocations.requests()
    items, after = page_of(requests, parameters, key=lambda request: request.id)
    return Reply(value=RequestPage(items=[RequestShown.of(item) for item in items], next=after))


async def approve(call: Call, parameters: RequestKey) -> Reply:
    """Agree to a revocation."""
    outcome = await call.services.revocations.approve(parameters.id, actor=call.actor)
    return Reply(value=Revoked.of(outcome))


async def reject(call: Call, parameters: RequestKey) -> Reply:
    """Turn a revocation down."""
    request = await call.services.revocations.reject(parameters.id, actor=call.actor)
    return Reply(value=RequestShown.of(request))


async def list_banned_keys(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of banned keys."""
    keys = await call.services.revocations.banned_keys()
    items, after = page_of(keys, parameters, key=lambda banned: banned.fingerprint.hex())
    return Reply(value=BannedKeyPage(items=[BannedKeyShown.of(one) for one in items], next=after))


async def list_revocations(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of revoked certificates."""
    found = await call.services.revocations.revocations(
        after=parameters.after, limit=parameters.limit + 1
    )
    shown = [RevocationShown.of(revocation) for revocation in found[: parameters.limit]]
    after = shown[-1].serial if len(found) > parameters.limit else None
    return Reply(value=RevocationPage(items=shown, next=after))


async def list_bans(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of bans."""
    bans = call.services.revocations.bans()
    items, after = page_of(bans, parameters, key=lambda ban: ban.spiffe_id)
    return Reply(value=BanPage(items=[BanShown.of(ban) for ban in items], next=after))


async def lift_ban(call: Call, parameters: BanKey) -> Reply:
    """End a ban."""
    spiffe_id = SpiffeID.parse(parameters.spiffe_id)
    return Reply(
        value=Lifted(revision=await call.services.revocations.lift(spiffe_id, actor=call.actor))
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/revocations",
        operation="revoke",
        summary="Revoke a certificate, or everything of an identity, agent, join token or key.",
        role=Role.OPERATOR,
        handler=revoke,
        body=RevocationRequest,
        returns=Revoked,
        also={202: "A second operator has to agree; nothing is revoked yet"},
        errors=(NotFound, Conflict),
    ),
    Route(
        method="POST",
        path="/v1/revocations/preview",
        operation="previewRevocation",
        summary="Tell what a revocation would hit; nothing is changed.",
        role=Role.OPERATOR,
        handler=preview,
        body=RevocationRequest,
        returns=Preview,
        errors=(NotFound,),
    ),
    Route(
        method="POST",
        path="/v1/revocations/release",
        operation="releaseHeld",
        summary="Let what is on hold (certificateHold) in again.",
        role=Role.OPERATOR,
        handler=release,
        body=ReleaseRequest,
        returns=Revoked,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="GET",
        path="/v1/revocation-requests",
        operation="listRevocationRequests",
        summary="List revocations that wait for a second operator, go on, or were decided lately.",
        role=Role.VIEWER,
        handler=list_requests,
        parameters=PageQuery,
        returns=RequestPage,
    ),
    Route(
        method="POST",
        path="/v1/revocation-requests/{id}/approve",
        operation="approveRevocation",
        summary="Agree to a revocation that another operator has asked for.",
        role=Role.ADMIN,
        handler=approve,
        parameters=RequestKey,
        returns=Revoked,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="POST",
        path="/v1/revocation-requests/{id}/reject",
        operation="rejectRevocation",
        summary="Turn a revocation down, or take back one's own.",
        role=Role.OPERATOR,
        handler=reject,
        parameters=RequestKey,
        returns=RequestShown,
        errors=(NotFound, Conflict),
    ),
    Route(
        method="GET",
        path="/v1/banned-keys",
        operation="listBannedKeys",
        summary="List keys that are never certified again.",
        role=Role.VIEWER,
        handler=list_banned_keys,
        parameters=PageQuery,
        returns=BannedKeyPage,
    ),
    Route(
        method="GET",
        path="/v1/revocations",
        operation="listRevocations",
        summary="List revoked certificates that have not expired.",
        role=Role.VIEWER,
        handler=list_revocations,
        parameters=PageQuery,
        returns=RevocationPage,
    ),
    Route(
        method="GET",
        path="/v1/bans",
        operation="listBans",
        summary="List identities that are refused and not issued.",
        role=Role.VIEWER,
        handler=list_bans,
        parameters=PageQuery,
        returns=BanPage,
    ),
    Route(
        method="DELETE",
        path="/v1/bans/{spiffe_id:path}",
        operation="liftBan",
        summary="Lift the ban of an identity.",
        role=Role.OPERATOR,
        handler=lift_ban,
        parameters=BanKey,
        returns=Lifted,
        errors=(NotFound,),
    ),
)
