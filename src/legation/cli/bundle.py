"""``legation bundle``: the roots of the trust domain."""

from typing import Any

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, output_option, show_list, show_raw

_COLUMNS: tuple[Column, ...] = (
    ("fingerprint", "fingerprint"),
    ("subject", "subject"),
    ("not after", "not_after"),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation bundle show                    fingerprints, for `agent run --ca-fingerprint`
      legation bundle show --pem > bundle.pem
    """,
)
def bundle() -> None:
    """See whom the trust domain trusts."""


@bundle.command()
@click.option("--pem", "only_pem", is_flag=True, help="Print the certificates alone.")
@connection_options
@output_option
def show(*, only_pem: bool, connection: Connection, output: str) -> None:
    """Show the roots with their fingerprints. JSON has the SPIFFE bundle document as well."""
    from legation.pki import TrustBundle

    with connection.open() as client:
        document = client.get("bundle")
        found = TrustBundle.from_document(client.trust_domain, document)
    if only_pem:
        show_raw(found.to_pem().decode("ascii"))
        return
    rows = [_row(root) for root in found.x509_authorities]
    extra = {"trust_domain": str(found.trust_domain), "document": document}
    show_list(rows, _COLUMNS, output=output, extra=extra)


def _row(root: Any) -> dict[str, str]:
    from cryptography.hazmat.primitives.hashes import SHA256

    from legation.clock import to_rfc3339

    return {
        "fingerprint": f"sha256:{root.fingerprint(SHA256()).hex()}",
        "subject": root.subject.rfc4514_string(),
        "not_after": to_rfc3339(root.not_valid_after_utc),
    }
