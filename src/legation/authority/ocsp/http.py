"""OCSP over HTTP (RFC 6960, appendix A; RFC 5019, sections 5 and 6): an ASGI application.

Without a framework: an answer that is kept already costs less than routing it would.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Final

from legation.authority.http.requests import (
    ClientGone,
    Header,
    Receive,
    RequestRefused,
    check_headers,
    read_body,
)
from legation.authority.ocsp.cache import Reply
from legation.authority.ocsp.service import OCSPService
from legation.authority.rest.problems import problem_headers
from legation.authority.settings import OCSP_PATH
from legation.clock import Clock
from legation.pki.ocsp import MAX_REQUEST_SIZE, OCSPError, build_error

REQUEST_TYPE: Final = b"application/ocsp-request"
# As for revocation lists: a revoked certificate must not stay accepted because a cache kept
# the answer from before. Caches ask again at least so often, whatever nextUpdate allows.
MAX_AGE_S: Final = 300
_RESPONSE_TYPE: Final = (b"content-type", b"application/ocsp-response")
_NO_STORE: Final = (b"cache-control", b"no-store")
_INTERNAL: Final = OCSPError.INTERNAL_ERROR
_FAILED: Final = Reply(der=build_error(_INTERNAL), says=str(_INTERNAL))
_log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class OCSPHTTP:
    """Serves `OCSP_PATH` and what is below it."""

    def __init__(self, ocsp: OCSPService, *, clock: Clock) -> None:
        self._ocsp = ocsp
        self._clock = clock

    @staticmethod
    def serves(path: str) -> bool:
        """Tell whether a path is for this application."""
        return path.startswith(OCSP_PATH) and path[len(OCSP_PATH) : len(OCSP_PATH) + 1] in {"", "/"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._respond(scope, receive, send)
        except RequestRefused as refusal:
            await _send_problem(send, refusal)
        except ClientGone:
            pass

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, headers = scope["method"], scope["headers"]
        if method in {"GET", "HEAD"}:
            data = _from_path(scope["path"])
        elif method == "POST":
            check_headers(headers, media_type=REQUEST_TYPE, limit=MAX_REQUEST_SIZE)
            data = await read_body(receive, limit=MAX_REQUEST_SIZE)
        else:
            raise RequestRefused(
                405, "this path takes GET and POST", (b"allow", b"GET, HEAD, POST")
            )
        reply = await self._answer(data)
        fields = self._headers(reply)
        if method != "POST" and reply.etag and _has_already(headers, reply.etag):
            await _send(send, 304, b"", fields, length=None)
            return
        body = b"" if method == "HEAD" else reply.der
        await _send(send, 200, body, fields, length=len(reply.der))

    async def _answer(self, data: bytes) -> Reply:
        try:
            return await self._ocsp.answer(data)
        except Exception:
            _log.exception("an OCSP request failed")
            return _FAILED

    def _headers(self, reply: Reply) -> tuple[Header, ...]:
        """Return what lets caches keep a response (RFC 5019, section 6.2)."""
        if reply.this_update is None or reply.next_update is None:
            return (_RESPONSE_TYPE, _NO_STORE)
        now = self._clock.now()
        left = min(int((reply.next_update - now).total_seconds()), MAX_AGE_S)
        if left <= 0:
            return (_RESPONSE_TYPE, _NO_STORE)
        return (
            _RESPONSE_TYPE,
            (b"cache-control", _cache_control(left)),
            (b"etag", reply.etag.encode()),
            (b"expires", _http_date(int(now.timestamp()) + left)),
            (b"last-modified", _http_date(int(reply.this_update.timestamp()))),
        )


def _from_path(path: str) -> bytes:
    """Return the request that a path carries in Base64; nothing, which is malformed, if none.

    The server has decoded percent signs already, and a slash of the Base64 may come as it is.
    """
    text = path[len(OCSP_PATH) + 1 :]
    if len(text) > MAX_REQUEST_SIZE * 4 // 3 + 4:
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _has_already(headers: list[Header], etag: str) -> bool:
    """Tell whether the client holds this very response (RFC 9110, section 13.1.2)."""
    for name, value in headers:
        if name == b"if-none-match":
            tags = {tag.strip().removeprefix("W/") for tag in value.decode("latin-1").split(",")}
            return etag in tags or "*" in tags
    return False


@lru_cache(maxsize=MAX_AGE_S)
def _cache_control(max_age_s: int) -> bytes:
    return f"max-age={max_age_s}, public, no-transform, must-revalidate".encode()


@lru_cache(maxsize=1024)
def _http_date(second: int) -> bytes:
    return format_datetime(datetime.fromtimestamp(second, UTC), usegmt=True).encode()


async def _send_problem(send: Send, refusal: RequestRefused) -> None:
    body = refusal.problem.to_json()
    headers = (*problem_headers(refusal.problem), _NO_STORE, *refusal.headers)
    await _send(send, refusal.problem.status, body, headers, length=len(body))


async def _send(
    send: Send, status: int, body: bytes, headers: tuple[Header, ...], *, length: int | None
) -> None:
    if length is not None:
        headers = (*headers, (b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
