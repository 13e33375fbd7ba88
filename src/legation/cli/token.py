"""``legation token``: join tokens for new agents."""

import click

from legation.cli.arguments import DURATION, agent_id
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one, show_raw

_COLUMNS: tuple[Column, ...] = (
    ("id", "id"),
    ("agent", "agent"),
    ("created", "created_at"),
    ("expires", "expires_at"),
    ("used", "used_at"),
    ("by", "created_by"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation token create node-1 > join-token
      legation token list
    """,
)
def token() -> None:
    """Let new agents join."""


@token.command(
    epilog="""
    Examples:
      (umask 077; legation token create node-1 > join-token)
      legation token create node-1 --lifetime 10m -o json
    """
)
@click.argument("agent", metavar="NAME|SPIFFE-ID")
@click.option(
    "--lifetime", type=DURATION, default="1h", show_default=True, help="How long it may be used."
)
@connection_options
@output_option
def create(*, agent: str, lifetime: int, connection: Connection, output: str) -> None:
    """Make a token that lets one agent join, once.

    In table form the token alone goes to stdout, so that it can be redirected to a file.
    It is shown this once and cannot be read again.
    """
    with connection.open() as client:
        name = agent_id(agent, client.trust_domain)
        answer = client.post("tokens", body={"agent": name, "lifetime_s": lifetime})
    created = {**answer["token"], "token": answer["secret"]}
    if output != "table":
        show_one(created, output=output)
        return
    show_raw(created["token"])
    note(f"for {created['agent']}, once, until {created['expires_at']}")
    note("next, on that node: legation agent run --join-token-file FILE")


@token.command("list")
@connection_options
@output_option
def list_tokens(*, connection: Connection, output: str) -> None:
    """List tokens, without their secrets."""
    with connection.open() as client:
        rows = list(client.pages("tokens"))
    show_list(rows, _COLUMNS, output=output, empty="no tokens; make one: legation token create")


@token.command()
@click.argument("token_id", metavar="ID")
@connection_options
def delete(*, token_id: str, connection: Connection) -> None:
    """Take a token back before it is used."""
    with connection.open() as client:
        client.delete("tokens", token_id)
    note(f"token {token_id} deleted")
