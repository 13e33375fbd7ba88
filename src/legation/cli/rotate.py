"""``legation rotate``: replace certificates before their time, at a bounded pace."""

import time
from typing import Any

import click

from legation.cli.api_client import APIClient
from legation.cli.arguments import SPIFFE_ID
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command
from legation.cli.output import note, output_option, show_one
from legation.errors import TimedOut

_POLL_S = 0.5
# An agent that renews its own certificate connects anew; it is not away.
_RECONNECT_S = 3.0


@click.command(
    cls=Command,
    epilog="""
    Examples:
      legation rotate --identity spiffe://example.org/api --reason "key seen in a log" --wait
      legation rotate --agent spiffe://example.org/legation/agent/node-1
      legation rotate --all --rate 20 --dry-run                 (how many, and how long)

    New keys are made where they are used. The old certificates stay valid until they
    expire: `legation revoke` shuts out who has stolen one. With --wait the exit status is 0
    when every connected agent has replaced what it held, and 7 when one has not in time.
    """,
)
@click.option("--identity", type=SPIFFE_ID, help="Replace the certificates of this SPIFFE ID.")
@click.option("--agent", type=SPIFFE_ID, help="Replace what this agent holds, its own included.")
@click.option("--all", "everything", is_flag=True, help="Replace every certificate there is.")
@click.option("--rate", type=click.FloatRange(0, 100_000, min_open=True), default=50.0,
              show_default=True, metavar="N",
              help="Certificates a second, of all agents together.")  # fmt: skip
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit log.")
@click.option("--id", "order_id", metavar="NAME",
              help="Name of the order; the same again changes nothing.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only tell how many it would be.")
@click.option("--wait", is_flag=True, help="Wait until connected agents have replaced them.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 86_400), metavar="SECONDS",
              help="How long to wait; by default a minute more than it takes.")  # fmt: skip
@connection_options
@output_option
def rotate(
    *,
    identity: str | None,
    agent: str | None,
    everything: bool,
    rate: float,
    reason: str,
    order_id: str | None,
    dry_run: bool,
    wait: bool,
    wait_s: float | None,
    connection: Connection,
    output: str,
) -> None:
    """Replace certificates and keys before their time."""
    if sum((identity is not None, agent is not None, everything)) != 1:
        raise click.UsageError("give one of --identity, --agent and --all")
    body: dict[str, Any] = {"all": everything, "rate": rate, "reason": reason, "dry_run": dry_run}
    named = {"identity": identity, "agent": agent, "id": order_id}
    body |= {name: value for name, value in named.items() if value is not None}
    with connection.open() as client:
        ordered = client.post("rotations", body=body)
        if output == "table":
            _tell(ordered, dry_run=dry_run)
        if wait and not dry_run:
            limit_s = ordered["spread_s"] + 60 if wait_s is None else wait_s
            ordered = _wait(client, ordered["id"], limit_s)
    if output != "table":
        show_one(ordered, output=output)
    if wait and not dry_run:
        _judge(ordered)


def _tell(ordered: dict[str, Any], *, dry_run: bool) -> None:
    count, seconds = ordered["count"], ordered["spread_s"]
    certificates = "certificate" if count == 1 else "certificates"
    if dry_run:
        note(f"{count} {certificates} would be replaced within {seconds:.0f} s")
    else:
        note(f"rotation {ordered['id']}: {count} {certificates}, within {seconds:.0f} s")


def _wait(client: APIClient, order_id: str, limit_s: float) -> dict[str, Any]:
    begun = seen = time.monotonic()
    while True:
        ordered: dict[str, Any] = client.get("rotations", order_id)
        now = time.monotonic()
        if ordered["waiting_for"]:
            seen = now
        elif not ordered["disconnected"] or now - seen >= _RECONNECT_S:
            return ordered
        if now - begun >= limit_s:
            return ordered
        time.sleep(_POLL_S)


def _judge(ordered: dict[str, Any]) -> None:
    for agent in ordered["disconnected"]:
        note(f"disconnected: {agent}; it goes on when it is back")
    if ordered["waiting_for"]:
        left = ordered["remaining"]
        raise TimedOut(
            f"{'some' if left is None else left} still to be replaced, "
            f"behind {', '.join(ordered['waiting_for'])}",
            remedy="the rotation goes on; see what hinders it: legation certificate in-force",
        )
    note("every connected agent has replaced what it held")
