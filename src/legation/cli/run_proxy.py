"""From a proxy's flags to a running Envoy."""

import asyncio
import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from legation.cli.supervision import Supervision, run
from legation.envoy.spec import ProxySpec
from legation.errors import TimedOut, Unavailable
from legation.proxy import ProxySupervisor, find_envoy

_log = logging.getLogger(__name__)
_REMIND_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRun:
    """What to run.

    Attributes:
        spec: what the proxy is for.
        socket: the agent's.
        envoy: the executable, or None to look for one.
        runtime_dir: where admin socket and bootstrap go, or None for a temporary directory.
        concurrency: Envoy's worker threads.
        drain_time_s: how long connections that must go may still finish.
        envoy_log_level: of Envoy's own log.
        json_log: whether Envoy logs JSON.
    """

    spec: ProxySpec
    socket: Path
    envoy: Path | None
    runtime_dir: Path | None
    concurrency: int
    drain_time_s: int
    envoy_log_level: str
    json_log: bool


def run_proxy(settings: ProxyRun) -> None:
    """Run Envoy until it is told to stop.

    Raises:
        Unavailable: there is no Envoy, or it ends again and again.
        InvalidInput: the executable or the runtime directory cannot be used.
    """
    envoy = find_envoy(settings.envoy)
    with contextlib.ExitStack() as stack:
        runtime_dir = settings.runtime_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="legation-proxy-"))
        )

        async def serve(supervision: Supervision) -> None:
            proxy = ProxySupervisor(
                settings.spec,
                agent_socket=settings.socket,
                runtime_dir=runtime_dir,
                envoy=envoy,
                concurrency=settings.concurrency,
                drain_time_s=settings.drain_time_s,
                log_level=settings.envoy_log_level,
                json_log=settings.json_log,
            )
            await proxy.start()
            try:
                await _watch(proxy, supervision)
            finally:
                await proxy.stop()

        run(serve)


async def _watch(proxy: ProxySupervisor, supervision: Supervision) -> None:
    """Say when the proxy is ready; return when told to stop.

    Raises:
        Unavailable: the supervisor has given Envoy up.
    """
    stop = asyncio.create_task(supervision.stop.wait())
    ended = asyncio.create_task(proxy.wait())
    ready = asyncio.create_task(_announce(proxy, supervision))
    try:
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            raise Unavailable(
                f"Envoy ended with status {ended.result()} and was given up",
                remedy="read the lines that it wrote above",
            )
    finally:
        for task in (stop, ended, ready):
            task.cancel()
        await asyncio.gather(stop, ended, ready, return_exceptions=True)


async def _announce(proxy: ProxySupervisor, supervision: Supervision) -> None:
    while True:
        try:
            await proxy.wait_ready(_REMIND_S)
        except TimedOut as error:
            _log.warning("%s", error)
        except Unavailable:
            return  # `_watch` says so
        else:
            supervision.ready(f"proxy {proxy.spec.name}")
            return
