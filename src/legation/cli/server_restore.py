"""Going on from a copy of the authority's store."""

import asyncio
from pathlib import Path

from legation.authority.settings import AuthoritySettings
from legation.authority.wiring import restore as restore_store
from legation.cli.authority_settings import encryption_key
from legation.cli.configured import Flags, read_config
from legation.cli.output import note, show_one
from legation.clock import SystemClock, to_rfc3339
from legation.config import ServerConfig


def restore(copy: Path | None, config_file: Path | None, flags: Flags, *, output: str) -> None:
    """Put `copy` in its place, or take what is there, and make it ready.

    Raises:
        Conflict: the authority runs.
        LegationError: the configuration, the copy or the key-encryption key cannot be used.
    """
    config: ServerConfig = read_config(ServerConfig, config_file, flags).config
    restored = asyncio.run(
        restore_store(
            AuthoritySettings.from_config(config),
            clock=SystemClock(),
            kek=encryption_key(config),
            copy=copy,
        )
    )
    ends = to_rfc3339(restored.copy_ends_at)
    show_one(
        {
            "trust_domain": str(config.trust_domain),
            "data_dir": str(config.data_dir),
            "copy_ends_at": ends,
            "feed_id": restored.feed_id,
            "revision": restored.revision,
            "revocation_lists": restored.lists,
            "set_aside": None if restored.set_aside is None else str(restored.set_aside),
        },
        output=output,
    )
    if output == "table":
        note(
            "\nNext: start the authority. Agents that connect bring back what they know to be "
            "refused:\n`legation audit list` has it as revocation.recover. Revoke again what "
            f"else was\nrevoked after {ends}, and do again what else was done since:\n"
            "entries, policies, operators."
        )
