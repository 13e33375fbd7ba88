"""JWT-SVIDs from the Workload API: to show one's own, and to check those of others.

For paths that mutual TLS does not cover, such as a load balancer that ends TLS. A JWT-SVID is
a bearer token: whoever has it is its owner.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from legation.clock import Clock, SystemClock
from legation.errors import LegationError
from legation.pki.spiffe_id import SpiffeID
from legation.sdk.channel import METADATA, OPTIONS
from legation.sdk.endpoint import endpoint_target
from legation.sdk.jwt_cache import (
    JWTSVID,
    JWTCache,
    Key,
    ValidatedJWT,
    call_error,
    fetch_request,
    read_fetched,
    read_validated,
    validate_request,
)
from legation.sdk.workload import SERVICE

FETCH = f"{SERVICE}/FetchJWTSVID"
VALIDATE = f"{SERVICE}/ValidateJWTSVID"
DEFAULT_TIMEOUT_S = 10.0

__all__ = ["JWTSVID", "AsyncJWTSource", "JWTSource", "ValidatedJWT"]


class JWTSource:
    """Fetches, keeps and validates JWT-SVIDs. Safe to use from any thread.

    A token is kept by audience and renewed in the background once half of its life is over,
    so `fetch` waits for the agent only the first time.

    Args:
        address: as for `X509Source`, as are the others.

    Raises:
        NotFound, InvalidInput: the address is missing or none.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._cache = JWTCache(random.random)  # noqa: S311 - spreads renewals, guards nothing
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._fetch: Any = self._channel.unary_unary(FETCH)
        self._validate: Any = self._channel.unary_unary(VALIDATE)

    def fetch(
        self,
        *audience: str,
        spiffe_id: SpiffeID | str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> JWTSVID:
        """Return a token for this audience, one that has not expired.

        Args:
            audience: who will read it, one or more.
            spiffe_id: which of this process's identities; None for the default.
            timeout: how long to wait for the agent, in seconds.

        Raises:
            NotPermitted: this process has no such identity.
            NotFound: the Workload API serves no JWT-SVIDs.
            Unavailable, TimedOut: there is no token yet, and the agent does not answer.
            InvalidInput: no audience, or an answer that is none.
        """
        key, request = fetch_request(audience, spiffe_id)
        with self._lock:
            svid, renew = self._look(key)
        if svid is None:
            data = _unary(self._fetch, request, timeout=timeout)
            svid = self._keep(key, data)
        elif renew:
            call = self._fetch.future(request, metadata=METADATA, timeout=DEFAULT_TIMEOUT_S)
            call.add_done_callback(lambda done: self._renewed(key, done))
        return svid

    def validate(
        self, token: str, *, audience: str, timeout: float = DEFAULT_TIMEOUT_S
    ) -> ValidatedJWT:
        """Have the agent validate a token that somebody showed, for this audience.

        Raises:
            NotAuthenticated: it is not valid.
            NotFound, NotPermitted, Unavailable, TimedOut, InvalidInput: as `fetch`.
        """
        request = validate_request(token, audience)
        return read_validated(_unary(self._validate, request, timeout=timeout, validating=True))

    def close(self) -> None:
        """End all calls."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self, key: Key) -> tuple[JWTSVID | None, bool]:
        now = self._clock.now()
        return self._cache.look(key, at=now, monotonic=self._clock.monotonic())

    def _keep(self, key: Key, data: bytes) -> JWTSVID:
        svid = read_fetched(data, key)
        with self._lock:
            self._cache.keep(key, svid, at=self._clock.now())
        return svid

    def _renewed(self, key: Key, call: Any) -> None:
        try:
            self._keep(key, call.result())
        except (grpc.RpcError, grpc.FutureCancelledError, LegationError):
            with self._lock:
                self._cache.failed(key, monotonic=self._clock.monotonic())


def _unary(
    method: Callable[..., Any], request: bytes, *, timeout: float, validating: bool = False
) -> bytes:
    try:
        return bytes(method(request, metadata=METADATA, timeout=timeout, wait_for_ready=True))
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
        raise call_error(code, details, validating=validating) from None


class AsyncJWTSource:
    """`JWTSource` for asyncio. It belongs to the loop on which it is first used."""

    def __init__(
        self,
        address: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        unsafe_tcp: bool = False,
    ) -> None:
        self._target = endpoint_target(address, environment=environment, unsafe_tcp=unsafe_tcp)
        self._clock = clock or SystemClock()
        self._cache = JWTCache(random.random)  # noqa: S311 - spreads renewals, guards nothing
        self._opened: grpc.aio.Channel | None = None
        self._renewals: set[asyncio.Task[None]] = set()

    async def fetch(
        self,
        *audience: str,
        spiffe_id: SpiffeID | str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - as its twin
    ) -> JWTSVID:
        """Return a token for this audience, as `JWTSource.fetch`."""
        key, request = fetch_request(audience, spiffe_id)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        svid, renew = self._cache.look(key, at=now, monotonic=monotonic)
        if svid is None:
            return await self._get(key, request, timeout)
        if renew:
            task = asyncio.create_task(self._renew(key, request), name="legation JWT-SVID")
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)
        return svid

    async def validate(
        self,
        token: str,
        *,
        audience: str,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - as its twin
    ) -> ValidatedJWT:
        """Have the agent validate a token that somebody showed, as `JWTSource.validate`."""
        request = validate_request(token, audience)
        return read_validated(await self._call(VALIDATE, request, timeout))

    async def close(self) -> None:
        """End all calls."""
        for task in self._renewals:
            task.cancel()
        await asyncio.gather(*self._renewals, return_exceptions=True)
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _get(self, key: Key, request: bytes, timeout: float) -> JWTSVID:  # noqa: ASYNC109
        svid = read_fetched(await self._call(FETCH, request, timeout), key)
        self._cache.keep(key, svid, at=self._clock.now())
        return svid

    async def _renew(self, key: Key, request: bytes) -> None:
        try:
            await self._get(key, request, DEFAULT_TIMEOUT_S)
        except LegationError:
            self._cache.failed(key, monotonic=self._clock.monotonic())

    async def _call(self, path: str, request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        if self._opened is None:
            self._opened = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        method: Any = self._opened.unary_unary(path)
        try:
            return bytes(
                await method(request, metadata=METADATA, timeout=timeout, wait_for_ready=True)
            )
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            raise call_error(code, details, validating=path == VALIDATE) from None
