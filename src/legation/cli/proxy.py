"""``legation proxy``: Envoy beside a service."""

from pathlib import Path

import click

from legation.cli.arguments import SPIFFE_ID
from legation.cli.lazy import Group
from legation.cli.logs import FORMATS, LEVELS


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation proxy run --inbound 0.0.0.0:8443=127.0.0.1:8080
    """,
)
def proxy() -> None:
    """Run Envoy beside a service."""


@proxy.command(
    epilog="""
    Examples:
      legation proxy run --name api --inbound 0.0.0.0:8443=127.0.0.1:8080
      legation proxy run --name web \\
          --outbound 127.0.0.1:9001=spiffe://example.org/api@api.example.org:8443
      legation proxy run --name db --inbound 0.0.0.0:5433=127.0.0.1:5432,protocol=tcp
      legation proxy run --name api --inbound 0.0.0.0:8443=127.0.0.1:8080 -- --concurrency 2

    LISTEN, APP and HOST:PORT are addresses. protocol is http, http2 (also gRPC) or tcp; it
    is what the service itself speaks, and http if absent. What stands after -- goes to Envoy.
    """
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/run/legation/agent.sock"),
    show_default=True,
    help="The agent's socket.",
)
@click.option("--name", default="proxy", show_default=True, help="Name of this proxy on its node.")
@click.option("--spiffe-id", type=SPIFFE_ID, help="Its identity, if its entries allow several.")
@click.option(
    "--inbound",
    multiple=True,
    metavar="LISTEN=APP[,protocol=…]",
    help="Serve APP with mutual TLS at LISTEN.  [repeatable]",
)
@click.option(
    "--outbound",
    multiple=True,
    metavar="LISTEN=SPIFFE-ID@HOST:PORT[,protocol=…]",
    help="Call a peer, who must be SPIFFE-ID, through LISTEN.  [repeatable]",
)
@click.option("--envoy", type=click.Path(path_type=Path), help="The Envoy executable.")
@click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    help="Where the admin socket and the bootstrap go; a temporary directory if absent.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True)
@click.argument("envoy_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENVOY-ARGS…]")
def run(
    *,
    socket: Path,
    name: str,
    spiffe_id: str | None,
    inbound: tuple[str, ...],
    outbound: tuple[str, ...],
    envoy: Path | None,
    runtime_dir: Path | None,
    log_level: str,
    log_format: str,
    envoy_arguments: tuple[str, ...],
) -> None:
    """Run Envoy under supervision, configured by the agent."""
    if not inbound and not outbound:
        raise click.UsageError("give at least one of --inbound and --outbound")
    from legation.cli import logs
    from legation.cli.proxy_flags import proxy_spec
    from legation.cli.run_proxy import ProxyRun, run_proxy

    spec = proxy_spec(name, inbound=inbound, outbound=outbound, spiffe_id=spiffe_id)
    logs.configure(level=log_level, form=log_format)
    run_proxy(
        ProxyRun(
            spec=spec,
            socket=socket,
            envoy=envoy,
            runtime_dir=runtime_dir,
            log_level=log_level,
            envoy_arguments=envoy_arguments,
        )
    )
