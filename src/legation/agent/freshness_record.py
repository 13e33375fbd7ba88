"""When this node was last in step with the authority, on its disk."""

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from legation.agent.private_files import read_bounded, write_private
from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import LegationError
from legation.wire.canonical import parse_json

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_SIZE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessRecord:
    """The newest proof that nothing was missing.

    Attributes:
        boot: which start of the machine `ticks` belong to.
        ticks: when, in seconds since then.
        time: when, by the clock of the day; it decides after a restart of the machine only.
        feed_id: the feed that was complete.
        revision: its revision then.
    """

    boot: str
    ticks: float
    time: datetime
    feed_id: str
    revision: int

    def vouches_for(self, feed_id: str, revision: int) -> bool:
        """Tell whether a state of this feed holds everything that was there at the proof."""
        return self.feed_id == feed_id and self.revision <= revision

    def write(self, path: Path) -> None:
        """Replace the file.

        Raises:
            Unavailable: the disk refuses.
        """
        value = {
            "boot": self.boot,
            "ticks": self.ticks,
            "time": to_rfc3339(self.time),
            "feed_id": self.feed_id,
            "revision": self.revision,
        }
        write_private(path, json.dumps(value).encode())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what the file says, or None if it says nothing that can be used."""
        try:
            value = parse_json(read_bounded(path, limit=_MAX_SIZE))
            record = cls(
                boot=str(value["boot"]),
                ticks=float(value["ticks"]),
                time=from_rfc3339(value["time"]),
                feed_id=str(value["feed_id"]),
                revision=int(value["revision"]),
            )
        except (LegationError, KeyError, TypeError, ValueError, OverflowError):
            return None
        return record if math.isfinite(record.ticks) else None


def since_boot_s() -> float:
    """Return the seconds since this machine was started, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return a word for this start of the machine; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
