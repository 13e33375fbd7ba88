"""``legation server``: the authority."""

from pathlib import Path

import click

from legation.cli.arguments import DURATION
from legation.cli.configured import Flags, config_options
from legation.cli.lazy import Group
from legation.cli.output import output_option

_FLAGS = {
    "--trust-domain": ("trust_domain", "The trust domain that it certifies."),
    "--data-dir": ("data_dir", "Directory of the store."),
    "--listen": ("listen.api", "HOST:PORT for operators, enrolment and certificates (HTTPS)."),
    "--listen-status": ("listen.status", "HOST:PORT for CRLs and health (HTTP)."),
    "--listen-metrics": ("listen.metrics", "HOST:PORT for Prometheus (HTTP); off if absent."),
    "--status-url": ("status_url", "Base URL of the status port as others reach it."),
}
_operator_folder = click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to put operator.pem and bundle.pem; `operator` in the data directory if absent.",
)
_operator_lifetime = click.option("--lifetime", type=DURATION, help="Of the certificate.")


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation server init --trust-domain example.org
      legation server run --trust-domain example.org
      legation server run --config /etc/legation/server.toml
    """,
)
def server() -> None:
    """Set up and run the authority."""


@server.command(
    epilog="""
    Examples:
      legation server init --trust-domain example.org
      legation server init --config /etc/legation/server.toml --operator alice

    Unless the configuration names another, a key-encryption key is made in the data
    directory. Keep a copy of it elsewhere: without it the authority's keys stay shut.
    """
)
@config_options(_FLAGS)
@click.option("--operator", default="admin", show_default=True, help="Name of the first operator.")
@_operator_folder
@_operator_lifetime
@output_option
def init(
    *,
    config_file: Path | None,
    flags: Flags,
    operator: str,
    folder: Path | None,
    lifetime: int | None,
    output: str,
) -> None:
    """Make a new authority: keys, root, issuer, and the first operator."""
    from legation.cli.server_setup import FirstCredential, initialise, tell

    credential = FirstCredential(name=operator, folder=folder, lifetime_s=lifetime)
    tell(initialise(config_file, flags, credential), config_file, output=output)


@server.command(
    epilog="""
    Examples:
      legation server run --trust-domain example.org
      legation server run --config /etc/legation/server.toml --log-format json

    SIGHUP takes a changed log level over; SIGTERM ends the authority gracefully, which
    agents and workloads survive.
    """
)
@config_options(_FLAGS)
def run(*, config_file: Path | None, flags: Flags) -> None:
    """Run the authority in the foreground."""
    from legation.cli.run_server import run_server

    run_server(config_file, flags)


@server.command(
    epilog="""
    Examples:
      systemctl stop legation-server
      legation server restore --config /etc/legation/server.toml --accept-loss /backup/authority.db
      systemctl start legation-server

    Without COPY the store is taken as it lies in the data directory, for when a whole disk or
    machine went back in time. The file that was there is kept beside the new one.
    """
)
@click.argument(
    "copy", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
@config_options(_FLAGS)
@click.option("--accept-loss", is_flag=True, help="What was done after the copy may be lost.")
@output_option
def restore(
    *, copy: Path | None, config_file: Path | None, flags: Flags, accept_loss: bool, output: str
) -> None:
    """Go on from COPY, a copy of the store, while the authority does not run.

    Begins a new feed, leaves room for serial numbers that were used after the copy, and signs
    every revocation list anew, so that nothing the authority says looks older than what agents
    have seen. What the copy does not know has to be revoked and created again.
    """
    from legation.cli.server_restore import restore as restore_store
    from legation.errors import InvalidInput

    if not accept_loss:
        raise InvalidInput(
            "what was done after the copy would be lost, revocations included",
            remedy="if that is meant, say --accept-loss",
        )
    restore_store(copy, config_file, flags, output=output)


@server.command(
    "operator-certificate",
    epilog="""
    Examples:
      systemctl stop legation-server
      legation server operator-certificate --config /etc/legation/server.toml \\
          --operator rescue --to /root/rescue
      systemctl start legation-server
    """,
)
@config_options(_FLAGS)
@click.option("--operator", default="admin", show_default=True, help="Whom to make an admin.")
@_operator_folder
@_operator_lifetime
def operator_certificate(
    *,
    config_file: Path | None,
    flags: Flags,
    operator: str,
    folder: Path | None,
    lifetime: int | None,
) -> None:
    """Make an admin when nobody can administer any more (break glass).

    Works on the store itself, so the authority must be stopped, and whoever runs this
    can read its keys anyway. It stands in the audit log.
    """
    from legation.cli.server_setup import FirstCredential, certify_offline

    credential = FirstCredential(name=operator, folder=folder, lifetime_s=lifetime)
    certify_offline(config_file, flags, credential)
