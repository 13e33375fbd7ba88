"""Decoys: identities that are certified to be revoked."""

from typing import Annotated

from pydantic import Field

from legation.authority.administration.decoys import MAX_LIFETIME_S
from legation.authority.model import Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Chain, CSRText, OperatorName, Request, chain_pem, csr_der


class DecoyCreate(Request):
    """A decoy to certify, under ``/legation/decoy/``."""

    name: OperatorName
    csr: CSRText
    lifetime_s: Annotated[int, Field(ge=1, le=MAX_LIFETIME_S)] = MAX_LIFETIME_S


class DecoyCreated(Chain):
    """The decoy and its certificate."""

    spiffe_id: str


async def create_decoy(call: Call, body: DecoyCreate) -> Reply:
    """Certify a decoy."""
    spiffe_id, chain = await call.services.decoys.certify(
        body.name, csr_der(body.csr), lifetime_s=body.lifetime_s, actor=call.actor
    )
    return Reply(value=DecoyCreated(spiffe_id=str(spiffe_id), chain_pem=chain_pem(chain)))


ROUTES = (
    Route(
        method="POST",
        path="/v1/decoys",
        operation="createDecoy",
        summary="Certify a decoy: an identity whose only purpose is to be revoked.",
        role=Role.OPERATOR,
        handler=create_decoy,
        body=DecoyCreate,
        returns=DecoyCreated,
        status=201,
    ),
)
