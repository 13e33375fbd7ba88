"""Requests over HTTPS to the authority, one after another on one connection."""

import asyncio
import ssl

import h11

from legation.agent.upstream.connection import Connection, Verify, connect
from legation.agent.upstream.problems import error_of
from legation.config.values import Address
from legation.errors import TimedOut, Unavailable

CALL_TIMEOUT_S = 20.0


class HTTPSClient:
    """Asks the authority; keeps the connection for the next request.

    Args:
        address: the authority's HTTPS listener.
        verify: raises VerificationError unless the chain, leaf first, is the authority's.
    """

    def __init__(self, address: Address, *, verify: Verify) -> None:
        self._address = address
        self._verify = verify
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def post(
        self, path: str, body: bytes, *, media_type: str, limit: int, context: ssl.SSLContext
    ) -> bytes:
        """Send a request and return the body of its answer.

        Args:
            path: of the resource.
            body: of the request.
            media_type: of both bodies.
            limit: most bytes of an answer.
            context: what to connect with; another one than before means a new connection.

        Raises:
            LegationError: the authority's own refusal, with its code and remedy.
            LimitExceeded: the answer is longer than `limit`.
            TimedOut, Unavailable: there is none.
            VerificationError: the server is not the authority; nothing was sent.
            OSError: the connection cannot be made or broke (covers ssl.SSLError).
        """
        request = h11.Request(
            method="POST",
            target=path,
            headers=[
                ("host", str(self._address)),
                ("content-type", media_type),
                ("content-length", str(len(body))),
            ],
        )
        async with self._turn:
            return await self._ask(request, body, limit=limit, context=context)

    def close(self) -> None:
        """Close the connection; for when no request is in progress."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def retire(self) -> None:
        """Close the connection unless a request is in progress on it."""
        if not self._turn.locked():
            self.close()

    async def _ask(
        self, request: h11.Request, body: bytes, *, limit: int, context: ssl.SSLContext
    ) -> bytes:
        connection = self._kept(context)
        if connection is not None:
            try:
                return await self._exchange(connection, request, body, limit=limit)
            except _Stale:
                # The server closed the idle connection while we wrote (RFC 9112, section
                # 9.3.1). Asking again is safe: at worst a certificate is issued that
                # nobody has the use of.
                self.close()
        connection = self._connection = await connect(
            self._address, context=context, verify=self._verify
        )
        try:
            return await self._exchange(connection, request, body, limit=limit)
        except _Stale:
            self.close()
            raise Unavailable("the authority closed the connection without an answer") from None

    def _kept(self, context: ssl.SSLContext) -> Connection | None:
        kept = self._connection
        if kept is not None and (kept.context is not context or not kept.usable):
            self.close()
        return self._connection

    async def _exchange(
        self, connection: Connection, request: h11.Request, body: bytes, *, limit: int
    ) -> bytes:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                status, content = await _exchanged(connection, request, body, limit=limit)
        except TimeoutError:
            self.close()
            raise TimedOut("the authority did not answer in time") from None
        except h11.RemoteProtocolError as error:
            self.close()
            raise Unavailable(f"the authority's answer is not HTTP: {error}") from None
        except _Stale:
            raise
        except BaseException:
            self.close()
            raise
        if status != 200:
            raise error_of(status, content)
        return content


class _Stale(Exception):
    """The connection ended before the first byte of an answer."""


async def _exchanged(
    connection: Connection, request: h11.Request, body: bytes, *, limit: int
) -> tuple[int, bytes]:
    """Send a request; return status and body of its answer.

    Raises:
        _Stale: there was no answer at all.
    """
    try:
        await connection.send(request, h11.Data(data=body), h11.EndOfMessage())
        answered = await connection.answered()
    except ConnectionError:
        raise _Stale from None
    if not answered:
        raise _Stale
    return await connection.status(), await connection.content(limit=limit)
