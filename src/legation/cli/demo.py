"""``legation demo``: the whole product on loopback, in one go."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from legation.clock import SystemClock
from legation.demo.deployment import Deployment
from legation.demo.scenario import play
from legation.demo.stage import Stage
from legation.demo.transcript import Transcript

_EXAMPLES = """\b
Examples:
  legation demo
  legation demo --json figures.json
  legation demo --keep          # leave it running to look around; Ctrl-C ends it
"""


@click.command(epilog=_EXAMPLES)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to FILE as one flat JSON object.",
    metavar="FILE",
)
@click.option(
    "--rotation-seconds",
    type=click.FloatRange(4, 600),
    default=10,
    show_default=True,
    help="How long to rotate under load.",
)
def demo(*, keep: bool, json_file: Path | None, rotation_seconds: float) -> None:
    """Show the main job: mutual TLS, rotation and revocation between two services.

    Starts an authority, an agent, an API, a client service and two real Envoys on
    loopback, in a temporary directory, and takes everything down again.
    """
    transcript = Transcript(click.echo)
    with tempfile.TemporaryDirectory(prefix="legation-demo-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        try:
            asyncio.run(_run(directory, transcript, keep=keep, rotation_s=rotation_seconds))
        except asyncio.CancelledError:
            raise click.Abort from None
        except Exception:
            _keep_logs(directory)
            raise
    if json_file is not None:
        transcript.write(json_file)


async def _run(directory: Path, transcript: Transcript, *, keep: bool, rotation_s: float) -> None:
    if task := asyncio.current_task():
        # SIGTERM takes the same clean way out as Ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # A CLI child resolves the same installation as this process, whatever PATH says.
    deployment = Deployment(directory, environment=dict(os.environ))  # noqa: TID251
    stage = Stage(deployment=deployment, transcript=transcript, clock=SystemClock())
    try:
        await play(stage, rotation_s=rotation_s)
        if keep:
            _tell_where(stage)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    finally:
        await deployment.stop()


def _tell_where(stage: Stage) -> None:
    deployment = stage.deployment
    click.echo("\nStill running; Ctrl-C ends it.")
    click.echo(f"  web page   http://127.0.0.1:{stage.web_port}/")
    click.echo(f"  directory  {deployment.directory}")
    click.echo(f"  export LEGATION_SERVER=127.0.0.1:{deployment.ports.api}")
    click.echo(f"  export LEGATION_CREDENTIAL={deployment.credential}")
    click.echo("  legation status")


def _keep_logs(directory: Path) -> None:
    logs = directory / "logs"
    if logs.is_dir():
        kept = Path(tempfile.mkdtemp(prefix="legation-demo-logs-"))
        shutil.copytree(logs, kept, dirs_exist_ok=True)
        click.echo(f"logs kept in {kept}", file=sys.stderr)
