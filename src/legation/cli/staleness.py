"""``legation staleness``: how old the news may become, and what happens then."""

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one, show_raw

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
      legation staleness apply -f staleness.yaml
      legation staleness list
      legation propagation                    who is how near to its bound
    """,
)
def staleness() -> None:
    """Say how long a service may run without news, and what it does then."""


@staleness.command(
    epilog="""
    Examples:
      legation staleness apply -f staleness.yaml
      legation staleness apply -f staleness/
    """
)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE|DIR|-",
              help="YAML file, folder of such files, or - for stdin.  [repeatable]")  # fmt: skip
@connection_options
@output_option
def apply(*, files: tuple[str, ...], connection: Connection, output: str) -> None:
    """Create or replace policies. All are checked before the first is sent."""
    from legation.cli.policy_files import read_staleness

    if not files:
        raise click.UsageError("name what to apply: -f FILE")
    policies = read_staleness(files)
    rows = []
    with connection.open() as client:
        for one in policies:
            stored = client.put("staleness", one.name, body=one.to_document())
            rows.append({"name": one.name, "changed": stored["changed"]})
    if output != "table":
        show_list(rows, (), output=output)
        return
    for row in rows:
        note(f"staleness policy {row['name']} {'applied' if row['changed'] else 'unchanged'}")


@staleness.command("list")
@connection_options
@output_option
def list_staleness(*, connection: Connection, output: str) -> None:
    """List all policies."""
    with connection.open() as client:
        documents = list(client.pages("staleness"))
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
    """Show one policy, as the YAML that `apply` takes."""
    from legation.cli.policy_files import to_yaml

    with connection.open() as client:
        document = client.get("staleness", name)
    if output == "table":
        show_raw(to_yaml([document]))
    else:
        show_one(document, output=output)


@staleness.command()
@click.argument("name")
@connection_options
def delete(*, name: str, connection: Connection) -> None:
    """Delete a policy. What it governed goes by the next one that matches, or by the lists."""
    with connection.open() as client:
        client.delete("staleness", name)
    note(f"staleness policy {name} deleted")
