"""``legation agent``: the agent of a node."""

from pathlib import Path

import click

from legation.cli.configured import Flags, config_options
from legation.cli.lazy import Group


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation agent run --authority ca.example.org:8443 \\
          --trust-bundle bundle.pem --join-token-file join-token
      legation agent run --config /etc/legation/agent.toml
    """,
)
def agent() -> None:
    """Run the agent of a node."""


@agent.command(
    epilog="""
    Examples:
      legation agent run --authority ca.example.org:8443 \\
          --trust-bundle bundle.pem --join-token-file join-token      (the first start)
      legation agent run                                              (every later one)

    The join token may stand in LEGATION_JOIN_TOKEN as well. SIGHUP takes a changed log
    level over; SIGTERM ends the agent, and what its workloads hold goes on working.
    """
)
@config_options(
    {
        "--authority": ("server.api", "HOST:PORT of the authority's API."),
        "--authority-agents": ("server.agents", "HOST:PORT of its port for agents."),
        "--trust-domain": ("trust_domain", "The trust domain to join."),
        "--trust-bundle": ("trust_bundle_file", "PEM file with its roots, to enrol under."),
        "--ca-fingerprint": ("ca_fingerprint", "SHA-256 of its root, instead of the file."),
        "--join-token-file": ("join_token_file", "File with the join token."),
        "--data-dir": ("data_dir", "Directory of keys and feed."),
        "--socket": ("socket.path", "Path of the local socket."),
    }
)
def run(*, config_file: Path | None, flags: Flags) -> None:
    """Run the agent in the foreground; the first start enrols it."""
    from legation.cli.run_agent import run_agent

    run_agent(config_file, flags)
