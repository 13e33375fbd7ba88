"""The inventory of certificates."""

from datetime import datetime
from typing import Any, Literal

from legation.authority.model import IssuedRecord, Role
from legation.authority.rest.calls import Call, Reply, Route
from legation.authority.rest.fields import (
    Moment,
    PageSize,
    Request,
    SerialNumber,
    Shown,
    SpiffeIDField,
    chain_pem,
    serial_text,
)
from legation.authority.rest.paging import DEFAULT_PAGE, Page
from legation.errors import NotFound

CertificateState = Literal["valid", "expired", "revoked"]
RevokedWith = Literal["certificate", "issuer"]


class Certificate(Shown):
    """One certificate of the inventory.

    A certificate is revoked by itself, or with its issuer: then `revoked_at` and `reason` are
    the issuer's, and the certificate is on no revocation list; its issuer is on the root's.
    """

    serial: str
    spiffe_id: str
    profile: str
    issuer: str
    not_before: Moment
    not_after: Moment
    state: CertificateState
    requester: str
    entry_id: str | None
    key_fingerprint: str
    revoked_at: Moment | None
    reason: str | None
    revoked_with: RevokedWith | None

    @classmethod
    def fields_of(cls, record: IssuedRecord, *, at: datetime) -> dict[str, Any]:
        """Translate; the state is the one at `at`."""
        state: CertificateState = "expired" if record.not_after < at else "valid"
        by_itself = record.revoked_at is not None
        revoked_with: RevokedWith = "certificate" if by_itself else "issuer"
        return {
            "serial": serial_text(record.serial),
            "spiffe_id": record.spiffe_id,
            "profile": record.profile,
            "issuer": record.issuer,
            "not_before": record.not_before,
            "not_after": record.not_after,
            "state": "revoked" if record.is_revoked else state,
            "requester": record.requester,
            "entry_id": record.entry_id,
            "key_fingerprint": record.key_fingerprint.hex(),
            "revoked_at": record.revoked_at if by_itself else record.issuer_revoked_at,
            "reason": record.reason if by_itself else record.issuer_reason,
            "revoked_with": revoked_with if record.is_revoked else None,
        }


class CertificateWithPEM(Certificate):
    """One certificate of the inventory, with the certificate itself.

    `pem` is empty if all that is known is its revocation: the profile `recovered`.
    """

    pem: str


class CertificatePage(Page[Certificate]):
    """Certificates in the order of their serial numbers."""


class CertificateKey(Request):
    """Which certificate."""

    serial: SerialNumber


class CertificateQuery(Request):
    """Which certificates; `after` is the serial number of the last row of the page before."""

    spiffe_id: SpiffeIDField | None = None
    state: CertificateState | None = None
    after: SerialNumber | None = None
    limit: PageSize = DEFAULT_PAGE


async def search_certificates(call: Call, parameters: CertificateQuery) -> Reply:
    """Return a page of certificates."""
    after = parameters.after
    records = await call.services.certificates.search(
        spiffe_id=parameters.spiffe_id,
        state=parameters.state,
        after=None if after is None else int(after, 16),
        limit=parameters.limit,
    )
    now = call.clock.now()
    items = [Certificate(**Certificate.fields_of(record, at=now)) for record in records]
    # A full page may be the last one; then the next one is empty.
    full = len(items) >= parameters.limit
    return Reply(value=CertificatePage(items=items, next=items[-1].serial if full else None))


async def get_certificate(call: Call, parameters: CertificateKey) -> Reply:
    """Return one certificate, with its PEM."""
    record = await call.services.certificates.get(int(parameters.serial, 16))
    fields = Certificate.fields_of(record, at=call.clock.now())
    return Reply(
        value=CertificateWithPEM(**fields, pem=chain_pem([record.der] if record.der else []))
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/certificates",
        operation="searchCertificates",
        summary="Search the inventory of certificates.",
        role=Role.VIEWER,
        handler=search_certificates,
        parameters=CertificateQuery,
        returns=CertificatePage,
        errors=(NotFound,),
    ),
    Route(
        method="GET",
        path="/v1/certificates/{serial}",
        operation="getCertificate",
        summary="Show a certificate.",
        role=Role.VIEWER,
        handler=get_certificate,
        parameters=CertificateKey,
        returns=CertificateWithPEM,
        errors=(NotFound,),
    ),
)
