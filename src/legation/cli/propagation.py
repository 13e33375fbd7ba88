"""``legation propagation``: which enforcement point has what in force, and who lags."""

import time
from typing import Any

import click

from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command
from legation.cli.output import Column, Row, note, output_option, show_list, show_one
from legation.errors import TimedOut

_EVERY_S = 1.0  # between two looks


def _behind(row: Row) -> str:
    return f"{row['lag']} for {row['lag_s']:.0f} s" if row["lag"] else ""


def _freshness(row: Row) -> str:
    found = row["freshness"]
    if found is None:
        return ""
    words: str = found["state"].replace("_", " ")
    if found["state"] in {"fresh", "stale_soon"}:
        words += f", {found['left_s']:.0f} s left, then {found['then']}"
    return words


_BOARD: tuple[Column, ...] = (
    ("enforcement point", "id"),
    ("kind", "kind"),
    ("spiffe id", "spiffe_id"),
    ("agent", lambda row: row["agent"].rpartition("/")[2]),
    ("standing", "standing"),
    ("revision", "revision"),
    ("behind", _behind),
    ("freshness", _freshness),
    ("last contact", "last_contact"),
    ("capabilities", "capabilities"),
)


@click.command(
    cls=Command,
    epilog="""
    Examples:
      legation propagation                    who has what in force
      legation propagation --watch            each change, as it happens
      legation propagation 4711 --watch       wait until every connected point has revision 4711

    connected: up to date. late: its agent is there and it does not follow; look at the point.
    unreachable: its agent is not there; look at the node. left: in the last hour, taken away
    or gone for good.
    stale soon, stale refusing, stale continuing: near the bound of its staleness policy, or past
    it (legation staleness list).
    With REVISION the exit status is 7 when a connected point does not have it.
    """,
)
@click.argument("revision", type=click.IntRange(0, 2**63 - 1), required=False)
@click.option("--watch", is_flag=True, help="Go on: until all have REVISION, or for ever.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 600), default=30.0,
              show_default=True, metavar="SECONDS",
              help="How long to wait for REVISION.")  # fmt: skip
@connection_options
@output_option
def propagation(
    *, revision: int | None, watch: bool, wait_s: float, connection: Connection, output: str
) -> None:
    """Show which enforcement point has what in force, and who lags."""
    with connection.open() as client:
        if revision is not None:
            _reached(client, revision, wait_s=wait_s if watch else 0.0,
                     silence_s=wait_s + connection.timeout_s, output=output)  # fmt: skip
            return
        rows = list(client.pages("propagation"))
        show_list(rows, _BOARD, output=output, empty="no agent has stated an enforcement point")
        while watch:
            time.sleep(_EVERY_S)
            before, rows = rows, list(client.pages("propagation"))
            if changed := _changed(before, rows):
                show_list(changed, _BOARD, output=output)


def _changed(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that say something else than before, apart from their age."""
    known = {(row["agent"], row["id"]): _said(row) for row in before}
    return [row for row in after if known.get((row["agent"], row["id"])) != _said(row)]


def _said(row: dict[str, Any]) -> tuple[Any, ...]:
    freshness = row["freshness"] and row["freshness"]["state"]
    said = (row[name] for name in ("standing", "revision", "capabilities", "notes"))
    return freshness, *said


def _reached(client: Any, revision: int, *, wait_s: float, silence_s: float, output: str) -> None:
    """Show who has a revision in force.

    Raises:
        TimedOut: a connected point does not have it.
    """
    points: list[dict[str, Any]] = []
    summary: dict[str, Any] | None = None
    for line in client.stream("propagation", str(revision), silence_s=silence_s, timeout_s=wait_s):
        if line.get("point"):
            points.append(line["point"])
        summary = line.get("summary") or summary
    if summary is None:
        raise TimedOut("the authority stopped telling who has it", remedy="ask again")
    if output == "table":
        shown = [{**row, "has": "yes"} for row in points]
        shown += [{**row, "has": "no"} for row in summary["missing"]]
        shown += [{**row, "has": "unreachable"} for row in summary["disconnected"]]
        shown += [{**row, "has": "left"} for row in summary.get("left", ())]
        show_list(shown, _REACHED, output=output, empty="no agent has stated an enforcement point")
    else:
        show_one({"points": points, "propagation": summary}, output=output)
    if not summary["complete"]:
        names = ", ".join(point["id"] for point in summary["missing"])
        raise TimedOut(
            f"revision {revision} is not in force at: {names}",
            remedy="see for how long: legation propagation",
        )
    note(f"revision {revision} is in force at all {summary['reached']} connected points")


_REACHED: tuple[Column, ...] = (
    ("enforcement point", "id"),
    ("kind", "kind"),
    ("spiffe id", "spiffe_id"),
    ("agent", lambda row: row["agent"].rpartition("/")[2]),
    ("has it", "has"),
    ("revision", "revision"),
    ("applied", "applied_at"),
)
