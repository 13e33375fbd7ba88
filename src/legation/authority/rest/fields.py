"""The kinds of field that requests and responses have, with what OpenAPI says of them."""

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    WithJsonSchema,
)

from legation.clock import to_rfc3339
from legation.errors import InvalidInput, LegationError
from legation.pki.pem import decode_one, encode
from legation.pki.spiffe_id import MAX_ID_LENGTH, SpiffeID
from legation.wire.feed.delegation import AgentText

MAX_CSR_BYTES = 16 * 1024
MAX_PAGE = 1000
MAX_LIFETIME_S = 10 * 365 * 86400
_CSR_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")  # RFC 7468, section 7

# One path segment, neither "." nor "..", without the look-ahead that many readers of
# JSON Schema do not have.
_SEGMENT = r"(\.?[A-Za-z0-9_-][A-Za-z0-9._-]*|\.\.[A-Za-z0-9._-]+)"


def _spiffe_id(text: str) -> str:
    try:
        return str(SpiffeID.parse(text))
    except LegationError as error:
        raise ValueError(str(error)) from None


SpiffeIDField = Annotated[
    str,
    Field(
        pattern=rf"^spiffe://[a-z0-9._-]{{1,255}}(/{_SEGMENT})*$",
        max_length=MAX_ID_LENGTH,
        examples=["spiffe://example.org/ns/prod/api"],
    ),
    AfterValidator(_spiffe_id),
]
AgentsField = Annotated[
    AgentText,
    Field(
        pattern=rf"^spiffe://[a-z0-9._-]{{1,255}}(/{_SEGMENT})*(/{_SEGMENT}(__|_2f)\*)?$",
        max_length=MAX_ID_LENGTH,
        description="an agent, or agents by the whole first parts of their names",
        examples=["spiffe://example.org/legation/agent/ci__octo-org_2fapp__*"],
    ),
]
EntryID = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["api-1"])]
RequestID = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
TokenID = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
IssuerKeyID = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{16,64}$",
        description="subject key identifier, hexadecimal",
        examples=["5f0c3a9be27d4410c1a0b3f4e5d6c7b8a9908172"],
    ),
]
PolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$")]
OperatorName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$", examples=["alice"])
]
SerialNumber = Annotated[
    str,
    Field(
        pattern=r"^[0-9A-Fa-f]{1,40}$",
        description="hexadecimal, without separators",
        examples=["5f0c3a9be27d4410000000000000002a"],
    ),
]
CSRText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2 * MAX_CSR_BYTES,
        description="certificate signing request: PEM, or DER in Base64",
    ),
]
# RFC 5280, section 5.3.1, without removeFromCRL, which is for delta lists alone.
RevocationReason = Literal[
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "privilegeWithdrawn",
    "aACompromise",
]
Moment = Annotated[
    datetime,
    PlainSerializer(to_rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE, description="rows in one page")]
Cursor = Annotated[
    str,
    Field(max_length=MAX_ID_LENGTH + 256, description="`next` of the page before"),
]


class Request(BaseModel):
    """What a caller sends: closed to members that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Shown(BaseModel):
    """What a caller receives."""

    model_config = ConfigDict(frozen=True)


class Chain(Shown):
    """A certificate and its intermediates, leaf first, PEM."""

    chain_pem: str


def chain_pem(chain: Iterable[bytes]) -> str:
    """Render DER certificates as one PEM text."""
    return b"".join(encode("CERTIFICATE", der) for der in chain).decode()


def serial_text(serial: int) -> str:
    """Render a serial number as every interface shows it."""
    return format(serial, "x")


def csr_der(text: str) -> bytes:
    """Return the DER of a request given as PEM or as Base64 of DER.

    Raises:
        InvalidInput: neither.
        LimitExceeded: larger than 16 KiB.
    """
    if "-----" in text:
        return decode_one(
            text, labels=_CSR_LABELS, what="certificate signing request", limit=MAX_CSR_BYTES
        )
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            "the certificate signing request is neither PEM nor Base64",
            remedy="send the text that `openssl req -new` prints",
        ) from None


class Document(RootModel[dict[str, Any]]):
    """A JSON object."""
