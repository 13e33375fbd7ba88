"""From the authority's configuration to a running authority and its listeners."""

from contextlib import AsyncExitStack
from pathlib import Path

from legation.authority.http_server import HTTPServer
from legation.authority.https import ServingTLS
from legation.authority.rest.application import build_application
from legation.authority.serving import ServingCredentials
from legation.authority.settings import AuthoritySettings
from legation.authority.status_http import build_status_application
from legation.authority.wiring import Authority, build
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
            api = HTTPServer(
                build_application(authority.services, clock=clock),
                host=config.listen.api.host,
                port=config.listen.api.port,
                tls=serving_tls(authority),
            )
            status = HTTPServer(
                build_status_application(authority.services.status, clock=clock),
                host=config.listen.status.host,
                port=config.listen.status.port,
            )
            for listener in (api, status):
                await listener.start()
                stack.push_async_callback(listener.stop)
            supervision.ready(
                f"{config.trust_domain}: operators on port {api.port}, "
                f"agents on {authority.agents_port}, status on {status.port}"
            )
            await supervision.stop.wait()

    run(serve)


def serving_tls(authority: Authority) -> ServingTLS:
    """Return TLS for a listener that follows the authority's own certificate."""
    first = authority.serving.credentials
    tls = ServingTLS(
        certificates_pem=first.certificates_pem,
        key_pem=first.key_pem,
        authorities_pem=first.authorities_pem,
    )

    def follow(credentials: ServingCredentials) -> None:
        tls.reload(
            certificates_pem=credentials.certificates_pem,
            key_pem=credentials.key_pem,
            authorities_pem=credentials.authorities_pem,
        )

    authority.serving.subscribe(follow)
    return tls
