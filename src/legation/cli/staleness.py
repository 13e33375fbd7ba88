"""``legation staleness``: how old the news may become, and what happens then."""

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, output_option, show_list
from legation.cli.policy_documents import STALENESS, delete_policy, list_policies, show_policy

_COLUMNS: tuple[Column, ...] = (
    ("name", "name"),
    ("to", "to"),
    ("bound", "bound"),
    ("then", "then"),
    ("warn at", "warnAt"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation policy apply -f staleness.yaml    say it
      legation staleness list
      legation propagation                       who is how near to its bound
    """,
)
def staleness() -> None:
    """Say how long a service may run without news, and what it does then."""


@staleness.command("list")
@connection_options
@output_option
def list_staleness(*, connection: Connection, output: str) -> None:
    """List all policies."""
    documents = list_policies(STALENESS, connection=connection)
    if output != "table":
        show_list(documents, (), output=output)
        return
    rows = [{"name": one["metadata"]["name"], **one["spec"]} for one in documents]
    show_list(
        rows,
        _COLUMNS,
        output=output,
        empty="no policies: past the validity of the revocation lists new handshakes are refused",
    )


@staleness.command()
@click.argument("name")
@connection_options
@output_option
def show(*, name: str, connection: Connection, output: str) -> None:
    """Show one policy, as the YAML that `legation policy apply` takes."""
    show_policy(STALENESS, name, connection=connection, output=output)


@staleness.command()
@click.argument("name")
@connection_options
def delete(*, name: str, connection: Connection) -> None:
    """Delete a policy. What it governed goes by the next one that matches, or by the lists."""
    delete_policy(STALENESS, name, connection=connection)
