"""``legation operator``: who may administer."""

from pathlib import Path

import click

from legation.cli.arguments import DURATION
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one

_COLUMNS: tuple[Column, ...] = (
    ("name", "name"),
    ("role", "role"),
    ("created", "created_at"),
    ("disabled", "disabled_at"),
    ("spiffe id", "spiffe_id"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation operator create alice --role operator --to alice/
      legation operator list
      legation operator disable alice
    """,
)
def operator() -> None:
    """Say who may administer."""


@operator.command(
    epilog="""
    Examples:
      legation operator create alice --role operator --to ~alice/.config/legation
      legation operator create ci --role viewer --csr ci.csr --to ci/
    """
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator", "admin"]),
    required=True,
    help="viewer reads; operator changes; admin also names operators.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where to put operator.pem and bundle.pem.",
)
@click.option(
    "--csr",
    "csr_file",
    metavar="FILE",
    help="Certify this request instead of a new key; operator.pem holds the chain only then.",
)
@click.option("--lifetime", type=DURATION, help="Of the certificate.")
@connection_options
@output_option
def create(
    *,
    name: str,
    role: str,
    folder: Path,
    csr_file: str | None,
    lifetime: int | None,
    connection: Connection,
    output: str,
) -> None:
    """Create an operator, or certify a new key for one."""
    from legation.cli.arguments import read_input
    from legation.cli.operator_files import OperatorRequest

    with connection.open() as client:
        request = OperatorRequest.make(read_input(csr_file) if csr_file else None)
        fields = {"name": name, "role": role, "csr": request.pem, "lifetime_s": lifetime}
        created = client.post("operators", body=fields)
        request.write(folder, chain_pem=created["chain_pem"], bundle_pem=client.bundle_pem)
    if output == "table":
        note(
            f"{created['operator']['spiffe_id']} may now administer as {role}; "
            f"the credential is in {folder}"
        )
    else:
        show_one({**created["operator"], "chain_pem": created["chain_pem"]}, output=output)


@operator.command("list")
@connection_options
@output_option
def list_operators(*, connection: Connection, output: str) -> None:
    """List all operators."""
    with connection.open() as client:
        rows = list(client.pages("operators"))
    show_list(rows, _COLUMNS, output=output)


@operator.command()
@click.argument("name")
@connection_options
def disable(*, name: str, connection: Connection) -> None:
    """Shut an operator out, at once."""
    with connection.open() as client:
        client.post("operators", name, "disable")
    note(f"operator {name} is disabled, and so is every certificate of theirs")


@operator.command()
@connection_options
def renew(*, connection: Connection) -> None:
    """Certify a new key for yourself now; every command does so when a third remains."""
    from legation.cli.renewal import renew as renew_credential

    with connection.open() as client:
        renewed = renew_credential(client)
    note(
        f"{renewed.spiffe_id}: renewed until {renewed.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )
