"""What a revocation would hit, for a person to read before it is done."""

from typing import Any

import click

from legation.cli.output import Column, Row, note, show_list, show_one

_ROWS = 10  # of each list; -o json has more
_IDENTITIES: tuple[Column, ...] = (("identity", "spiffe_id"), ("certificates", "count"))
_REQUESTERS: tuple[Column, ...] = (("asked for by", "spiffe_id"), ("certificates", "count"))
_NEWEST: tuple[Column, ...] = (
    ("newest", "serial"),
    ("spiffe id", "spiffe_id"),
    ("asked for by", "requester"),
    ("expires", "not_after"),
)
_POLICIES: tuple[Column, ...] = (
    ("policy", "name"),
    ("lets in", "callers"),
    ("protects", "targets"),
)


def _hit(row: Row) -> str:
    if row["caller_hit"] and row["service_hit"]:
        return "both"
    return "caller" if row["caller_hit"] else "service"


def _seen_by(row: Row) -> str:
    others = f", {row['points'] - 1} more" if row["points"] > 1 else ""
    return f"{row['agent'].rpartition('/')[2]} {row['point']}{others}"


_TRAFFIC: tuple[Column, ...] = (
    ("caller", "caller"),
    ("calls", "service"),
    ("hit", _hit),
    ("connections", "count"),
    ("last seen", "last_seen"),
    ("seen by", _seen_by),
)


def show_preview(preview: dict[str, Any], *, output: str) -> None:
    """Show a preview, and say that nothing has happened."""
    if output != "table":
        show_one(preview, output=output)
        return
    for rows, columns, total in (
        (preview["identities"], _IDENTITIES, len(preview["identities"])),
        (preview["requesters"], _REQUESTERS, len(preview["requesters"])),
        (preview["newest"], _NEWEST, len(preview["newest"])),
        (preview["policies"], _POLICIES, len(preview["policies"])),
        (preview["traffic"], _TRAFFIC, preview["traffic_total"]),
    ):
        if rows:
            show_list(rows[:_ROWS], columns, output=output)
            if total > _ROWS:
                note(f"and {total - _ROWS} more: -o json")
            click.echo()
    since = preview["traffic_since"]
    if preview["traffic"]:
        note(f"connections are those that enforcement points have reported since {since}")
    else:
        note(f"no enforcement point has reported a connection from or to them since {since}")
    note(f"{preview['count']} certificates of {len(preview['identities'])} identities "
         "would be revoked; nothing has been changed")  # fmt: skip
    if preview["second_operator"]:
        note("another administrator would have to agree: legation revocation approve")
