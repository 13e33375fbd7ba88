"""``legation revoke``: shut a certificate or an identity out, and see it done."""

from datetime import timedelta
from typing import Any

import click

from legation.cli.arguments import SERIAL, SPIFFE_ID
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command
from legation.cli.output import Column, note, output_option, show_list, show_one
from legation.clock import from_rfc3339
from legation.errors import TimedOut

# RFC 5280, section 5.3.1.
REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
    "aACompromise",
)
_POINTS: tuple[Column, ...] = (
    ("enforcement point", "id"),
    ("kind", "kind"),
    ("agent", lambda row: row["agent"].rpartition("/")[2]),
    ("refuses after", lambda row: f"{row['after_ms']:.0f} ms"),
    ("notes", "notes"),
)


@click.command(
    cls=Command,
    epilog="""
    Examples:
      legation revoke --identity spiffe://example.org/api --reason keyCompromise --wait
      legation revoke --serial 5f0c3a9be27d4410000000000000002a
      legation revoke --identity spiffe://example.org/api --no-ban     (a new key may come)

    With --wait the exit status is 0 when every connected enforcement point refuses, and 7
    when one has not said so in time; those are named, and the revocation stands.
    """,
)
@click.option("--serial", type=SERIAL, help="Revoke this certificate.")
@click.option("--identity", type=SPIFFE_ID, help="Revoke everything of this SPIFFE ID.")
@click.option("--reason", type=click.Choice(REASONS), default="unspecified", show_default=True,
              metavar="REASON", help=f"Why: {', '.join(REASONS)}.")  # fmt: skip
@click.option("--ban/--no-ban", default=True, show_default=True,
              help="Whether the identity may not be issued again.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait until every enforcement point refuses.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 600), default=30.0,
              show_default=True, metavar="SECONDS", help="How long to wait.")  # fmt: skip
@connection_options
@output_option
def revoke(
    *,
    serial: str | None,
    identity: str | None,
    reason: str,
    ban: bool,
    wait: bool,
    wait_s: float,
    connection: Connection,
    output: str,
) -> None:
    """Shut a certificate or an identity out, everywhere.

    Takes hold of new handshakes, resumed sessions and open connections alike.
    """
    if (serial is None) == (identity is None):
        raise click.UsageError("give one of --serial and --identity")
    body: dict[str, Any] = {"reason": reason}
    body |= {"serial": serial} if serial else {"spiffe_id": identity, "ban": ban}
    with connection.open() as client:
        outcome = client.post("revocations", body=body)
        if output == "table":
            _tell(outcome)
        points: list[dict[str, Any]] = []
        summary = None
        if wait:
            silence_s = wait_s + connection.timeout_s
            for line in client.stream(
                "propagation", str(outcome["revision"]), silence_s=silence_s, timeout_s=wait_s
            ):
                if line.get("point"):
                    points.append(_timed(line["point"], outcome["at"]))
                summary = line.get("summary") or summary
    if output == "table":
        show_list(points, _POINTS, output=output)
    else:
        show_one({**outcome, "points": points, "propagation": summary}, output=output)
    if wait:
        _judge(summary)


def _timed(point: dict[str, Any], since: str) -> dict[str, Any]:
    """Add how long the point took, by the authority's clock alone: both moments are its own."""
    passed = from_rfc3339(point["received_at"]) - from_rfc3339(since)
    # Repeated, a revocation finds the points that refuse already.
    return {**point, "after_ms": max(0.0, passed / timedelta(milliseconds=1))}


def _tell(outcome: dict[str, Any]) -> None:
    count = len(outcome["revoked"])
    note(f"{count} {'certificate' if count == 1 else 'certificates'} revoked, "
         f"revision {outcome['revision']}")  # fmt: skip
    if outcome["banned"]:
        note(f"{outcome['banned']} is not issued again: legation revocation lift")


def _judge(summary: dict[str, Any] | None) -> None:
    if summary is None:
        raise TimedOut(
            "the authority stopped telling who refuses; the revocation stands",
            remedy="see who does: legation status",
        )
    for point in summary["disconnected"]:
        note(f"disconnected: {point['id']} of {point['agent']}; "
             "it refuses everyone once its data is too old")  # fmt: skip
    if not summary["complete"]:
        names = ", ".join(point["id"] for point in summary["missing"])
        raise TimedOut(
            f"not in force after {summary['elapsed_s']:.1f} s at: {names}",
            remedy="the revocation stands and goes on spreading; see who lags: legation status",
        )
    note(f"{summary['reached']} of {summary['reached']} connected enforcement points refuse")
