"""The status port: what anyone may fetch in the clear, and whether the authority is well.

Everything here is public and signed, so TLS would add nothing; and a verifier that had to
verify a certificate to fetch the list that it verifies certificates with would go round in
circles (RFC 5280, section 8).
"""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from legation.authority.rest.problems import http_problem, problem_of
from legation.authority.services import StatusService
from legation.clock import Clock
from legation.errors import LegationError
from legation.pki import pem
from legation.pki.crl import times_of
from legation.wire.revoked_set import MEDIA_TYPE as COMPACT_SET_MEDIA_TYPE

_log = logging.getLogger(__name__)

# A revoked certificate must not stay accepted because a cache kept the list before:
# caches ask again at least so often, whatever nextUpdate allows.
MAX_AGE_S = 300
CERTIFICATE_MAX_AGE_S = 86_400
_MAX_KEY_ID = 64  # hexadecimal digits
_MAX_SHARD_DIGITS = 5
_SIGNATURE_END = 256  # bytes, of which no two signatures have the same

Endpoint = Callable[[Request], Awaitable[Response]]


def build_status_application(status: StatusService, *, clock: Clock) -> ASGIApp:
    """Return the status port's application, to be served by `HTTPServer` without TLS."""
    pages = _Pages(status, clock)
    routes: Mapping[str, Endpoint] = {
        "/healthz": pages.healthz,
        "/readyz": pages.readyz,
        "/bundle": pages.bundle,
        "/ca.pem": pages.authorities,
        # RFC 2585, section 3, names DER certificates .cer; .crt is what many type.
        "/ca/{key_id}.cer": pages.certificate,
        "/ca/{key_id}.crt": pages.certificate,
        "/crl/{issuer}/{shard}.delta.crl": pages.delta_crl,
        "/crl/{issuer}/{shard}.crl": pages.crl,
        "/revoked/{issuer}/{shard}.set": pages.compact_set,
    }
    application = Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items()],
        # Inside Starlette's own last resort, which would answer in plain text.
        middleware=[Middleware(_Guarded)],
        exception_handlers={HTTPException: _on_http_exception, LegationError: _on_error},
    )
    application.router.redirect_slashes = False
    return application


class _Pages:
    def __init__(self, status: StatusService, clock: Clock) -> None:
        self._status = status
        self._clock = clock

    async def healthz(self, _request: Request) -> Response:
        """Answer that this process runs its event loop; nothing more is looked at."""
        return _json({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        ready, parts = self._status.ready()
        document = {"status": "ready" if ready else "not ready", "parts": dict(parts)}
        return _json(document, status=200 if ready else 503)

    async def bundle(self, request: Request) -> Response:
        # SPIFFE Trust Domain and Bundle, section 4.
        content = json.dumps(self._status.bundle_document(), separators=(",", ":")).encode()
        return _cacheable(request, content, media_type="application/json", max_age_s=MAX_AGE_S)

    async def authorities(self, request: Request) -> Response:
        certificates = self._status.authority_certificates()
        content = b"".join(pem.encode("CERTIFICATE", der) for der in certificates.values())
        return _cacheable(
            request, content, media_type="application/x-pem-file", max_age_s=MAX_AGE_S
        )

    async def certificate(self, request: Request) -> Response:
        key_id = request.path_params["key_id"]
        der = self._status.authority_certificates().get(key_id) if _is_key_id(key_id) else None
        if der is None:
            raise HTTPException(404)
        return _cacheable(
            request, der, media_type="application/pkix-cert", max_age_s=CERTIFICATE_MAX_AGE_S
        )

    async def crl(self, request: Request) -> Response:
        return self._answer_list(request, self._status.crl(*_place(request)))

    async def delta_crl(self, request: Request) -> Response:
        return self._answer_list(request, self._status.delta_crl(*_place(request)))

    async def compact_set(self, request: Request) -> Response:
        place = _place(request)
        document = await self._status.compact_set(*place)
        _, next_update = times_of(self._status.crl(*place))  # those of the set, too
        return _cacheable(
            request,
            document,
            media_type=COMPACT_SET_MEDIA_TYPE,
            max_age_s=self._max_age_s(next_update),
            etag=_etag_by_end(document),
        )

    def _answer_list(self, request: Request, der: bytes) -> Response:
        this_update, next_update = times_of(der)
        # A second list may follow in the same second, and a date would not tell them apart
        # (RFC 9110, section 8.8.2.2).
        settled = self._clock.now() >= this_update + timedelta(seconds=1)
        return _cacheable(
            request,
            der,
            media_type="application/pkix-crl",  # RFC 2585, section 4.2
            max_age_s=self._max_age_s(next_update),
            etag=_etag_by_end(der),
            last_modified=this_update if settled else None,
        )

    def _max_age_s(self, next_update: datetime) -> int:
        left = int((next_update - self._clock.now()).total_seconds())
        return max(0, min(left, MAX_AGE_S))


class _Guarded:
    """Answers what nothing inside has caught; the details go to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._application(scope, receive, send)
        except Exception:
            _log.exception("a request on the status port failed")
            await http_problem(500, "the authority failed").to_response()(scope, receive, send)


def _cacheable(
    request: Request,
    content: bytes,
    *,
    media_type: str,
    max_age_s: int,
    etag: str = "",
    last_modified: datetime | None = None,
) -> Response:
    """Answer with validators, or 304 when the client's copy is still the same."""
    etag = etag or _etag(content)
    headers = {"etag": etag, "cache-control": f"public, max-age={max_age_s}"}
    if last_modified:
        headers["last-modified"] = format_datetime(last_modified, usegmt=True)
    if _is_current(request.headers, etag=etag, last_modified=last_modified):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _is_current(headers: Mapping[str, str], *, etag: str, last_modified: datetime | None) -> bool:
    """Evaluate the preconditions of a GET (RFC 9110, section 13.2.2)."""
    if (tags := headers.get("if-none-match")) is not None:
        return tags.strip() == "*" or etag in {
            tag.strip().removeprefix("W/") for tag in tags.split(",")
        }
    since = headers.get("if-modified-since")
    if since is None or last_modified is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except (ValueError, TypeError, OverflowError):
        return False  # RFC 9110, section 13.1.3: an invalid date is ignored
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return last_modified <= moment


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _etag_by_end(signed: bytes) -> str:
    """Return the validator of something that ends with its signature, however long it is."""
    return _etag(signed[-_SIGNATURE_END:])


def _place(request: Request) -> tuple[str, int]:
    issuer, shard = request.path_params["issuer"], request.path_params["shard"]
    if not _is_key_id(issuer) or not _is_shard(shard):
        raise HTTPException(404)
    return issuer, int(shard)


def _is_key_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_KEY_ID and set(text) <= set("0123456789abcdef")


def _is_shard(text: str) -> bool:
    return 0 < len(text) <= _MAX_SHARD_DIGITS and text.isascii() and text.isdigit()


def _json(document: Mapping[str, Any], *, status: int = 200) -> Response:
    return Response(
        json.dumps(document),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    details = {404: "there is nothing here", 405: "this port only answers GET and HEAD"}
    response = http_problem(
        error.status_code, details.get(error.status_code, error.detail)
    ).to_response()
    response.headers.update(error.headers or {})
    return response


async def _on_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, LegationError):
        raise error
    return problem_of(error).to_response()
