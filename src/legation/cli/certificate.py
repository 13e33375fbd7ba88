"""``legation certificate``: read and check certificates, from files or the inventory."""

from collections.abc import Mapping
from typing import Any

import click

from legation.cli.arguments import MOMENT, SERIAL, SPIFFE_ID
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, output_option, show_list, show_one, show_raw

FOUND_ERRORS = 1


def _state(row: Mapping[str, Any]) -> str:
    with_issuer = row.get("revoked_with") == "issuer"
    return "revoked with its issuer" if with_issuer else str(row["state"])


_COLUMNS: tuple[Column, ...] = (
    ("serial", "serial"),
    ("spiffe id", "spiffe_id"),
    ("profile", "profile"),
    ("state", _state),
    ("not after", "not_after"),
)
_IN_FORCE: tuple[Column, ...] = (
    ("spiffe id", "spiffe_id"),
    ("point", "point"),
    ("agent", lambda row: row["agent"].rpartition("/")[2]),
    ("issued", "serial_issued"),
    ("in force", lambda row: row["serial_in_force"] or "?"),
    ("since", "since"),
    ("problem", "problem"),
)
_FINDINGS: tuple[Column, ...] = (
    ("file", "file"),
    ("number", "number"),
    ("severity", "severity"),
    ("rule", "rule"),
    ("detail", "detail"),
    ("citation", "citation"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation certificate inspect server.pem
      legation certificate verify chain.pem --bundle bundle.pem --trust-domain example.org
      legation certificate lint *.pem
      legation certificate list --state valid
    """,
)
def certificate() -> None:
    """Read and check certificates."""


@certificate.command(
    epilog="""
    Examples:
      legation certificate inspect server.pem -o json
      openssl s_client -connect host:443 -showcerts </dev/null | legation certificate inspect -
    """
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@output_option
def inspect(files: tuple[str, ...], output: str) -> None:
    """Show what certificates say. Reads PEM, with or without text around it, and DER."""
    from legation.cli.certificate_files import describe, read_certificates

    rows = [{"file": name, **describe(one)} for name in files for one in read_certificates(name)]
    if output != "table":
        show_list(rows, (), output=output)
        return
    for number, row in enumerate(rows):
        if number:
            click.echo()
        show_one({name: value for name, value in row.items() if value}, output=output)


@certificate.command(
    epilog=f"""
    Examples:
      legation certificate verify chain.pem --bundle bundle.pem --trust-domain example.org
      legation certificate verify chain.pem --bundle bundle.pem --trust-domain example.org \\
          --spiffe-id spiffe://example.org/api --crl issuer.crl --at 2026-01-31T12:00:00Z
      legation certificate verify chain.pem --bundle roots.pem --dns-name api.example.org

    Every failed check is listed. Exit status: 0 when all held, {FOUND_ERRORS} when one failed.
    """
)
@click.argument("chain", metavar="FILE")
@click.option("--bundle", required=True, metavar="FILE", help="PEM file with the trusted roots.")
@click.option("--trust-domain", help="Whose roots they are; then the chain must be an SVID.")
@click.option("--spiffe-id", type=SPIFFE_ID, help="The SPIFFE ID to expect.")
@click.option("--dns-name", help="The DNS name to expect; then the roots are of no trust domain.")
@click.option(
    "--purpose", type=click.Choice(["server", "client"]), default="server", show_default=True
)
@click.option("--crl", "crls", multiple=True, metavar="FILE", help="A CRL to heed.  [repeatable]")
@click.option("--at", type=MOMENT, help="When; now if absent.")
@output_option
def verify(*, chain: str, output: str, **given: Any) -> None:
    """Check a chain, leaf first, as every enforcement point does."""
    from legation.cli.certificate_files import VerificationRequest, verify_files

    if bool(given["trust_domain"]) == bool(given["dns_name"]):
        raise click.UsageError("give one of --trust-domain and --dns-name")
    if given["dns_name"] and given["spiffe_id"]:
        raise click.UsageError("--spiffe-id goes with --trust-domain")
    verdict = verify_files(VerificationRequest(chain=chain, **_now_if_absent(given)))
    show_one(verdict, output=output)


def _now_if_absent(given: dict[str, Any]) -> dict[str, Any]:
    from legation.clock import SystemClock

    return {**given, "at": given["at"] or SystemClock().now()}


@certificate.command(
    epilog=f"""
    Examples:
      legation certificate lint *.pem

    Exit status: 0 without errors, {FOUND_ERRORS} with one; warnings do not count.
    """
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@output_option
@click.pass_context
def lint(context: click.Context, files: tuple[str, ...], output: str) -> None:
    """Hold certificates against RFC 5280 and the X509-SVID standard."""
    from legation.cli.certificate_files import read_certificates
    from legation.pki import Severity, lint_certificate

    rows = [
        {
            "file": name,
            "number": number,
            "severity": str(finding.severity),
            "rule": finding.rule,
            "detail": finding.detail,
            "citation": finding.citation,
        }
        for name in files
        for number, one in enumerate(read_certificates(name), start=1)
        for finding in lint_certificate(one)
    ]
    show_list(rows, _FINDINGS, output=output, empty="nothing to object to")
    if any(row["severity"] == str(Severity.ERROR) for row in rows):
        context.exit(FOUND_ERRORS)


@certificate.command("list")
@click.option("--spiffe-id", type=SPIFFE_ID, help="Of this identity only.")
@click.option("--state", type=click.Choice(["valid", "expired", "revoked"]))
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@connection_options
@output_option
def list_certificates(
    *,
    spiffe_id: str | None,
    state: str | None,
    limit: int,
    connection: Connection,
    output: str,
) -> None:
    """List certificates that the authority issued."""
    with connection.open() as client:
        rows = list(client.pages("certificates", most=limit, spiffe_id=spiffe_id, state=state))
    show_list(rows, _COLUMNS, output=output, empty="no such certificates")


@certificate.command(
    epilog="""
    Examples:
      legation certificate show 5f0c3a9be27d4410000000000000002a
      legation certificate show 5f0c3a9be27d4410000000000000002a --pem | openssl x509 -text
    """
)
@click.argument("serial", type=SERIAL)
@click.option("--pem", "only_pem", is_flag=True, help="Print the certificate alone.")
@connection_options
@output_option
def show(*, serial: str, only_pem: bool, connection: Connection, output: str) -> None:
    """Show one certificate that the authority issued."""
    with connection.open() as client:
        found = client.get("certificates", serial)
    if only_pem:
        show_raw(found["pem"])
    elif output == "table":
        show_one({k: v for k, v in found.items() if k != "pem" and v is not None}, output=output)
    else:
        show_one(found, output=output)


@certificate.command(
    "in-force",
    epilog="""
    Examples:
      legation certificate in-force                   (which certificate each point serves)
      legation certificate in-force --differing       (where it is not the newest)
    """,
)
@click.option("--differing", is_flag=True, help="Only where it is not the newest.")
@connection_options
@output_option
def in_force(*, differing: bool, connection: Connection, output: str) -> None:
    """Show which certificate each enforcement point serves, and since when."""
    with connection.open() as client:
        rows = [
            row
            for row in client.pages("in-force")
            if not differing or row["serial_issued"] != row["serial_in_force"]
        ]
    show_list(rows, _IN_FORCE, output=output, empty="nothing to show")
