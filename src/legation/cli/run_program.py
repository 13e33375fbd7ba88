"""``legation run``: a program with an identity."""

from pathlib import Path

import click

from legation.cli.arguments import DURATION, SPIFFE_ID
from legation.cli.lazy import Command

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

    The program finds in its environment: LEGATION_SPIFFE_ID, LEGATION_CHAIN_FILE,
    LEGATION_KEY_FILE, LEGATION_COMBINED_FILE (key and chain), LEGATION_BUNDLE_FILE,
    LEGATION_CRL_FILE, LEGATION_IDENTITY_DIR, and SPIFFE_ENDPOINT_SOCKET. The files are
    replaced together when anything in them changes, and removed at the end.

    The agent attests `legation run` itself, not the program: an entry names the user that
    it runs as, and the path or digest of the Python interpreter that runs it.

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
@click.argument("argv", nargs=-1, required=True, metavar="PROGRAM [ARGUMENT]...")
@click.pass_context
def run(
    context: click.Context,
    *,
    socket: Path | None,
    spiffe_id: str | None,
    directory: Path | None,
    signal_name: str | None,
    on_rotate: str | None,
    wait_s: int,
    argv: tuple[str, ...],
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
            )
        )
    )
