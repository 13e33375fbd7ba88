"""The authority is killed while it revokes, again and again."""

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from tests.support.authority import begin, settings_for

CALLERS = 16
TRIALS = 30  # calls that a kill meets, in as many rounds as it takes


async def _killed(directory: Path, after_s: float) -> tuple[dict[str, str], set[str]]:
    """Kill it `after_s` from its first revocation on.

    Returns:
        The serial number of each call that began, by identity, and which of them returned.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.revoking_process", str(directory), str(CALLERS),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    early = b""
    while b"done" not in early:
        early += await process.stdout.readline()
    await asyncio.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    lines = (early + await process.stdout.read()).decode().splitlines()
    await process.wait()
    words = [line.split() for line in lines]
    begun = {name: serial for word, name, serial in (w for w in words if len(w) == 3)}
    return begun, {name for word, name in (w for w in words if len(w) == 2)}


def _facts(database: Path) -> dict[str, frozenset[str]]:
    """Return what the store holds of each fact of a revocation, by identity or serial number."""
    with closing(sqlite3.connect(database)) as connection:
        queries = {
            "certificate": "SELECT lower(hex(serial)) FROM certificates"
            " WHERE revoked_at_ms IS NOT NULL",
            "event": "SELECT key FROM events WHERE kind = 'revocation' AND deletes = 0",
            "ban": "SELECT key FROM events WHERE kind = 'ban' AND deletes = 0",
            "audit": "SELECT json_extract(entry, '$.subject') FROM audit"
            " WHERE json_extract(entry, '$.action') = 'revocation.create'",
        }
        return {
            fact: frozenset(str(key).lstrip("0") for (key,) in connection.execute(query))
            for fact, query in queries.items()
        }


async def test_a_kill_leaves_all_of_a_revocation_or_nothing(
    tmp_path: Path, trials: int | None
) -> None:
    """Certificate, event, ban and audit entry; and all of it of every call that returned."""
    settings = settings_for(tmp_path)
    await begin(settings)
    in_flight, whole = 0, 0
    while in_flight < (trials or TRIALS):
        begun, done = await _killed(tmp_path, random.uniform(0, 0.1))
        facts = _facts(settings.database)
        assert done <= begun.keys()
        for name, serial in begun.items():
            found = {
                "certificate": serial in facts["certificate"],
                "event": serial in facts["event"],
                "ban": name in facts["ban"],
                "audit": name in facts["audit"],
            }
            assert len(set(found.values())) == 1, (name, found)
            if name in done:
                assert all(found.values()), (name, "returned, and is lost")
            else:
                in_flight += 1
                whole += all(found.values())
    print(f"{in_flight} calls in flight at a kill: {whole} durable, {in_flight - whole} undone")
