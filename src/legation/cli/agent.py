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
        "--trust-domain": ("trust_domain", "The trust domain to join."),
        "--trust-bundle": ("trust_bundle_file", "PEM file with its roots, to enrol under."),
        "--ca-fingerprint": ("ca_fingerprint", "SHA-256 of its root, instead of the file."),
        "--join-token-file": ("join_token_file", "File with the join token."),
        "--data-dir": ("data_dir", "Directory of keys and feed."),
        "--socket": ("socket.path", "Path of the local socket."),
        "--listen-metrics": ("listen.metrics", "HOST:PORT for Prometheus (HTTP); off if absent."),
    }
)
def run(*, config_file: Path | None, flags: Flags) -> None:
    """Run the agent in the foreground; the first start enrols it."""
    from legation.cli.run_agent import run_agent

    run_agent(config_file, flags)


@agent.command(
    epilog="""
    Examples:
      legation agent enrol --authority ca.example.org:8443 \\
          --trust-bundle bundle.pem --join-token-file join-token
      legation agent enrol --again --join-token-file join-token       (it was away too long)

    An agent that runs, and whose certificate has expired, takes the new one up within
    five minutes; restart it to have it at once.
    """
)
@click.option("--again", is_flag=True, help="Replace the identity of this same agent.")
@config_options(
    {
        "--authority": ("server.api", "HOST:PORT of the authority's API."),
        "--trust-bundle": ("trust_bundle_file", "PEM file with its roots, to enrol under."),
        "--ca-fingerprint": ("ca_fingerprint", "SHA-256 of its root, instead of the file."),
        "--join-token-file": ("join_token_file", "File with the join token."),
        "--data-dir": ("data_dir", "Directory of keys and feed."),
    }
)
def enrol(*, again: bool, config_file: Path | None, flags: Flags) -> None:
    """Enrol the agent without running it, for the first time or again."""
    from legation.cli.enrol_agent import enrol_agent
    from legation.cli.output import note
    from legation.clock import to_rfc3339

    identity = enrol_agent(config_file, flags, again=again)
    note(f"{identity.spiffe_id} is enrolled until {to_rfc3339(identity.not_after)}")
