"""The entry point, and the boundary where errors become exit statuses."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from legation import __version__
from legation.cli.exit_status import BROKEN_PIPE, DEFECT, INTERRUPTED, OK, exit_table
from legation.cli.lazy import LazyGroup
from legation.errors import LegationError, VerificationError, outcome_of

DEBUG = "LEGATION_DEBUG"
COMPLETE = "_LEGATION_COMPLETE"

_SECTIONS = (
    (
        "Run",
        (
            ("server", "legation.cli.server:server", "Set up and run the authority."),
            ("agent", "legation.cli.agent:agent", "Run the agent of a node."),
            ("proxy", "legation.cli.proxy:proxy", "Run Envoy beside a service."),
            (
                "run",
                "legation.cli.run_program:run",
                "Run a program with an identity in files, kept up to date while it runs.",
            ),
            (
                "demo",
                "legation.cli.demo:demo",
                "Show the main job: mutual TLS, rotation and revocation between two services.",
            ),
        ),
    ),
    (
        "Administer",
        (
            ("entry", "legation.cli.entry:entry", "Say which workload gets which identity."),
            ("token", "legation.cli.token:token", "Let new agents join."),
            ("policy", "legation.cli.policy:policy", "Say who may call whom."),
            (
                "staleness",
                "legation.cli.staleness:staleness",
                "Say how long a service may run without news, and what it does then.",
            ),
            ("operator", "legation.cli.operator:operator", "Say who may administer."),
            (
                "revoke",
                "legation.cli.revoke:revoke",
                "Shut a certificate, an identity, an agent or a key out, everywhere.",
            ),
            (
                "revocation",
                "legation.cli.revocation:revocation",
                "See revocations, take back what can be, agree to large ones.",
            ),
            (
                "rotate",
                "legation.cli.rotate:rotate",
                "Replace certificates and keys before their time.",
            ),
            (
                "issuer",
                "legation.cli.issuer:issuer",
                "See which CA signs, and replace it.",
            ),
            (
                "drill",
                "legation.cli.drill:drill",
                "Try a revocation out, and see that everybody refuses.",
            ),
        ),
    ),
    (
        "Look",
        (
            (
                "status",
                "legation.cli.status:status",
                "Show how the authority, or the agent of this node, is.",
            ),
            (
                "propagation",
                "legation.cli.propagation:propagation",
                "Show which enforcement point has what in force, and who lags.",
            ),
            (
                "signal",
                "legation.cli.signal:signal",
                "See what looks like misuse, and answer it.",
            ),
            ("certificate", "legation.cli.certificate:certificate", "Read and check certificates."),
            ("jwt", "legation.cli.jwt:jwt", "Fetch and check JWT-SVIDs."),
            ("bundle", "legation.cli.bundle:bundle", "See whom the trust domain trusts."),
            ("audit", "legation.cli.audit:audit", "Read who did what, and when."),
            ("completion", "legation.cli.completion:completion", "Print shell completion."),
        ),
    ),
)


@click.group(
    cls=LazyGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"""
    First steps:
      legation demo                                  see it work, in a minute
      legation server init --trust-domain example.org
      legation server run

    Exit status:
{exit_table(indent=6)}
    """,
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, envvar=DEBUG, help="Show traces of errors.")
@click.option(
    "--no-color",
    envvar="NO_COLOR",
    is_flag=False,
    flag_value="1",
    default="",
    metavar="",
    help="Use no colours, as NO_COLOR does.",
)
@click.pass_context
def cli(context: click.Context, debug: bool, no_color: str) -> None:
    """Mutual-TLS identities that rotate by themselves and can be recalled at once."""
    context.obj = {"debug": debug}
    if no_color:  # https://no-color.org: any value but the empty one
        context.color = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return the exit status and never raise."""
    words = list(arguments)
    environment = os.environ  # noqa: TID251 - the command line reads the environment
    debug = "--debug" in words[: _index_of_command(words)] or bool(environment.get(DEBUG))
    try:
        if instruction := environment.get(COMPLETE):
            return _complete(instruction)
        return _invoke(words)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error) if isinstance(error, LegationError) else _report_defect(error)


def _invoke(words: list[str]) -> int:
    # Not `cli.main`: it takes a broken pipe for itself and leaves with 1.
    status = OK
    try:
        with cli.make_context("legation", words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    sys.stdout.flush()
    return status


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "legation", COMPLETE, instruction)


def _index_of_command(words: list[str]) -> int:
    return next((n for n, word in enumerate(words) if not word.startswith("-")), len(words))


def _report(error: LegationError) -> int:
    lines = error.message.splitlines()
    if isinstance(error, VerificationError):
        lines = [str(failure) for failure in error.failures]
    for line in lines:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {_one_line(line)}", err=True)
    if error.remedy:
        click.echo(f"{click.style('remedy:', bold=True)} {_one_line(error.remedy)}", err=True)
    return outcome_of(error).exit


def _report_defect(error: Exception) -> int:
    # Only kind and place: the text of an unexpected error may hold anything, secrets too.
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"  # noqa: PTH119
    click.echo(f"error: a defect of Legation: {type(error).__name__} at {place}", err=True)
    click.echo(
        "remedy: repeat the command as `legation --debug …` and report what it prints", err=True
    )
    return DEFECT


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _discard_output() -> None:
    # The reader is gone; without this, the flush at exit complains once more.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
