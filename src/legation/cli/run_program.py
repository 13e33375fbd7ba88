"""``legation run``: a program with an identity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from legation.cli.arguments import DURATION, SPIFFE_ID
from legation.cli.lazy import Command

_FILE = click.Path(path_type=Path, dir_okay=False)
SIGNALS = ("HUP", "USR1", "USR2", "TERM", "INT", "QUIT", "WINCH")


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""
    Examples:
      legation run -- curl --cert $LEGATION_CHAIN_FILE …          (see below)
      legation run -- sh -c 'curl --cert "$LEGATION_CHAIN_FILE" --key "$LEGATION_KEY_FILE" \\
          --cacert "$LEGATION_BUNDLE_FILE" https://api.example.org:8443/'
      legation run --signal HUP -- nginx -g 'daemon off;'
      legation run --spiffe-id spiffe://example.org/backup -- /usr/local/bin/nightly-backup
      legation run --authority ca.example.org:8443 --trust-bundle bundle.pem \
          --oidc-audience legation:ca.example.org -- ./deploy        (a CI job, without an agent)

    The program finds in its environment: LEGATION_SPIFFE_ID, LEGATION_CHAIN_FILE,
    LEGATION_KEY_FILE, LEGATION_COMBINED_FILE (key and chain), LEGATION_BUNDLE_FILE,
    LEGATION_CRL_FILE, LEGATION_IDENTITY_DIR, and SPIFFE_ENDPOINT_SOCKET. The files are
    replaced together when anything in them changes, and removed at the end.

    The agent attests `legation run` itself, not the program: an entry names the user that
    it runs as, and the path or digest of the Python interpreter that runs it.

    With --authority no agent is needed: an agent of its own enrols, with a join token (also
    in LEGATION_JOIN_TOKEN) or a token of the CI system, and ends with the program.

    The exit status is the program's; 128 and the signal's number when a signal ended it;
    127 when there is no such program, 126 when it cannot be run. Before it starts, the
    statuses are Legation's own.
    """,
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="The agent's socket; SPIFFE_ENDPOINT_SOCKET or /run/legation/agent.sock if absent.",
)
@click.option("--spiffe-id", type=SPIFFE_ID, help="Which identity, if there are several.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the files go; a directory in memory if absent.",
)
@click.option(
    "--signal",
    "signal_name",
    type=click.Choice(SIGNALS, case_sensitive=False),
    help="Send this signal to the program when the files have changed.",
)
@click.option(
    "--on-rotate",
    metavar="COMMAND",
    help="Run this, without a shell, when the files have changed.",
)
@click.option("--wait", "wait_s", type=DURATION, default="30s", show_default=True,
              help="How long the first identity may take.")  # fmt: skip
@click.option("--authority", metavar="HOST:PORT",
              help="Enrol there, without an agent on this machine.")  # fmt: skip
@click.option("--trust-bundle", type=_FILE, help="PEM file with its roots, to enrol under.")
@click.option("--ca-fingerprint", metavar="SHA256", help="Of its root, instead of the file.")
@click.option("--join-token-file", type=_FILE, help="File with the join token.")
@click.option("--oidc-audience", metavar="AUDIENCE",
              help="Enrol with GitHub Actions' token for this audience.")  # fmt: skip
@click.option("--oidc-token-variable", metavar="NAME",
              help="Enrol with the token in this variable, as GitLab CI sets it.")  # fmt: skip
@click.option("--oidc-token-file", type=_FILE, help="Enrol with the token in this file.")
@click.argument("argv", nargs=-1, required=True, metavar="PROGRAM [ARGUMENT]...")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    socket: Path | None,
    spiffe_id: str | None,
    directory: Path | None,
    signal_name: str | None,
    on_rotate: str | None,
    wait_s: int,
    argv: tuple[str, ...],
    **enrolment: Any,
) -> None:
    """Run a program with an identity in files, kept up to date while it runs."""
    from legation.cli import logs
    from legation.cli.program import ProgramRun, run_program

    logs.configure(level="warning", form="text")
    context.exit(
        run_program(
            ProgramRun(
                argv=argv,
                socket=socket,
                spiffe_id=spiffe_id,
                directory=directory,
                signal_name=signal_name,
                on_rotate=on_rotate,
                wait_s=wait_s,
                agent=_agent_of(enrolment, socket),
            )
        )
    )


def _agent_of(given: Mapping[str, Any], socket: Path | None) -> Mapping[str, object] | None:
    """Return the configuration of an agent of its own, or None for the one at the socket."""
    if given["authority"] is None:
        if lost := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(f"--{lost[0].replace('_', '-')} goes with --authority")
        return None
    if socket is not None:
        raise click.UsageError("--socket and --authority exclude each other")
    from legation.cli.own_agent import agent_flags

    return agent_flags(**given)
