"""Enrolment, and what the authority says of itself."""

import base64
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from legation.authority.model import Enrolment, Evidence, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    Chain,
    CSRText,
    Document,
    Moment,
    Request,
    Shown,
    chain_pem,
    csr_der,
)
from legation.errors import Conflict, NotFound, VerificationError


class EvidenceFields(BaseModel):
    """What lets the agent in; its members besides `kind` are that kind's own.

    ``join-token``: `token`. ``x509``: `chain_pem`, and `nonce` and `signature` in Base64.
    ``oidc``: `token`, a JWT in compact form.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    kind: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", examples=["join-token"])]


class EnrolRequest(Request):
    """What lets the agent in, a join token or other evidence, and the key to certify."""

    token: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[!-~]+$")] | None = None
    evidence: EvidenceFields | None = None
    csr: CSRText

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.token is None) == (self.evidence is None):
            raise ValueError("give either token or evidence")
        return self

    @property
    def shown(self) -> Evidence:
        """The evidence, whichever way it was given."""
        if self.evidence is None:
            return Evidence.join_token(self.token or "")
        return Evidence(kind=self.evidence.kind, document=self.evidence.model_extra or {})


class Challenge(Shown):
    """A nonce, good once and for a short time."""

    nonce: Annotated[str, Field(description="Base64")]
    expires_at: Moment


class Enrolled(Chain):
    """What an agent needs to start."""

    trust_domain: str
    bundle: dict[str, Any]
    feed_keys: Annotated[
        list[str], Field(description="P-256 public keys as uncompressed points (SEC 1), Base64")
    ]

    @classmethod
    def of(cls, enrolment: Enrolment) -> Self:
        """Translate."""
        return cls(
            chain_pem=chain_pem(enrolment.chain),
            trust_domain=str(enrolment.trust_domain),
            bundle=dict(enrolment.bundle),
            feed_keys=[base64.b64encode(key).decode() for key in enrolment.feed_keys],
        )


async def enrol(call: Call, body: EnrolRequest) -> Reply:
    """Certify an agent's key for its evidence."""
    enrolment = await call.services.enrolment.enrol(body.shown, csr_der(body.csr))
    return Reply(value=Enrolled.of(enrolment))


async def challenge(call: Call) -> Reply:
    """Return a nonce for evidence that is a signature."""
    made = call.services.enrolment.challenge()
    nonce = base64.b64encode(made.nonce).decode()
    return Reply(value=Challenge(nonce=nonce, expires_at=made.expires_at))


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
        path="/v1/enrol/challenge",
        operation="challengeEnrolment",
        summary="Fetch a nonce for evidence that is a signature.",
        role=None,
        handler=challenge,
        returns=Challenge,
        status=201,
    ),
    Route(
        method="POST",
        path="/v1/enrol",
        operation="enrol",
        summary="Enrol an agent with a join token or other evidence.",
        role=None,
        handler=enrol,
        body=EnrolRequest,
        returns=Enrolled,
        status=201,
        errors=(VerificationError, NotFound, Conflict),
    ),
)
