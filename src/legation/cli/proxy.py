"""``legation proxy``: Envoy beside a service."""

from pathlib import Path
from typing import Any

import click

from legation.cli.arguments import DURATION, SPIFFE_ID
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

    LISTEN, APP and HOST:PORT are addresses. protocol is http, http2 (also gRPC) or tcp; it
    is what the service itself speaks, and http if absent. SIGTERM drains, then ends Envoy.
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
@click.option("--concurrency", type=click.IntRange(1, 256), default=2, show_default=True,
              help="Worker threads of Envoy.")  # fmt: skip
@click.option("--drain-time", "drain_time_s", type=DURATION, default="5s", show_default=True,
              help="How long connections that must go may still finish.")  # fmt: skip
@click.option("--envoy-log-level", type=click.Choice(("debug", "info", "warning", "error")),
              default="warning", show_default=True)  # fmt: skip
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True)
def run(
    *,
    name: str,
    spiffe_id: str | None,
    inbound: tuple[str, ...],
    outbound: tuple[str, ...],
    log_level: str,
    log_format: str,
    **settings: Any,
) -> None:
    """Run Envoy under supervision, configured by the agent."""
    if not inbound and not outbound:
        raise click.UsageError("give at least one of --inbound and --outbound")
    from legation.cli import logs
    from legation.cli.proxy_flags import proxy_spec
    from legation.cli.run_proxy import ProxyRun, run_proxy

    spec = proxy_spec(name, inbound=inbound, outbound=outbound, spiffe_id=spiffe_id)
    logs.configure(level=log_level, form=log_format)
    run_proxy(ProxyRun(spec=spec, json_log=log_format == "json", **settings))
