"""PostgreSQL: HUP to the postmaster, and an end to the sessions of revoked clients.

A session is served by a process that asked for the client's certificate once. PostgreSQL says
which certificate that was (`pg_stat_ssl.client_serial`) and ends a session by its process id
(`pg_terminate_backend`). Both go through `psql`, as a role that may do this and nothing else.

Serial numbers are compared here, as integers, with the sessions there are: as many as there are
connections, never as many as there are revoked certificates.
"""

import asyncio
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from legation.agent.sinks.commands import ask, send_signal
from legation.agent.sinks.servers.server import CRL_ON_HANDSHAKE, CUTS_CONNECTIONS
from legation.config.sinks import PostgreSQLSessions
from legation.errors import TimedOut, Unavailable

_MAX_ANSWER = 1 << 24
_POLL_S = 0.01
# So many statements are less than a pipe holds.
_AT_ONCE = 200
# Without these roles the view shows no certificate but our own, and nothing would be found.
_PERMITTED = """\
select pg_has_role('pg_read_all_stats', 'usage') and pg_has_role('pg_signal_backend', 'usage');
"""
_SESSIONS = """\
select a.pid, (extract(epoch from a.backend_start) * 1000000)::bigint, s.client_serial
from pg_stat_activity a join pg_stat_ssl s using (pid) where s.client_serial is not null;
"""
# A process id alone may be another session's by the time it is used; it never begins twice.
# What is selected is computed for rows that fit; a condition could be tried on any row.
_TERMINATE = """\
select pg_terminate_backend(a.pid) from pg_stat_activity a join pg_stat_ssl s using (pid)
where a.pid = %d and (extract(epoch from a.backend_start) * 1000000)::bigint = %d
and s.client_serial = %d;
"""
_SESSION = re.compile(r"([0-9]{1,10}) ([0-9]{1,18}) ([0-9]{1,50})\Z", re.ASCII)
_REMEDY = "see docs/how-to/use-with-postgresql.md"


class _Session(NamedTuple):
    """A session of a client that showed a certificate."""

    pid: int
    begun: int  # microseconds
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQL:
    """A server whose postmaster is signalled, and whose sessions are ended through `psql`."""

    postmaster: Path
    sessions: PostgreSQLSessions
    timeout_s: float
    acknowledges: bool = False
    capabilities: tuple[str, ...] = (CRL_ON_HANDSHAKE, CUTS_CONNECTIONS)
    notes: tuple[str, ...] = ()

    async def load(self, files: Path) -> None:  # noqa: ARG002 - its configuration names them
        """Tell it to read its files.

        Raises:
            Unavailable: it does not run, or is not ours to signal.
        """
        send_signal(self.postmaster, "HUP")

    async def cut(self, revoked: Set[int]) -> int:
        """End the sessions of clients whose serial number is revoked, and wait for their end.

        Raises:
            Unavailable: the role cannot log in, or may not see or end sessions.
            LimitExceeded: there are too many sessions to list.
            TimedOut: a session goes on.
        """
        told: set[_Session] = set()
        found: list[_Session] = []
        try:
            async with asyncio.timeout(self.timeout_s):
                while found := [one for one in await self._open() if one.serial in revoked]:
                    for begin in range(0, len(found), _AT_ONCE):
                        await self._end(found[begin : begin + _AT_ONCE])
                    told.update(found)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise TimedOut(
                f"{len(found)} sessions of revoked clients go on after {self.timeout_s:g} s",
                remedy="only a superuser can end the session of a superuser",
            ) from None
        return len(told)

    async def _open(self) -> list[_Session]:
        permitted, *lines = (await self._psql(_PERMITTED + _SESSIONS)).splitlines() or [""]
        if permitted != "t":
            raise Unavailable(
                f"the role {self.sessions.role} may not see or end the sessions of others",
                remedy=f"grant pg_read_all_stats, pg_signal_backend to {self.sessions.role}",
            )
        sessions = []
        for line in lines:
            if not (parts := _SESSION.match(line)):
                raise Unavailable(f"psql does not list sessions: {line[:200]!a}", remedy=_REMEDY)
            sessions.append(_Session(*map(int, parts.groups())))
        return sessions

    async def _end(self, sessions: list[_Session]) -> None:
        """Ask for the end of each; what that comes to is for the next look at all of them."""
        await self._psql("".join(_TERMINATE % session for session in sessions), stop="off")

    async def _psql(self, statements: str, *, stop: str = "on") -> str:
        to = self.sessions
        environment = {
            "PGHOST": str(to.socket_directory),
            "PGPORT": str(to.port),
            "PGUSER": to.role,
            "PGDATABASE": to.database,
            # Never a file of the agent's own user that happens to be there.
            "PGPASSFILE": str(to.password_file or "/dev/null/none"),
            "PGAPPNAME": "legation",
            "PGOPTIONS": "-c client_min_messages=error -c search_path=pg_catalog",
        }
        program = (
            str(to.psql), "--no-psqlrc", "--no-password", "--quiet", "--no-align",
            "--tuples-only", "--field-separator= ", f"--set=ON_ERROR_STOP={stop}",
        )  # fmt: skip
        answer = await ask(
            program,
            statements.encode(),
            environment=environment,
            limit=_MAX_ANSWER,
            timeout_s=self.timeout_s,
        )
        return answer.decode(errors="replace")
