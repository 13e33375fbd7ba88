"""``legation revocation``: see revocations, take back what can be, agree to large ones."""

from typing import Any

import click

from legation.cli.arguments import SERIAL, SPIFFE_ID, agent_id
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command, Group
from legation.cli.output import Column, note, output_option, show_list
from legation.cli.revoke import follow, follow_removal, tell

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
_KEYS: tuple[Column, ...] = (
    ("banned key (sha-256)", "key"),
    ("reason", "reason"),
    ("since", "since"),
)
_REQUESTS: tuple[Column, ...] = (
    ("request", "id"),
    ("state", "state"),
    ("revokes", "scope"),
    ("certificates", "count"),
    ("reason", "reason"),
    ("asked for by", lambda row: row["requested_by"].rpartition("/")[2]),
    ("agree until", "expires_at"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation revocation list
      legation revocation lift spiffe://example.org/api
      legation revocation release --identity spiffe://example.org/api
      legation revocation pending
      legation revocation approve 5f0c3a9be27d4410
    """,
)
def revocation() -> None:
    """See revocations, take back what can be, agree to large ones."""


@revocation.command("list")
@connection_options
@output_option
def list_revocations(*, connection: Connection, output: str) -> None:
    """List bans, banned keys, and revoked certificates that have not expired."""
    with connection.open() as client:
        revoked = list(client.pages("revocations"))
        bans = list(client.pages("bans"))
        keys = list(client.pages("banned-keys"))
    if output != "table":
        show_list(revoked, (), output=output, extra={"bans": bans, "banned_keys": keys})
        return
    shown = False
    for rows, columns in ((bans, _BANS), (keys, _KEYS), (revoked, _REVOKED)):
        if rows and shown:
            click.echo()
        show_list(rows, columns, output=output)
        shown = shown or bool(rows)
    if not shown:
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


@revocation.command(
    cls=Command,
    epilog="""
    Examples:
      legation revocation release --serial 5f0c3a9be27d4410000000000000002a
      legation revocation release --agent node-1
    """,
)
@click.option("--serial", type=SERIAL, help="This certificate.")
@click.option("--identity", type=SPIFFE_ID, help="Everything of this SPIFFE ID, and its ban.")
@click.option("--agent", metavar="NAME|SPIFFE-ID", help="This agent and all that it asked for.")
@click.option("--pattern", metavar="PATTERN", help="The identities of a pattern.")
@connection_options
@output_option
def release(*, connection: Connection, output: str, **given: Any) -> None:
    """Let in again what was revoked as certificateHold.

    Only a hold can be taken back. What was revoked for any other reason stays revoked.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise click.UsageError("give one of --serial, --identity, --agent and --pattern")
    with connection.open() as client:
        if "agent" in named:
            named["agent"] = agent_id(named["agent"], client.trust_domain)
        if "identity" in named:
            named["spiffe_id"] = named.pop("identity")
        outcome = client.post("revocations", "release", body=named)
    show_list(outcome["revoked"], _REVOKED, output=output, extra={"banned": outcome["banned"]})
    note(f"{outcome['count']} certificates released, revision {outcome['revision']}")
    if outcome["banned"]:
        note(f"{outcome['banned']} may be issued again")


@revocation.command()
@click.option("--all", "everything", is_flag=True, help="Also what was decided lately.")
@connection_options
@output_option
def pending(*, everything: bool, connection: Connection, output: str) -> None:
    """List revocations that another administrator has to agree to."""
    with connection.open() as client:
        rows = list(client.pages("revocation-requests"))
    if not everything:
        rows = [row for row in rows if row["state"] in {"pending", "running"}]
    show_list(rows, _REQUESTS, output=output, empty="nothing waits")


@revocation.command(
    cls=Command,
    epilog="""
    Examples:
      legation revocation approve 5f0c3a9be27d4410 --wait
    """,
)
@click.argument("request", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until every enforcement point refuses.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 600), default=30.0,
              show_default=True, metavar="SECONDS", help="How long to wait.")  # fmt: skip
@connection_options
@output_option
def approve(
    *, request: str, wait: bool, wait_s: float, connection: Connection, output: str
) -> None:
    """Agree to a revocation that someone else has asked for, and do it."""
    with connection.open() as client:
        outcome = client.post("revocation-requests", request, "approve")
        if output == "table":
            tell(outcome)
        follow(client, outcome, wait_s=wait_s if wait else None,
               silence_s=wait_s + connection.timeout_s, output=output)  # fmt: skip
    follow_removal(connection, outcome, wait_s=wait_s if wait else None)


@revocation.command()
@click.argument("request", metavar="ID")
@connection_options
def reject(*, request: str, connection: Connection) -> None:
    """Turn a revocation down, or take back one that you have asked for."""
    with connection.open() as client:
        client.post("revocation-requests", request, "reject")
    note(f"the request {request} is rejected")
