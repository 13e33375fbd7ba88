"""``legation revoke``: shut a certificate, an identity or more out, and see it done."""

import re
from datetime import timedelta
from typing import Any

import click

from legation.cli.arguments import MOMENT, SERIAL, agent_id
from legation.cli.connection import Connection, connection_options
from legation.cli.lazy import Command
from legation.cli.output import Column, note, output_option, show_list, show_one
from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import InvalidInput, NotPermitted, TimedOut

# RFC 5280, section 5.3.1.
REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "privilegeWithdrawn",
    "aACompromise",
)
_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
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
      legation revoke --agent node-1 --reason keyCompromise --dry-run
      legation revoke --key leaked.pem --wait
      legation revoke --issuer 5f0c3a9be27d4410c1a0b3f4e5d6c7b8a9908172 --dry-run
      legation revoke --identity 'spiffe://example.org/ns/prod/*' \\
          --issued-before 2026-01-31T12:00:00Z

    Name one thing. With --wait the exit status is 0 when every connected enforcement point
    refuses, and 7 when one has not said so in time; those are named, and the revocation
    stands. It is 4 when another administrator has to agree first: legation revocation approve.
    """,
)
@click.option("--serial", type=SERIAL, help="Revoke this certificate.")
@click.option(
    "--identity",
    metavar="SPIFFE-ID",
    help="Revoke everything of this SPIFFE ID; with --issued-before, of a pattern.",
)
@click.option(
    "--agent",
    metavar="NAME|SPIFFE-ID",
    help="Revoke this agent and all that it asked for, and shut it out.",
)
@click.option(
    "--join-token",
    metavar="ID",
    help="Revoke the agent that came in with this token, likewise; or the token.",
)
@click.option(
    "--key",
    metavar="SHA256|FILE|SERIAL",
    help="Revoke everything with this key, or that of a certificate, for ever.",
)
@click.option(
    "--issuer",
    metavar="KEYID",
    help="Let this issuing CA sign nothing more, re-issue what it has signed, then revoke it.",
)
@click.option(
    "--at-once",
    is_flag=True,
    help="With --issuer: revoke it as soon as another signs, whoever still needs it.",
)
@click.option(
    "--issued-before", type=MOMENT, metavar="TIME", help="Only what was issued before; bans nobody."
)
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    metavar="REASON",
    help=f"Why: {', '.join(REASONS)}.  "
    "[default: unspecified; of --key keyCompromise, of --issuer cACompromise]",
)
@click.option(
    "--ban/--no-ban",
    default=True,
    show_default=True,
    help="Whether the identity may not be issued again.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would hit, and change nothing.")
@click.option("--wait", is_flag=True, help="Wait until every enforcement point refuses.")
@click.option("--timeout", "wait_s", type=click.FloatRange(0, 600), default=30.0,
              show_default=True, metavar="SECONDS", help="How long to wait.")  # fmt: skip
@connection_options
@output_option
def revoke(
    *, dry_run: bool, wait: bool, wait_s: float, connection: Connection, output: str, **given: Any
) -> None:
    """Shut a certificate, an identity, an agent or a key out, everywhere.

    Takes hold of new handshakes, resumed sessions and open connections alike.
    """
    _require_one(given)
    with connection.open() as client:
        body = _body(client, given)
        if dry_run:
            from legation.cli.revocation_preview import show_preview

            show_preview(client.post("revocations", "preview", body=body), output=output)
            return
        outcome = client.post("revocations", body=body)
        if output == "table":
            tell(outcome)
        follow(client, outcome, wait_s=wait_s if wait else None,
               silence_s=wait_s + connection.timeout_s, output=output)  # fmt: skip
    follow_removal(connection, outcome, wait_s=wait_s if wait else None)


def follow(
    client: Any, outcome: dict[str, Any], *, wait_s: float | None, silence_s: float, output: str
) -> None:
    """Show an outcome and, unless `wait_s` is None, each point as it refuses.

    Raises:
        NotPermitted: a second operator has to agree first.
        TimedOut: a point has not said in time that it refuses.
    """
    points: list[dict[str, Any]] = []
    summary = None
    request = outcome.get("request") or {}
    pending = request.get("state") == "pending"
    # An issuer's certificates are refused once it is removed, and not one by one.
    if outcome["issuer"] is not None:
        wait_s = None
    # A revocation that goes on in batches has no last revision yet.
    if wait_s is not None and not pending and outcome["revision"] is not None:
        revision = str(outcome["revision"])
        for line in client.stream("propagation", revision, silence_s=silence_s, timeout_s=wait_s):
            if line.get("point"):
                points.append(_timed(line["point"], outcome["at"]))
            summary = line.get("summary") or summary
    if output == "table":
        show_list(points, _POINTS, output=output)
    else:
        show_one({**outcome, "points": points, "propagation": summary}, output=output)
    if pending:
        raise NotPermitted(
            f"{request['count']} certificates: another administrator has to agree, "
            f"until {request['expires_at']}",
            remedy=f"let one run: legation revocation approve {request['id']}",
        )
    if wait_s is not None:
        _judge(summary)


def follow_removal(
    connection: Connection, outcome: dict[str, Any], *, wait_s: float | None
) -> None:
    """Wait, unless `wait_s` is None, until an issuer that was revoked is removed."""
    if wait_s is not None and outcome["issuer"] is not None:
        from legation.cli.issuer import follow as follow_issuer

        follow_issuer(connection, None, wait_s=wait_s)


def tell(outcome: dict[str, Any]) -> None:
    """Say on stderr what a revocation did."""
    if (outcome.get("request") or {}).get("state") == "pending":
        note("nothing is revoked yet")
        return
    if outcome["issuer"] is not None:
        note(f"the issuer {outcome['issuer']} signs nothing more; what it has signed is re-issued, "
             "and it is removed when nobody needs it: legation issuer list")  # fmt: skip
        return
    count = outcome["count"]
    note(f"{count} {'certificate' if count == 1 else 'certificates'} revoked, "
         f"revision {outcome['revision']}")  # fmt: skip
    if outcome["banned"]:
        note(f"{outcome['banned']} is not issued again: legation revocation lift")
    if outcome["key"]:
        note(f"the key {outcome['key']} is never certified again")


def _require_one(given: dict[str, Any]) -> None:
    names = ("serial", "identity", "agent", "join_token", "key", "issuer")
    if sum(given[name] is not None for name in names) != 1:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise click.UsageError(f"give one of {options}")
    if given["at_once"] and given["issuer"] is None:
        raise click.UsageError("--at-once goes with --issuer")
    if given["issued_before"] is not None and given["identity"] is None:
        raise click.UsageError("--issued-before goes with --identity")
    if given["identity"] and "*" in given["identity"] and given["issued_before"] is None:
        raise click.UsageError("a pattern goes with --issued-before")


def _body(client: Any, given: dict[str, Any]) -> dict[str, Any]:
    if given["serial"]:
        body: dict[str, Any] = {"serial": given["serial"]}
    elif given["agent"]:
        body = {"agent": agent_id(given["agent"], client.trust_domain)}
    elif given["join_token"]:
        body = {"join_token": given["join_token"]}
    elif given["key"]:
        body = {"key": _fingerprint(client, given["key"])}
    elif given["issuer"]:
        body = {"issuer": given["issuer"].lower(), "at_once": given["at_once"]}
    elif given["issued_before"]:
        before = to_rfc3339(given["issued_before"])
        body = {"pattern": given["identity"], "issued_before": before}
    else:
        from legation.pki.spiffe_id import SpiffeID

        body = {"spiffe_id": str(SpiffeID.parse(given["identity"])), "ban": given["ban"]}
    return {**body, "reason": given["reason"]} if given["reason"] else body


def _fingerprint(client: Any, key: str) -> str:
    """Return the fingerprint that `--key` means: itself, of a file, or of an issued certificate."""
    from pathlib import Path

    if _FINGERPRINT.fullmatch(key):
        return key.replace(":", "").lower()
    if key == "-" or Path(key).exists():
        from legation.cli.certificate_files import read_certificates
        from legation.pki import key_fingerprint

        first = read_certificates(key)[0]
        return key_fingerprint(first.public_key()).hex()  # type: ignore[arg-type] # it checks
    try:
        serial = SERIAL.convert(key, None, None)
    except click.BadParameter:
        raise InvalidInput(
            f"{key[:80]!a} is no SHA-256 of a key, no file and no serial number",
            remedy="name a certificate's file, or its serial number: legation certificate list",
        ) from None
    return str(client.get("certificates", serial)["key_fingerprint"])


def _timed(point: dict[str, Any], since: str) -> dict[str, Any]:
    """Add how long the point took, by the authority's clock alone: both moments are its own."""
    # An older authority tells only when it last heard of the point.
    reached_at = point.get("reached_at", point["received_at"])
    passed = from_rfc3339(reached_at) - from_rfc3339(since)
    # Repeated, a revocation finds the points that refuse already.
    return {**point, "after_ms": max(0.0, passed / timedelta(milliseconds=1))}


def _judge(summary: dict[str, Any] | None) -> None:
    if summary is None:
        raise TimedOut(
            "the authority stopped telling who refuses; the revocation stands",
            remedy="see who does: legation propagation",
        )
    for point in summary["disconnected"]:
        note(f"disconnected: {point['id']} of {point['agent']}; "
             "it refuses everyone once its data is too old")  # fmt: skip
    for point in summary.get("left", ()):
        note(f"left: {point['id']} of {point['agent']}, before it said that it refuses; "
             "it has ended, or lost its agent for a moment: legation propagation")  # fmt: skip
    if not summary["complete"]:
        names = ", ".join(point["id"] for point in summary["missing"])
        raise TimedOut(
            f"not in force after {summary['elapsed_s']:.1f} s at: {names}",
            remedy="the revocation stands and goes on spreading: legation propagation",
        )
    note(f"{summary['reached']} of {summary['reached']} connected enforcement points refuse")
