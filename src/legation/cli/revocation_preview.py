"""What a revocation would hit, for a person to read before it is done."""

from typing import Any

import click

from legation.cli.output import Column, note, show_list, show_one

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


def show_preview(preview: dict[str, Any], *, output: str) -> None:
    """Show a preview, and say that nothing has happened."""
    if output != "table":
        show_one(preview, output=output)
        return
    for rows, columns in (
        (preview["identities"], _IDENTITIES),
        (preview["requesters"], _REQUESTERS),
        (preview["newest"], _NEWEST),
        (preview["policies"], _POLICIES),
    ):
        if rows:
            show_list(rows[:_ROWS], columns, output=output)
            if len(rows) > _ROWS:
                note(f"and {len(rows) - _ROWS} more: -o json")
            click.echo()
    note(f"{preview['count']} certificates of {len(preview['identities'])} identities "
         "would be revoked; nothing has been changed")  # fmt: skip
    if preview["second_operator"]:
        note("another administrator would have to agree: legation revocation approve")
