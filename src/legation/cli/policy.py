"""``legation policy``: who may call whom; and documents of every kind, to check and apply."""

from typing import TYPE_CHECKING

import click

from legation.cli.arguments import SPIFFE_ID
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one
from legation.cli.policy_documents import (
    AUTHORIZATION,
    apply_policies,
    delete_policy,
    show_policy,
)
from legation.cli.policy_documents import list_policies as stored_policies

if TYPE_CHECKING:
    from legation.policy import AuthorizationPolicy

_COLUMNS: tuple[Column, ...] = (
    ("name", "name"),
    ("action", "action"),
    ("mode", "mode"),
    ("target", "target"),
    ("rules", lambda row: len(row["document"]["spec"]["rules"])),
)
DENIED = 1

_files_argument = click.argument("files", nargs=-1, required=True, metavar="FILE…")
_file_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="YAML file, folder of such files, or - for stdin.  [repeatable]",
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation policy apply -f policies/
      legation policy explain spiffe://example.org/web spiffe://example.org/api \\
          --method GET --path /orders/7
      legation policy list
    """,
)
def policy() -> None:
    """Say who may call whom."""


@policy.command(
    epilog="""
    Examples:
      legation policy apply -f policies/ -f extra.yaml
      legation policy apply -f policies/ --dry-run
      generate-policies | legation policy apply -f -
    """
)
@_file_option
@click.option("--dry-run", is_flag=True, help="Say what it would change, and change nothing.")
@connection_options
@output_option
def apply(*, files: tuple[str, ...], dry_run: bool, connection: Connection, output: str) -> None:
    """Create or replace policies. All are checked before the first is sent.

    Takes AuthorizationPolicy and StalenessPolicy documents, in any number and order.
    """
    from legation.cli.policy_files import read_policies

    if not files:
        raise click.UsageError("name what to apply: -f FILE")
    apply_policies(read_policies(files), connection=connection, dry_run=dry_run, output=output)


@policy.command("list")
@connection_options
@output_option
def list_policies(*, connection: Connection, output: str) -> None:
    """List all authorization policies."""
    documents = stored_policies(AUTHORIZATION, connection=connection)
    if output != "table":
        show_list(documents, (), output=output)
        return
    rows = [
        {
            "name": document["metadata"]["name"],
            "action": document["spec"]["action"],
            "mode": document["spec"].get("mode", "enforce"),
            "target": document["spec"]["target"]["spiffeIDs"],
            "document": document,
        }
        for document in documents
    ]
    show_list(rows, _COLUMNS, output=output, empty="no policies: every call is denied")


@policy.command()
@click.argument("name")
@connection_options
@output_option
def show(*, name: str, connection: Connection, output: str) -> None:
    """Show one policy, as the YAML that `apply` takes."""
    show_policy(AUTHORIZATION, name, connection=connection, output=output)


@policy.command()
@click.argument("name")
@connection_options
def delete(*, name: str, connection: Connection) -> None:
    """Delete a policy. Deleting an ALLOW policy denies what only it allowed."""
    delete_policy(AUTHORIZATION, name, connection=connection)


@policy.command(
    epilog="""
    Examples:
      legation policy validate policies/*.yaml
    """
)
@_files_argument
def validate(files: tuple[str, ...]) -> None:
    """Check files of policies of any kind, without any authority."""
    from legation.cli.policy_files import read_policies

    count = len(read_policies(files))
    note(f"{count} {'policy' if count == 1 else 'policies'}, all valid")


@policy.command(
    epilog=f"""
    Examples:
      legation policy explain spiffe://example.org/web spiffe://example.org/api --path /orders
      legation policy explain -f policies/ spiffe://example.org/web spiffe://example.org/db \\
          --port 5432

    Exit status: 0 when the call is allowed, {DENIED} when it is denied.
    """
)
@click.argument("source", type=SPIFFE_ID)
@click.argument("target", type=SPIFFE_ID)
@click.option("--method", help="HTTP method; leave it out for a plain TCP connection.")
@click.option("--path", help="HTTP path, as the client sends it.")
@click.option("--port", type=click.IntRange(1, 65535), default=443, show_default=True)
@_file_option
@connection_options
@output_option
@click.pass_context
def explain(
    context: click.Context,
    *,
    source: str,
    target: str,
    method: str | None,
    path: str | None,
    port: int,
    files: tuple[str, ...],
    connection: Connection,
    output: str,
) -> None:
    """Say whether SOURCE may call TARGET, and which policy decides.

    Asks the authority for its policies, or takes those of -f and needs no authority.
    --method alone means the path /, and --path alone the method GET; with neither it is a
    plain TCP connection.
    """
    from legation.cli.explanation import Question, tell
    from legation.cli.explanation import explain as explain_call

    question = Question(
        source=source,
        target=target,
        method="GET" if path is not None and method is None else method,
        path=path if path is not None or method is None else "/",
        port=port,
    )
    answer = explain_call(question, _policies_of(files, connection))
    if output == "table":
        tell(answer, question)
    else:
        show_one(answer, output=output)
    if not answer["allowed"]:
        context.exit(DENIED)


def _policies_of(files: tuple[str, ...], connection: Connection) -> "list[AuthorizationPolicy]":
    from legation.cli.policy_files import read_authorization
    from legation.policy import AuthorizationPolicy

    if files:
        return read_authorization(files)
    documents = stored_policies(AUTHORIZATION, connection=connection)
    return [AuthorizationPolicy.from_document(one) for one in documents]
