"""Serves the authority's metrics on a listener of their own."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from legation.authority.background import run_in_background
from legation.authority.http.connection import Limits
from legation.authority.http.server import HTTPServer
from legation.authority.wiring import Authority
from legation.clock import Clock
from legation.config.values import Address
from legation.observe.authority.counting import EventCounts, PropagationCounts
from legation.observe.authority.propagation import FollowedRevocations, PropagationWatch
from legation.observe.authority.state import AuthorityState
from legation.observe.exposition import MetricsPage, new_registry
from legation.observe.listening import about_metrics
from legation.observe.metric import Instruments

_LIMITS: Final = Limits(connections=16, head_bytes=8 << 10)


@contextlib.asynccontextmanager
async def authority_metrics(
    authority: Authority, at: Address, *, clock: Clock
) -> AsyncIterator[int]:
    """Serve the metrics of a running authority; yields the port.

    Raises:
        Unavailable: the address cannot be listened on.
    """
    registry = new_registry("authority")
    instruments = Instruments(registry)
    services = authority.services
    state = AuthorityState(services, authority.ocsp, clock=clock)
    registry.register(state)
    watch = PropagationWatch(
        services.propagation,
        FollowedRevocations(
            PropagationCounts(instruments), revision=services.status.status()["revision"]
        ),
        clock=clock,
    )
    async with contextlib.AsyncExitStack() as stack:
        for subscriber in (EventCounts(instruments), watch):
            stack.callback(authority.events.subscribe(subscriber))
        run_in_background(stack, "metrics of propagation", watch.run)
        page = MetricsPage(registry, state.refresh, clock=clock)
        server = HTTPServer(_application(page), host=at.host, port=at.port, limits=_LIMITS)
        with about_metrics():
            await server.start()
        stack.push_async_callback(server.stop)
        yield server.port


def _application(page: MetricsPage) -> Any:
    async def application(scope: Any, _receive: Any, send: Any) -> None:
        found = await page.answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", found.media_type.encode()),
            (b"content-length", b"%d" % len(found.body)),
            (b"cache-control", b"no-store"),
        ]
        if found.allow:
            headers.append((b"allow", found.allow.encode()))
        body = b"" if scope["method"] == "HEAD" else found.body
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application
