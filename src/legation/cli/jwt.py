"""``legation jwt``: JWT-SVIDs from this node's agent."""

from pathlib import Path

import click

from legation.cli.arguments import SPIFFE_ID, read_input
from legation.cli.lazy import Group
from legation.cli.output import note, output_option, show_one, show_raw

_TIMEOUT_S = 10.0


def _address(socket: Path | None) -> str | None:
    return None if socket is None else f"unix://{socket.absolute()}"


_socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="The agent's socket; what SPIFFE_ENDPOINT_SOCKET says if absent.",
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation jwt fetch --audience https://api.example.org
      legation jwt validate --audience https://api.example.org token-file
    """,
)
def jwt() -> None:
    """Fetch and check JWT-SVIDs."""


@jwt.command(
    epilog="""
    Examples:
      (umask 077; legation jwt fetch --audience sts.cloud.example > token)
      legation jwt fetch --audience db --audience cache -o json

    The agent attests `legation` itself: the entry has to name the user that it runs as.
    """
)
@click.option("--audience", multiple=True, required=True, help="Who will read it; repeatable.")
@click.option("--spiffe-id", type=SPIFFE_ID, help="Which identity, if there are several.")
@_socket_option
@output_option
def fetch(
    *, audience: tuple[str, ...], spiffe_id: str | None, socket: Path | None, output: str
) -> None:
    """Print a token that says who the caller is, to an audience.

    A token is good for whoever has it. In table form it alone goes to stdout, so that it can
    be redirected to a file.
    """
    from legation.clock import to_rfc3339
    from legation.sdk import JWTSource

    with JWTSource(_address(socket)) as source:
        svid = source.fetch(*audience, spiffe_id=spiffe_id, timeout=_TIMEOUT_S)
    expires_at = to_rfc3339(svid.expires_at)
    if output != "table":
        fetched = {"spiffe_id": str(svid.spiffe_id), "audience": list(svid.audience)}
        show_one({**fetched, "expires_at": expires_at, "token": svid.token}, output=output)
        return
    show_raw(svid.token)
    note(f"{svid.spiffe_id}, until {expires_at}")


@jwt.command(
    epilog="""
    Examples:
      legation jwt validate --audience db token-file
      curl -s https://client.example/token | legation jwt validate --audience db -
    """
)
@click.argument("file", metavar="FILE|-")
@click.option("--audience", required=True, help="The name of the one who reads it.")
@_socket_option
@output_option
def validate(*, file: str, audience: str, socket: Path | None, output: str) -> None:
    """Check a token that somebody showed, and print who that is.

    The token is read from a file or stdin, so that it is in no list of processes.
    """
    from legation.sdk import JWTSource

    token = read_input(file).decode("ascii", "replace").strip()
    with JWTSource(_address(socket)) as source:
        found = source.validate(token, audience=audience, timeout=_TIMEOUT_S)
    show_one({"spiffe_id": str(found.spiffe_id), "claims": dict(found.claims)}, output=output)
