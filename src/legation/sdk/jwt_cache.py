"""JWT-SVIDs as a client sees them: read, kept while they are good, renewed ahead of time.

Pure: no clock, no connection. The signature is not checked here, because a token of one's own
comes from the agent, and a token of somebody else goes to the agent to be checked.
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from legation.errors import (
    InvalidInput,
    LegationError,
    LimitExceeded,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    TimedOut,
    Unavailable,
)
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.backoff import Backoff, Jitter
from legation.wire.canonical import parse_json
from legation.wire.protobuf import workload_pb2 as pb

MAX_TOKEN_SIZE: Final = 16 * 1024
MAX_AUDIENCES: Final = 32
MAX_CACHED: Final = 1000
# A token is renewed once this share of its life is over, so that one that is handed out is
# good for a while yet, and an agent may be away for as long.
RENEW_AT: Final = 0.5
_LATEST: Final = datetime.max.replace(tzinfo=UTC).timestamp() - 86400

Key = tuple[tuple[str, ...], str]  # audience and SPIFFE ID, the latter empty for the default


@dataclass(frozen=True, slots=True, kw_only=True)
class JWTSVID:
    """A token that says who this process is, to an audience.

    Attributes:
        token: what to send, as a bearer token. Never in a `repr`.
        spiffe_id: who.
        audience: to whom.
        issued_at: from when, UTC; None if it does not say.
        expires_at: until when, UTC.
        hint: what the Workload API says it is for, or empty.
    """

    token: str = field(repr=False)
    spiffe_id: SpiffeID
    audience: tuple[str, ...]
    issued_at: datetime | None
    expires_at: datetime
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedJWT:
    """A token of somebody else, as the agent validated it.

    Attributes:
        spiffe_id: who bears it.
        claims: all of them. Numbers are floats, as they travel in a protobuf Struct.
    """

    spiffe_id: SpiffeID
    claims: Mapping[str, Any]


@dataclass(slots=True)
class _Kept:
    svid: JWTSVID
    renew_at: datetime
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=1.0, longest_s=30.0))
    busy: bool = False
    not_before: float = 0.0  # next attempt at a renewal, monotonic seconds


class JWTCache:
    """Tokens by audience and identity. Not thread-safe: its owner holds a lock."""

    def __init__(self, jitter: Jitter) -> None:
        self._jitter = jitter
        self._kept: dict[Key, _Kept] = {}

    def look(self, key: Key, *, at: datetime, monotonic: float) -> tuple[JWTSVID | None, bool]:
        """Return the token to use, if there is one, and whether to get a newer one meanwhile.

        Whoever is told to get one tells the outcome with `keep` or `failed`.
        """
        kept = self._kept.get(key)
        if kept is None or at >= kept.svid.expires_at:
            return None, True
        renew = at >= kept.renew_at and not kept.busy and monotonic >= kept.not_before
        kept.busy = kept.busy or renew
        return kept.svid, renew

    def keep(self, key: Key, svid: JWTSVID, *, at: datetime) -> None:
        """Take up a new token."""
        if key not in self._kept and len(self._kept) >= MAX_CACHED:
            del self._kept[next(iter(self._kept))]
        life = svid.expires_at - at
        # A tenth of it spread, so that a fleet does not come at once.
        self._kept[key] = _Kept(svid, at + life * (RENEW_AT - self._jitter() / 10))

    def failed(self, key: Key, *, monotonic: float) -> None:
        """Note that no newer token came; the old one stays until it expires."""
        kept = self._kept.get(key)
        if kept is not None:
            kept.busy = False
            kept.not_before = monotonic + kept.backoff.next_s(self._jitter)


def fetch_request(audience: Sequence[str], spiffe_id: SpiffeID | str | None) -> tuple[Key, bytes]:
    """Return the cache key of a token, and the request for it.

    Raises:
        InvalidInput: there is no audience, or the SPIFFE ID is none.
        LimitExceeded: there are too many audiences.
    """
    if not audience or not all(audience):
        raise InvalidInput("a JWT-SVID needs an audience", remedy="name who will read it")
    if len(audience) > MAX_AUDIENCES:
        raise LimitExceeded(f"a JWT-SVID has at most {MAX_AUDIENCES} audiences")
    subject = "" if spiffe_id is None else str(SpiffeID.parse(str(spiffe_id)))
    request = pb.JWTSVIDRequest(audience=audience, spiffe_id=subject)
    return (tuple(sorted(set(audience))), subject), request.SerializeToString()


def read_fetched(data: bytes, key: Key) -> JWTSVID:
    """Read a JWTSVIDResponse.

    Raises:
        InvalidInput: not such a message, or the token is not for who asked.
    """
    try:
        message = pb.JWTSVIDResponse.FromString(data)
    except DecodeError:
        raise InvalidInput("the Workload API sent something else than a JWTSVIDResponse") from None
    if not message.svids:
        raise InvalidInput("the Workload API sent a message without JWT-SVIDs")
    item = message.svids[0]  # section 6.2.1: the first is the default
    svid = read_token(item.svid, hint=item.hint)
    if str(svid.spiffe_id) != item.spiffe_id:
        raise InvalidInput(f"the JWT-SVID for {item.spiffe_id[:200]!a} names somebody else")
    wanted_audience, wanted = key
    if wanted not in {"", item.spiffe_id} or not set(wanted_audience) <= set(svid.audience):
        raise InvalidInput("the Workload API sent another JWT-SVID than the one asked for")
    return svid


def read_token(token: str, *, hint: str = "") -> JWTSVID:
    """Read a token's claims (JWT-SVID, section 3), without checking its signature.

    Raises:
        LimitExceeded: it is too long.
        InvalidInput: it is not a JWT-SVID.
    """
    if len(token) > MAX_TOKEN_SIZE:
        raise LimitExceeded(f"a JWT-SVID has at most {MAX_TOKEN_SIZE} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidInput("a JWT-SVID has three parts with dots between")
    try:
        claims = parse_json(base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), b"-_", True))
    except (binascii.Error, ValueError):
        raise InvalidInput("the claims of the JWT-SVID are not Base64") from None
    if not isinstance(claims, Mapping):
        raise InvalidInput("the claims of the JWT-SVID are not an object")
    subject, audience = claims.get("sub"), _texts(claims.get("aud"))
    if not isinstance(subject, str) or not audience:
        raise InvalidInput("the JWT-SVID lacks its subject or audience")
    expires_at = _moment(claims.get("exp"))
    if expires_at is None:
        raise InvalidInput("the JWT-SVID does not say when it expires")
    return JWTSVID(
        token=token,
        spiffe_id=SpiffeID.parse(subject),
        audience=audience,
        issued_at=_moment(claims.get("iat")),
        expires_at=expires_at,
        hint=hint,
    )


def validate_request(token: str, audience: str) -> bytes:
    """Return the request to validate a token of somebody else.

    Raises:
        InvalidInput: there is no audience.
        LimitExceeded: the token is too long to be one.
    """
    if not audience:
        raise InvalidInput("a JWT-SVID is validated for an audience", remedy="name this service")
    if len(token) > MAX_TOKEN_SIZE:
        raise LimitExceeded(f"a JWT-SVID has at most {MAX_TOKEN_SIZE} characters")
    request = pb.ValidateJWTSVIDRequest(audience=audience, svid=token)
    return bytes(request.SerializeToString())


def read_validated(data: bytes) -> ValidatedJWT:
    """Read a ValidateJWTSVIDResponse.

    Raises:
        InvalidInput: not such a message.
    """
    try:
        message = pb.ValidateJWTSVIDResponse.FromString(data)
    except DecodeError:
        raise InvalidInput("the Workload API sent no ValidateJWTSVIDResponse") from None
    return ValidatedJWT(
        spiffe_id=SpiffeID.parse(message.spiffe_id), claims=MessageToDict(message.claims)
    )


def call_error(code: str, details: str, *, validating: bool = False) -> LegationError:
    """Translate a call's gRPC status into one of our errors."""
    details = details[:300]
    match code:
        case "INVALID_ARGUMENT" if validating:
            return NotAuthenticated(f"the token is not valid: {details}")
        case "INVALID_ARGUMENT":
            return InvalidInput(f"the Workload API refuses the request: {details}")
        case "PERMISSION_DENIED":
            return NotPermitted(details or "the Workload API gives this process no JWT-SVID")
        case "UNIMPLEMENTED":
            return NotFound("this Workload API serves no JWT-SVIDs", remedy=details or None)
        case "DEADLINE_EXCEEDED":
            return TimedOut("the Workload API did not answer in time")
        case _:
            return Unavailable(
                f"no answer from the Workload API: {code}: {details}",
                remedy="is the agent running, and is this its socket?",
            )


def _texts(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        return ()
    return tuple(values)


def _moment(value: object) -> datetime | None:
    """Read a NumericDate (RFC 7519, section 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or not 0 <= value <= _LATEST:
        return None
    return datetime.fromtimestamp(value, UTC)
