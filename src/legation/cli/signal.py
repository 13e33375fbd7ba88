"""``legation signal``: what is suspected, why, and the answer to it."""

from typing import Any

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command, Group
from legation.cli.output import Column, note, output_option, show_list, show_one
from legation.cli.revoke import follow, tell

_SIGNALS: tuple[Column, ...] = (
    ("signal", "id"),
    ("severity", "severity"),
    ("kind", "kind"),
    ("identity", "spiffe_id"),
    ("count", "count"),
    ("last seen", "last"),
    ("state", "state"),
    ("what", "summary"),
)
_EVIDENCE: tuple[Column, ...] = (
    ("at", "at"),
    ("node", lambda row: row["agent"].rpartition("/")[2]),
    ("point", "point"),
    ("from", "address"),
    ("outcome", "outcome"),
    ("count", "count"),
)
_STATES = ("open", "dismissed", "responded")


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation signal list
      legation signal show 3
      legation signal respond 3 --wait
      legation signal dismiss 4 --note "the new office gateway"
    """,
)
def signal() -> None:
    """See what looks like misuse, and answer it."""


@signal.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what was decided.")
@click.option("--state", type=click.Choice(_STATES), help="Only these.")
@connection_options
@output_option
def list_signals(
    *, everything: bool, state: str | None, connection: Connection, output: str
) -> None:
    """List signals that nobody has decided on, the newest first."""
    wanted = state or (None if everything else "open")
    with connection.open() as client:
        rows = list(client.pages("signals", state=wanted))
    show_list(rows, _SIGNALS, output=output, empty="nothing is suspected")


@signal.command()
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@connection_options
@output_option
def show(*, number: int, connection: Connection, output: str) -> None:
    """Show a signal, its evidence, and the command that answers it."""
    with connection.open() as client:
        _show(client.get("signals", str(number)), output)


@signal.command(
    cls=Command,
    epilog="""
    Examples:
      legation signal dismiss 4 --note "the new office gateway"

    What was new about it is learned: the network, or the rate. The same certificate or identity
    raises no second signal of the same kind.
    """,
)
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@click.option("--note", "why", default="", help="Why it is ordinary; for the audit log.")
@connection_options
@output_option
def dismiss(*, number: int, why: str, connection: Connection, output: str) -> None:
    """Call a signal ordinary."""
    with connection.open() as client:
        found = client.post("signals", str(number), "dismiss", body={"note": why})
    if output != "table":
        show_one(found, output=output)
    note(f"signal {number} is dismissed")


@signal.command(
    cls=Command,
    epilog="""
    Examples:
      legation signal respond 3 --wait

    It revokes what `legation signal show` says, by the rules of `legation revoke`: exit status 4
    means that another administrator has to agree first, 7 that an enforcement point has not said
    in time that it refuses.
    """,
)
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until every enforcement point refuses.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 600), default=30.0,
              show_default=True, metavar="SECONDS", help="How long to wait.")  # fmt: skip
@connection_options
@output_option
def respond(*, number: int, wait: bool, wait_s: float, connection: Connection, output: str) -> None:
    """Revoke what a signal proposes."""
    with connection.open() as client:
        outcome = client.post("signals", str(number), "respond")["revocation"]
        if output == "table":
            tell(outcome)
        follow(client, outcome, wait_s=wait_s if wait else None,
               silence_s=wait_s + connection.timeout_s, output=output)  # fmt: skip


def _show(found: dict[str, Any], output: str) -> None:
    if output != "table":
        show_one(found, output=output)
        return
    brief = {
        "signal": f"{found['id']}, {found['severity']}, {found['state']}",
        "kind": found["kind"],
        "identity": found["spiffe_id"],
        "serial": found["serial"] or "-",
        "asked for by": found["requester"],
        "what": found["summary"],
        "seen": f"{found['count']} times, {found['first']} to {found['last']}",
    }
    if found["decided_by"]:
        brief["decided"] = f"{found['decided_by']}, {found['decided_at']}: {found['note'] or '-'}"
    width = max(map(len, brief))
    for name, value in brief.items():
        click.echo(f"{name:<{width}}  {value}")
    click.echo()
    show_list(found["evidence"], _EVIDENCE, output=output)
    if found["state"] == "open":
        click.echo()
        click.echo(f"To revoke {found['response']['revokes']}:")
        click.echo(f"  legation signal respond {found['id']} --wait")
        click.echo("The same by hand:")
        click.echo(f"  {found['response']['command']}")
