"""The page that Prometheus reads, and what is answered to anything else.

One look at a role serves everyone who asks within a second, so that nobody can make a role
busy by asking often.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

import legation
from legation.clock import Clock
from legation.observe.metric import Look, gauge

PATH: Final = "/metrics"
BUILD_INFO: Final = gauge(
    "legation_build_info", "Always 1; what runs here is in the labels.", "version", "role"
)
KEPT_S: Final = 1.0
_METHODS: Final = ("GET", "HEAD")
_TEXT: Final = "text/plain; charset=utf-8"
# Every version of Prometheus reads it, and we have nothing to say that needs another format.
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_log = logging.getLogger(__name__)

Refresh = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer to a request."""

    status: int
    media_type: str
    body: bytes
    allow: str = ""


@dataclass(frozen=True, slots=True)
class _Build:
    role: str

    def collect(self) -> Look:
        look = Look((BUILD_INFO,))
        look.put(BUILD_INFO, 1, legation.__version__, self.role)
        return look


def new_registry(role: str) -> CollectorRegistry:
    """Return a registry that knows the process and the build, and nothing of other registries."""
    # Every counter would bring along a second series that says when it began.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(_Build(role))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class MetricsPage:
    """Answers requests from a registry.

    Args:
        registry: what is shown.
        refresh: awaited before the registry is read: what a look needs that cannot be had at once.
        clock: the time.
    """

    def __init__(self, registry: CollectorRegistry, refresh: Refresh, *, clock: Clock) -> None:
        self._registry = registry
        self._refresh = refresh
        self._clock = clock
        self._looking = asyncio.Lock()
        self._kept = b""
        self._kept_at = float("-inf")

    async def answer(self, method: str, path: str) -> Response:
        """Answer one request; never raises.

        Args:
            method: of the request.
            path: of its target, without the query.
        """
        if path != PATH:
            return Response(status=404, media_type=_TEXT, body=b"there is only /metrics here\n")
        if method not in _METHODS:
            said = b"/metrics is only read\n"
            return Response(status=405, media_type=_TEXT, body=said, allow=", ".join(_METHODS))
        try:
            return await self._page()
        except Exception:
            _log.exception("the metrics cannot be read")
            return Response(status=500, media_type=_TEXT, body=b"the metrics cannot be read\n")

    async def _page(self) -> Response:
        async with self._looking:
            if self._clock.monotonic() - self._kept_at >= KEPT_S:
                await self._refresh()
                self._kept = generate_latest(self._registry)
                self._kept_at = self._clock.monotonic()
            return Response(status=200, media_type=_EXPOSITION, body=self._kept)
