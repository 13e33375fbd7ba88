"""Enrolment, and what the authority says of itself."""

import base64
from typing import Annotated, Any, Self

from pydantic import Field, RootModel

from legation.authority.model import Enrolment, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import Chain, CSRText, Request, chain_pem, csr_der
from legation.errors import Conflict, NotFound, VerificationError


class EnrolRequest(Request):
    """A join token and the key to certify."""

    token: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[!-~]+$")]
    csr: CSRText


class Enrolled(Chain):
    """What an agent needs to start."""

    trust_domain: str
    bundle: dict[str, Any]
    feed_keys: Annotated[list[str], Field(description="raw Ed25519 public keys, Base64")]
    agents_port: int

    @classmethod
    def of(cls, enrolment: Enrolment) -> Self:
        """Translate."""
        return cls(
            chain_pem=chain_pem(enrolment.chain),
            trust_domain=str(enrolment.trust_domain),
            bundle=dict(enrolment.bundle),
            feed_keys=[base64.b64encode(key).decode() for key in enrolment.feed_keys],
            agents_port=enrolment.agents_port,
        )


class Document(RootModel[dict[str, Any]]):
    """A JSON object."""


async def enrol(call: Call, body: EnrolRequest) -> Reply:
    """Certify an agent's key for its join token."""
    enrolment = await call.services.enrolment.enrol(body.token, csr_der(body.csr))
    return Reply(value=Enrolled.of(enrolment))


async def get_bundle(call: Call) -> Reply:
    """Return the trust bundle."""
    return Reply(value=Document(dict(call.services.status.bundle_document())))


async def get_status(call: Call) -> Reply:
    """Return how the authority is."""
    return Reply(value=Document(dict(call.services.status.status())))


ROUTES = (
    Route(
        method="GET",
        path="/v1/status",
        operation="getStatus",
        summary="Show how the authority is.",
        role=Role.VIEWER,
        handler=get_status,
        returns=Document,
    ),
    Route(
        method="GET",
        path="/v1/bundle",
        operation="getBundle",
        summary="Fetch the SPIFFE trust bundle.",
        role=None,
        handler=get_bundle,
        returns=Document,
    ),
    Route(
        method="POST",
        path="/v1/enrol",
        operation="enrol",
        summary="Enrol an agent with its join token.",
        role=None,
        handler=enrol,
        body=EnrolRequest,
        returns=Enrolled,
        status=201,
        errors=(VerificationError, NotFound, Conflict),
    ),
)
