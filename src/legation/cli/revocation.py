"""``legation revocation``: see and lift revocations."""

import click

from legation.cli.arguments import SPIFFE_ID
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list

_REVOKED: tuple[Column, ...] = (
    ("serial", "serial"),
    ("spiffe id", "spiffe_id"),
    ("reason", "reason"),
    ("revoked", "revoked_at"),
    ("expires", "expires_at"),
)
_BANS: tuple[Column, ...] = (
    ("banned identity", "spiffe_id"),
    ("reason", "reason"),
    ("since", "since"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation revocation list
      legation revocation lift spiffe://example.org/api
    """,
)
def revocation() -> None:
    """See and lift revocations."""


@revocation.command("list")
@connection_options
@output_option
def list_revocations(*, connection: Connection, output: str) -> None:
    """List bans, and revoked certificates that have not expired."""
    with connection.open() as client:
        revoked = list(client.pages("revocations"))
        bans = list(client.pages("bans"))
    if output != "table":
        show_list(revoked, (), output=output, extra={"bans": bans})
        return
    show_list(bans, _BANS, output=output)
    if bans and revoked:
        click.echo()
    show_list(revoked, _REVOKED, output=output)
    if not bans and not revoked:
        note("nothing is revoked")


@revocation.command()
@click.argument("identity", type=SPIFFE_ID)
@connection_options
def lift(*, identity: str, connection: Connection) -> None:
    """Lift the ban of an identity, so that it may be issued again.

    What was revoked stays revoked: a certificate is never un-revoked.
    """
    with connection.open() as client:
        client.delete("bans", identity)
    note(f"{identity} may be issued again; its revoked certificates stay revoked")
