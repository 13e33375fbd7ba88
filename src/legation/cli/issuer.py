"""``legation issuer``: which CA signs, and how another one follows it."""

import time
from typing import Any

import click

from legation.cli.api_client import APIClient
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command, Group
from legation.cli.output import Column, note, output_option, show_list, show_one
from legation.errors import TimedOut

_POLL_S = 0.5
_COLUMNS: tuple[Column, ...] = (
    ("key id", "key_id"),
    ("role", "role"),
    ("state", "state"),
    ("since", "since"),
    ("not after", "not_after"),
    ("certificates", "certificates"),
    ("needed by", "needed"),
)
_NAMED = 5


@click.group(
    cls=Group,
    epilog="""
    Examples:
      legation issuer list
      legation issuer replace --wait
      legation revoke --issuer 5f0c3a9be27d4410c1a0b3f4e5d6c7b8a9908172    (it is compromised)
    """,
)
def issuer() -> None:
    """See which CA signs, and replace it."""


@issuer.command("list")
@connection_options
@output_option
def list_issuers(*, connection: Connection, output: str) -> None:
    """List root and issuing CAs, removed ones included."""
    with connection.open() as client:
        rows = list(client.pages("issuers"))
    show_list(rows, _COLUMNS, output=output)


@issuer.command()
@click.argument("key_id", metavar="KEYID")
@connection_options
@output_option
def show(*, key_id: str, connection: Connection, output: str) -> None:
    """Show a CA: whom it waits for, and who needs it."""
    with connection.open() as client:
        show_one(client.get("issuers", key_id), output=output)


@issuer.command(
    cls=Command,
    epilog="""
    Examples:
      legation issuer replace --dry-run                (who would get a new certificate)
      legation issuer replace --wait --rate 20

    A new issuer is made and published. It signs as soon as every agent and every enforcement
    point has acknowledged its revocation lists; then all that the one before has signed is
    replaced, at a pace. The one before stays until its certificates have ended, and is removed
    then; `legation issuer remove` does it as soon as nobody needs it. The same again goes on
    with what was begun. With --wait the exit status is 0 when nobody needs the one before, and
    7 when that takes longer than --timeout.
    """,
)
@click.option("--rate", type=click.FloatRange(0, 100_000, min_open=True), default=50.0,
              show_default=True, metavar="N",
              help="Certificates a second, of all agents together.")  # fmt: skip
@click.option("--now", is_flag=True,
              help="Wait for nobody; who is not ready refuses new certificates.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only tell who would get a new certificate.")
@click.option("--wait", is_flag=True, help="Wait until nobody needs the one before.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 86_400), default=600.0,
              show_default=True, metavar="SECONDS", help="How long to wait.")  # fmt: skip
@connection_options
@output_option
def replace(
    *,
    rate: float,
    now: bool,
    dry_run: bool,
    wait: bool,
    wait_s: float,
    connection: Connection,
    output: str,
) -> None:
    """Replace the issuing CA, without anyone noticing."""
    with connection.open() as client:
        body = {"rate": rate, "now": now, "dry_run": dry_run}
        found = client.post("issuers", body=body)
        if dry_run:
            note(f"{found['certificates']} certificates are of the issuer {found['key_id']}; "
                 f"{found['needed']} would be replaced")  # fmt: skip
        elif output == "table":
            note(f"the issuer {found['key_id']} is {found['state']}")
    if wait and not dry_run:
        found = follow(connection, found["key_id"], wait_s=wait_s)
    show_one(found, output=output)


@issuer.command()
@click.argument("key_id", metavar="KEYID")
@click.option("--now", is_flag=True,
              help="Whoever is not ready refuses its certificates until it is.")  # fmt: skip
@connection_options
@output_option
def activate(*, key_id: str, now: bool, connection: Connection, output: str) -> None:
    """Let a new issuer sign that still waits for somebody."""
    with connection.open() as client:
        found = client.post("issuers", key_id, "activate", body={"now": now})
    note(f"the issuer {key_id} signs")
    show_one(found, output=output)


@issuer.command()
@click.argument("key_id", metavar="KEYID")
@connection_options
@output_option
def remove(*, key_id: str, connection: Connection, output: str) -> None:
    """Revoke an issuer that nobody needs any more, for ever.

    What it has signed is refused everywhere from then on, its private key is deleted.
    """
    with connection.open() as client:
        found = client.post("issuers", key_id, "remove")
    note(f"the issuer {key_id} is removed")
    show_one(found, output=output)


def follow(connection: Connection, successor: str | None, *, wait_s: float) -> dict[str, Any]:
    """Tell how a replacement goes, until nobody needs what was before; return the new issuer.

    Args:
        connection: to the authority.
        successor: the new issuer's key id; None for the one that signs, or is about to.
        wait_s: for how long at most.

    Raises:
        TimedOut: it goes on without us.
    """
    until, said = time.monotonic() + wait_s, ""
    while True:
        # Opened anew: what we show may have been re-issued, and the one before refused by now.
        with connection.open() as client:
            rows = [row for row in client.pages("issuers") if row["role"] == "issuing"]
            new = _successor(rows, successor)
            leaving = [row for row in rows if row["state"] in {"retiring", "tainted"}]
            words = _words(new, leaving)
            if words != said:
                note(words)
                said = words
            if new and new["state"] == "active":
                if not any(row["needed"] for row in leaving):
                    return new
                _renew_own(client, leaving)
        if time.monotonic() >= until:
            raise TimedOut(
                f"not done after {wait_s:.0f} s: {words}",
                remedy="it goes on by itself; see whom it waits for: legation issuer list",
            )
        time.sleep(_POLL_S)


def _renew_own(client: APIClient, leaving: list[dict[str, Any]]) -> None:
    """Renew the caller's own certificate, if it is one that has to be; nobody else can."""
    own = str(client.credential.spiffe_id)
    if any(each["spiffe_id"] == own for row in leaving for each in row["needed_by"]):
        from legation.cli.renewal import renew

        renew(client)


def _successor(rows: list[dict[str, Any]], key_id: str | None) -> dict[str, Any] | None:
    for state in ("prepared", "published", "active"):
        for row in rows:
            if row["state"] == state and key_id in {None, row["key_id"]}:
                return row
    return None


def _words(new: dict[str, Any] | None, leaving: list[dict[str, Any]]) -> str:
    if new is None:
        return "a new issuer is being made"
    if new["state"] != "active":
        waits = new["waiting_for"] or {"agents": [], "points": [], "disconnected": []}
        names = [*waits["agents"], *waits["points"]]
        names += [f"{name} (disconnected)" for name in waits["disconnected"]]
        return f"{new['state']}; waiting for {_some(names) or 'its revocation lists'}"
    needed = sum(row["needed"] for row in leaving)
    if not needed:
        return f"the issuer {new['key_id']} signs, and nobody needs another"
    names = [each["spiffe_id"] for row in leaving for each in row["needed_by"]]
    return f"active; {needed} certificates are still of the one before: {_some(names)}"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
