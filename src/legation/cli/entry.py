"""``legation entry``: which workload gets which identity."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from legation.cli.arguments import DURATION, SPIFFE_ID, agents_id
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one

_Command = TypeVar("_Command", bound=Callable[..., Any])

_COLUMNS: tuple[Column, ...] = (
    ("id", "id"),
    ("spiffe id", "spiffe_id"),
    ("selectors", "selectors"),
    ("agents", lambda row: [name.rpartition("/")[2] for name in row["agents"]]),
    ("lifetime", lambda row: f"{row['lifetime_s']} s" if row.get("lifetime_s") else "default"),
    ("mtls", "mtls"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation entry create --spiffe-id spiffe://example.org/api \\
          --selector unix:path:/usr/bin/envoy --agent node-1
      legation entry list -o json
      legation entry update api --lifetime 30m
    """,
)
def entry() -> None:
    """Say which workload gets which identity."""


# Option, as click names it, to field of an entry.
_FIELDS = {
    "entry_id": "id",
    "spiffe_id": "spiffe_id",
    "selector": "selectors",
    "agent": "agents",
    "dns_name": "dns_names",
    "common_name": "common_name",
    "lifetime": "lifetime_s",
    "key_algorithm": "key_algorithm",
    "owner": "owner",
    "mtls": "mtls",
    "must_staple": "must_staple",
}


def _given_fields(options: Mapping[str, Any], *, trust_domain: str) -> dict[str, Any]:
    """Return the fields of an entry that were given; a name of an agent becomes its SPIFFE ID."""
    fields: dict[str, Any] = {}
    for option, value in options.items():
        if value is not None and value != ():
            fields[_FIELDS[option]] = list(value) if isinstance(value, tuple) else value
    if "agents" in fields:
        fields["agents"] = [agents_id(name, trust_domain) for name in fields["agents"]]
    return fields


def _entry_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Add the options that describe an entry."""
    options = (
        click.option("--selector", multiple=True, required=required, metavar="TYPE:NAME:VALUE",
                     help="What the workload must show; all of them.  [repeatable]"),
        click.option("--agent", multiple=True, required=required, metavar="NAME|SPIFFE-ID",
                     help="An agent that may serve it; 'NAME__*' for many.  [repeatable]"),
        click.option("--dns-name", multiple=True, help="A DNS name as well.  [repeatable]"),
        click.option("--common-name", help="Subject of its certificates, for who reads it."),
        click.option("--lifetime", type=DURATION, help="Of its certificates: 90s, 30m, 1h."),
        click.option("--key-algorithm", help="Of its keys: ec-p256, rsa-3072, ml-dsa-65 …"),
        click.option("--owner", help="Who to ask about it."),
        click.option("--mtls", type=click.Choice(["strict", "permissive"]),
                     help="What its inbound proxies accept."),
        click.option("--must-staple/--no-must-staple", default=None,
                     help="Whether its servers have to staple an OCSP response."),
    )  # fmt: skip

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@entry.command(
    epilog="""
    Examples:
      legation entry create --spiffe-id spiffe://example.org/api \\
          --selector unix:path:/usr/bin/envoy --agent node-1 --dns-name api.example.org
    """
)
@click.option("--id", "entry_id", metavar="ID", help="Chosen by the authority if absent.")
@click.option("--spiffe-id", type=SPIFFE_ID, required=True, help="The identity.")
@_entry_options(required=True)
@connection_options
@output_option
def create(*, connection: Connection, output: str, **given: Any) -> None:
    """Create an entry."""
    with connection.open() as client:
        fields = _given_fields(given, trust_domain=client.trust_domain)
        created = client.post("entries", body=fields)
    show_one(created, output=output)


@entry.command("list")
@connection_options
@output_option
def list_entries(*, connection: Connection, output: str) -> None:
    """List all entries."""
    with connection.open() as client:
        rows = list(client.pages("entries"))
    show_list(rows, _COLUMNS, output=output, empty="no entries; make one: legation entry create")


@entry.command()
@click.argument("entry_id", metavar="ID")
@connection_options
@output_option
def show(*, entry_id: str, connection: Connection, output: str) -> None:
    """Show one entry."""
    with connection.open() as client:
        found = client.get("entries", entry_id)
    show_one(found, output=output)


@entry.command(
    epilog="""
    Examples:
      legation entry update api --lifetime 30m
      legation entry update api --agent node-1 --agent node-2      (these two, and no other)
    """
)
@click.argument("entry_id", metavar="ID")
@_entry_options(required=False)
@connection_options
@output_option
def update(*, entry_id: str, connection: Connection, output: str, **given: Any) -> None:
    """Change the given fields of an entry; a repeatable option replaces the whole list."""
    if all(value is None or value == () for value in given.values()):
        raise click.UsageError("nothing to change: name at least one field")
    with connection.open() as client:
        fields = _given_fields(given, trust_domain=client.trust_domain)
        changed = client.patch("entries", entry_id, body=fields)
    show_one(changed, output=output)


@entry.command()
@click.argument("entry_id", metavar="ID")
@connection_options
def delete(*, entry_id: str, connection: Connection) -> None:
    """Delete an entry. Its certificates stay valid: revoke the identity to end them."""
    with connection.open() as client:
        client.delete("entries", entry_id)
    note(f"entry {entry_id} deleted")
