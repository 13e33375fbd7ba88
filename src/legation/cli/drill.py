"""``legation drill``: try a revocation out, and see that everybody refuses."""

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import click

from legation.cli.arguments import DURATION
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Group
from legation.cli.output import Column, note, output_option, show_list, show_one, show_raw
from legation.clock import SystemClock
from legation.errors import InvalidInput, LegationError

if TYPE_CHECKING:
    from legation.drill import Target
    from legation.wire.drill import DrillReport

DEFAULT_PATH = "/legation/drill"
_AGENT_ITSELF = "agent"  # a kind of enforcement point that nobody connects to
_JITTER = 0.1  # of the interval, either way
# An operator's certificate is renewed in its last third: look more often than that can take.
_LOOK_S = 600.0
_ROWS: tuple[Column, ...] = (
    ("target", "target"),
    ("kind", lambda row: row["kind"].replace("_", " ")),
    ("outcome", lambda row: row["outcome"].replace("_", " ")),
    ("after", lambda row: "" if row["after_ms"] is None else f"{row['after_ms']:.0f} ms"),
    ("seen", "detail"),
)
_DRILLS: tuple[Column, ...] = (
    ("drill", "id"),
    ("at", "at"),
    ("targets", "targets"),
    ("findings", "findings"),
    ("slowest", lambda row: "" if row["slowest_ms"] is None else f"{row['slowest_ms']:.0f} ms"),
    ("by", lambda row: row["by"].rpartition("/")[2]),
)


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation drill revocation --target api.example.org:8443 --target 10.0.0.7:5432,protocol=tcp
      legation drill revocation --target api.example.org:8443 --every 6h
      legation drill allow spiffe://example.org/api | legation policy apply -f -
      legation drill list
    """,
)
def drill() -> None:
    """Try a revocation out, and see that everybody refuses."""


@drill.command(
    epilog="""
    Examples:
      legation drill revocation --target api.example.org:8443
      legation drill revocation --target api.example.org:8443=spiffe://example.org/api --coverage
      legation drill revocation --target db.example.org:5432,protocol=tcp --timeout 2m --every 6h

    A decoy is certified, let in, revoked, and tried from here until each target refuses it: in
    new handshakes, on open connections, with a resumed session. The exit status is 1 when a
    target lets in who must be refused, harms who must not, or could not be drilled; it is named.
    """
)
@click.option("--target", "targets", multiple=True, required=True,
              metavar="HOST:PORT[=SPIFFE-ID][,protocol=http1|http2|tcp][,hello=HEX]",
              help="A TLS endpoint that demands client certificates. Repeatable.")  # fmt: skip
@click.option("--coverage", is_flag=True,
              help="Name connected enforcement points that no target is of.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=DURATION, default="30s", show_default=True,
              help="How long each target has to refuse.")  # fmt: skip
@click.option("--path", default=DEFAULT_PATH, show_default=True,
              help="What to ask HTTP servers for.")  # fmt: skip
@click.option("--every", "every_s", type=DURATION, metavar="DURATION",
              help="Go on, with a drill about that often.")  # fmt: skip
@connection_options
@output_option
def revocation(
    *,
    targets: tuple[str, ...],
    coverage: bool,
    timeout_s: int,
    path: str,
    every_s: int | None,
    connection: Connection,
    output: str,
) -> None:
    """Revoke a decoy, and time until every target refuses it."""
    from legation.drill import parse_target
    from legation.drill.targets import MAX_TARGETS, check_path

    if len(targets) > MAX_TARGETS:
        raise InvalidInput(f"{len(targets)} targets, at most {MAX_TARGETS} in one drill")
    check_path(path)
    wanted = [parse_target(text) for text in targets]
    held = _Drill(wanted, coverage=coverage, timeout_s=timeout_s, path=path, connection=connection)
    if every_s is None:
        _judge(held.hold(output))
        return
    while True:
        try:
            _judge(held.hold(output))
        except LegationError as error:
            note(f"error: {error}")
        _wait(every_s * random.uniform(1 - _JITTER, 1 + _JITTER), connection)  # noqa: S311


class _Drill:
    """Drills that differ in time only."""

    def __init__(
        self,
        targets: "list[Target]",
        *,
        coverage: bool,
        timeout_s: int,
        path: str,
        connection: Connection,
    ) -> None:
        self._targets = targets
        self._coverage = coverage
        self._timeout_s = timeout_s
        self._path = path
        self._connection = connection

    def hold(self, output: str) -> dict[str, Any]:
        """Hold one drill, report it to the authority, show it, and return it."""
        from legation.cli.drill_authority import OperatorAuthority, body_of
        from legation.drill import run

        with self._connection.open() as client:
            report = asyncio.run(
                run(
                    self._targets,
                    OperatorAuthority(client),
                    timeout_s=self._timeout_s,
                    path=self._path,
                    at=SystemClock().now(),
                )
            )
            client.close()  # idle for as long as the drill took; it is opened anew
            if self._coverage:
                report = _with_uncovered(report, list(client.pages("propagation")))
            kept: dict[str, Any] = client.post("drills", body=body_of(report))
        _show(kept, output)
        return kept


def _with_uncovered(report: "DrillReport", points: list[dict[str, Any]]) -> "DrillReport":
    import dataclasses

    from legation.drill.outcomes import uncovered

    connected = [
        (point["id"], point["spiffe_id"])
        for point in points
        if point["connected"] and point["kind"] != _AGENT_ITSELF
    ]
    return dataclasses.replace(report, rows=report.rows + tuple(uncovered(connected, report.rows)))


def _show(kept: dict[str, Any], output: str) -> None:
    if output == "table":
        show_list(kept["rows"], _ROWS, output=output)
    else:
        show_one(kept, output=output)


def _judge(kept: dict[str, Any]) -> None:
    if count := kept["findings"]:
        from legation.wire.drill import Outcome

        named = sorted(
            {row["target"] for row in kept["rows"] if Outcome(row["outcome"]).is_finding}
        )
        raise LegationError(
            f"drill {kept['id']} has {count} {'finding' if count == 1 else 'findings'}, "
            f"at {', '.join(named)}",
            remedy="each is a row above; what it means: docs/how-to/drill.md",
        )
    note(f"drill {kept['id']}: every target refuses, the slowest after {kept['slowest_ms']:.0f} ms")


def _wait(seconds: float, connection: Connection) -> None:
    """Wait, and keep the operator's certificate from running out meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_S))
        with connection.open():
            pass


@drill.command("list")
@connection_options
@output_option
def list_drills(*, connection: Connection, output: str) -> None:
    """List drills, the newest first."""
    with connection.open() as client:
        rows = list(client.pages("drills"))
    show_list(rows, _DRILLS, output=output, empty="no drill was held: legation drill revocation")


@drill.command()
@click.argument("number", type=click.IntRange(min=1))
@connection_options
@output_option
def show(*, number: int, connection: Connection, output: str) -> None:
    """Show what a drill has found."""
    with connection.open() as client:
        _show(client.get("drills", str(number)), output)


@drill.command()
@click.argument("identities", nargs=-1, required=True, metavar="SPIFFE-ID...")
@click.option("--path", default=DEFAULT_PATH, show_default=True, help="What decoys may ask for.")
@click.option("--name", default="drills", show_default=True, help="Name of the policy.")
def allow(*, identities: tuple[str, ...], path: str, name: str) -> None:
    """Print a policy that lets decoys call services, for drills on open connections."""
    from legation.drill.targets import allowing_policy

    show_raw(allowing_policy(identities, path=path, name=name))
