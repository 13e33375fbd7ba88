"""``legation status``: how the authority or an agent is."""

from pathlib import Path
from typing import Any

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command
from legation.cli.output import Column, output_option, show_list, show_one

_AGENTS: tuple[Column, ...] = (
    ("agent", lambda row: row["spiffe_id"].rpartition("/")[2]),
    ("connected", "connected"),
    ("revision", "revision"),
    ("last contact", "last_contact"),
    ("version", "version"),
)
_POINTS: tuple[Column, ...] = (
    ("enforcement point", "id"),
    ("kind", "kind"),
    ("spiffe id", "spiffe_id"),
    ("agent", lambda row: row["agent"].rpartition("/")[2]),
    ("connected", "connected"),
    ("revision", "revision"),
    ("notes", "notes"),
)

_NOT_IN_FORCE: tuple[Column, ...] = (
    ("not in force", "spiffe_id"),
    ("point", "point"),
    ("issued", "serial_issued"),
    ("in force", lambda row: row["serial_in_force"] or "?"),
    ("since", "since"),
    ("problem", "problem"),
)


@click.command(
    cls=Command,
    epilog="""
    Examples:
      legation status                                 the authority, its agents, who has the memo
      legation status --agent /run/legation/agent.sock
    """,
)
@click.option(
    "--agent",
    "socket",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Ask the agent on this socket instead of the authority.",
)
@connection_options
@output_option
def status(*, socket: Path | None, connection: Connection, output: str) -> None:
    """Show how the authority, or the agent of this node, is."""
    if socket is not None:
        from legation.cli.agent_status import fetch, show

        show(fetch(socket, timeout_s=connection.timeout_s), output=output)
        return
    with connection.open() as client:
        document: dict[str, Any] = client.get("status")
        agents = list(client.pages("agents"))
        points = [row for row in client.pages("propagation") if row["standing"] != "left"]
        differing = [
            row
            for row in client.pages("in-force")
            if row["serial_issued"] != row["serial_in_force"]
        ]
    if output != "table":
        show_one(
            {**document, "agents": agents, "points": points, "not_in_force": differing},
            output=output,
        )
        return
    show_one(document, output=output)
    click.echo()
    show_list(agents, _AGENTS, output=output, empty="no agent has joined: legation token create")
    if points:
        click.echo()
        show_list(points, _POINTS, output=output)
    if differing:
        click.echo()
        show_list(differing, _NOT_IN_FORCE, output=output)
