"""``legation audit``: who did what, and when."""

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, output_option, show_list

_COLUMNS: tuple[Column, ...] = (
    ("no", "sequence"),
    ("time", "time"),
    ("actor", "actor"),
    ("action", "action"),
    ("subject", "subject"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation audit list --limit 20
      legation audit list --after 4711 -o json
    """,
)
def audit() -> None:
    """Read who did what, and when."""


@audit.command("list")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, help="Sequence number to go on after."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@connection_options
@output_option
def list_entries(*, after: int, limit: int, connection: Connection, output: str) -> None:
    """List entries of the audit log, the oldest first. JSON has the detail of each."""
    with connection.open() as client:
        rows = list(client.pages("audit", most=limit, after=after))
    show_list(rows, _COLUMNS, output=output, empty="no entries after that one")
