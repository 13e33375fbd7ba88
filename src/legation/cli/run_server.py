"""From the authority's configuration to a running authority and its listeners."""

from contextlib import AsyncExitStack
from pathlib import Path

from legation.authority.http.listeners import api_listener, status_listener
from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import build
from legation.cli.authority_settings import encryption_key, with_status_port
from legation.cli.configured import Flags, log_as, read_config, reload_log_level
from legation.cli.supervision import Supervision, run
from legation.clock import SystemClock
from legation.config import ServerConfig


def run_server(config_file: Path | None, flags: Flags) -> None:
    """Run the authority until it is told to stop.

    Raises:
        LegationError: the configuration, the store, a key or an address cannot be used.
    """
    config = with_status_port(read_config(ServerConfig, config_file, flags).config)
    log_as(config)

    async def serve(supervision: Supervision) -> None:
        reload_log_level(supervision, ServerConfig, config_file, flags)
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            authority = await stack.enter_async_context(
                build(
                    AuthoritySettings.from_config(config), clock=clock, kek=encryption_key(config)
                )
            )
            at = config.listen
            api = api_listener(authority, host=at.api.host, port=at.api.port, clock=clock)
            status = status_listener(
                authority, host=at.status.host, port=at.status.port, clock=clock
            )
            for listener in (api, status):
                await listener.start()
                stack.push_async_callback(listener.stop)
            shown = ""
            if at.metrics is not None:
                from legation.observe.authority import authority_metrics

                metrics = authority_metrics(authority, at.metrics, clock=clock)
                shown = f", metrics on {await stack.enter_async_context(metrics)}"
            supervision.ready(
                f"{config.trust_domain}: HTTPS on port {api.port}, status on {status.port}{shown}"
            )
            await supervision.stop.wait()

    run(serve)
