"""Reading a bounded request, for the ASGI applications that no framework serves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from legation.authority.rest.problems import Problem, http_problem

BODY_S = 15.0

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class RequestRefused(Exception):
    """What HTTP itself finds wrong with a request, and the headers that say more."""

    def __init__(self, status: int, detail: str, *headers: Header) -> None:
        super().__init__(detail)
        self.problem: Problem = http_problem(status, detail)
        self.headers = headers


class ClientGone(Exception):
    """The client has closed: nobody waits for an answer."""


def check_headers(headers: list[Header], *, media_type: bytes, limit: int) -> None:
    """Refuse before it is read what can be refused.

    Raises:
        RequestRefused: the media type is another, or the body longer than `limit` bytes.
    """
    found, length = b"", 0
    for name, value in headers:
        if name == b"content-type":
            found = value
        elif name == b"content-length":
            length = int(value)  # the HTTP parser has seen that it is a number
    if found != media_type and found.partition(b";")[0].strip().lower() != media_type:
        raise RequestRefused(415, f"send the body as {media_type.decode()}")
    if length > limit:
        raise _too_large(limit)


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes.

    Raises:
        RequestRefused: it is too long, or does not come in time.
        ClientGone: it will never be complete.
    """
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                parts.append(message["body"])
                size, more = size + len(message["body"]), message["more_body"]
                if size > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise RequestRefused(408, "the body did not come in time") from None
    return b"".join(parts)


def _too_large(limit: int) -> RequestRefused:
    return RequestRefused(413, f"a body has at most {limit} bytes")
