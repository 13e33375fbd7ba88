"""HAProxy: certificate, CA file and revocation lists through its runtime interface.

`set ssl …` opens a transaction on one file, `commit ssl …` puts it in force for new handshakes
in all threads: no reload, no new process, open connections untouched. A file is addressed by
the name that the configuration has for it, which is the one below `current`. What is on the
disk is for HAProxy's next start.

HAProxy 2.6 loses track of a certificate when a CA file or a list of its line is committed:
`show ssl cert` calls it unused from then on, the next commit of it says "Success!" and changes
nothing, and the commit after that ends the process. So a certificate is committed only while
it is in use. When it is not, the master process is told to reload, which hands the listening
sockets over to a new worker.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Set
from functools import partial
from pathlib import Path

from legation.agent.private_files import read_bounded
from legation.agent.sinks.contents import serial_in_map
from legation.agent.sinks.model import NO_STAPLE
from legation.agent.sinks.servers.haproxy_peers import refuse, shut_down
from legation.agent.sinks.servers.haproxy_staples import accompany, renew
from legation.agent.sinks.servers.runtime_socket import converse
from legation.agent.sinks.servers.server import (
    CRL_ON_HANDSHAKE,
    CUTS_CONNECTIONS,
    ONLY_NEW_CONNECTIONS,
    ONLY_REQUESTS,
    REFUSES_REQUESTS,
)
from legation.config.sinks import ReloadHAProxy, SinkFiles
from legation.errors import TimedOut, Unavailable

_MAX_FILE = 1 << 26
_BEGUN = (b"transaction created for", b"transaction updated for")
_COMMITTED = b"success!"
_IN_USE = b"Status: Used"
_FAILED_RELOADS = re.compile(rb"^[0-9]+ +master .*\[failed: ([0-9]+)\]", re.MULTILINE)
_CURRENT_WORKER = re.compile(rb"^([0-9]+) +worker +0 ", re.MULTILINE)
_OLD_WORKER = re.compile(rb"^([0-9]+) +worker +[1-9][0-9]* ", re.MULTILINE)
# Of the lists of connections: some 300 bytes each.
_MAX_LISTED = 1 << 26
_CURRENT = b""
_STAPLE = "ocsp"
_POLL_S = 0.02


class HAProxy:
    """A process behind `stats socket PATH level admin`, and its master behind `-S PATH`."""

    acknowledges = True

    def __init__(self, reload: ReloadHAProxy, files: SinkFiles, *, timeout_s: float) -> None:
        self._socket, self._master = reload.socket, reload.master_socket
        self._table, self._revoked = reload.table, files.revoked
        self._timeout_s = timeout_s
        self._map: Path | None = None
        self._refused: dict[bytes, Set[str]] = {}  # process id of a worker: what its map has
        # The certificate first: committing one of the others may be the last of its link.
        named = {"cert": files.combined, "ca-file": files.bundle, "crl-file": files.crl}
        self._names = {kind: name for kind, name in named.items() if name is not None}
        self._staple = files.ocsp_staple
        self._loaded: Mapping[str, bytes] = {}  # kind: digest of what is known to be in force

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What its configuration lets it do about revoked peers."""
        having = {
            CRL_ON_HANDSHAKE: True, REFUSES_REQUESTS: self._revoked, CUTS_CONNECTIONS: self._table,
        }  # fmt: skip
        return tuple(word for word, there in having.items() if there)

    @property
    def notes(self) -> tuple[str, ...]:
        """What it does not do."""
        if self._table is not None:
            return ()
        return (ONLY_REQUESTS if self._revoked else ONLY_NEW_CONNECTIONS,)

    async def cut(self, revoked: Set[int]) -> int:
        """Refuse the requests of revoked peers on open connections, and end their sessions.

        Workers that were replaced are asked as well: they live until their connections end.

        Raises:
            Unavailable: a worker does not answer, or its configuration lacks map or table.
            LimitExceeded: it holds too many connections to list.
            TimedOut: it takes longer than the time limit.
        """
        if self._revoked is None or self._map is None:
            return 0
        wanted, ended = frozenset(map(serial_in_map, revoked)), 0
        workers = await self._workers()
        self._refused = {pid: seen for pid, seen in self._refused.items() if pid in workers}
        for pid, ask in workers.items():
            known = self._refused.pop(pid, None)
            await refuse(ask, self._map, wanted, known)
            self._refused[pid] = wanted
            # Only now: what is opened from here on was asked about first.
            if self._table is not None:
                ended += await shut_down(ask, self._table, wanted, timeout_s=self._timeout_s)
        return ended

    async def load(self, files: Path) -> None:
        """Replace what differs from what was loaded last.

        Raises:
            Unavailable: it does not answer, or does not take a file.
            TimedOut: it takes longer than the time limit.
        """
        contents = {
            kind: read_bounded(files / name, limit=_MAX_FILE) for kind, name in self._names.items()
        }
        staple = read_bounded(files / self._staple, limit=_MAX_FILE) if self._staple else NO_STAPLE
        digests = {
            kind: hashlib.sha256(content).digest()
            for kind, content in [*contents.items(), (_STAPLE, staple)]
        }
        loaded, self._loaded = self._loaded, {}
        changed = [kind for kind, digest in digests.items() if loaded.get(kind) != digest]
        if _STAPLE in changed:
            changed.remove(_STAPLE)
            if "cert" not in changed and not await renew(self._ask, staple):
                changed.insert(0, "cert")
        by_commit = await self._can_commit(files, changed, known=bool(loaded))
        for kind in changed if by_commit else ():
            beside = staple if kind == "cert" else NO_STAPLE
            if not await self._replace(kind, files / self._names[kind], contents[kind], beside):
                by_commit = False
                break
        if not by_commit:
            await self._reload()
            self._refused = {}
        self._loaded = digests
        self._map = files / self._revoked if self._revoked else None

    async def _can_commit(self, files: Path, changed: list[str], *, known: bool) -> bool:
        if self._master is not None and not known:
            return False
        if "cert" not in changed:
            return True
        certificate = files / self._names["cert"]
        shown = await self._ask(b"show ssl cert %s\n" % bytes(certificate))
        if _IN_USE in shown:
            return True
        if self._master is None:
            raise Unavailable(
                f"HAProxy does not use {certificate}, or has lost track of it",
                remedy="start HAProxy with -W -S SOCKET and set master_socket, so it can reload",
            )
        return False

    async def _replace(self, kind: str, file: Path, content: bytes, staple: bytes) -> bool:
        """Commit one file; return False if it is too large for that, and a reload is possible."""
        which = b"%s %s" % (kind.encode(), bytes(file))
        # An empty line ends the payload; PEM has none.
        try:
            answer = await self._ask(b"set ssl %s <<\n%s\n" % (which, content))
        except Unavailable:
            answer = b""
        # HAProxy hangs up on a command beyond tune.bufsize.
        if not answer.strip() and self._master is not None:
            return False
        if not answer.lower().startswith(_BEGUN):
            raise _refused(kind, file, answer, size=len(content))
        await accompany(self._ask, file, staple)
        answer = await self._ask(b"commit ssl %s\n" % which)
        if _COMMITTED not in answer.lower():
            await self._ask(b"abort ssl %s\n" % which)
            raise _refused(kind, file, answer, size=len(content))
        return True

    async def _reload(self) -> None:
        """Have the master start a new worker, and wait until that one serves."""
        try:
            async with asyncio.timeout(self._timeout_s):
                failures, workers = await self._processes()
                await self._ask_master(b"reload")
                failed, now = failures, workers
                while not now - workers:
                    await asyncio.sleep(_POLL_S)
                    failed, now = await self._processes()
                    if failed > failures:
                        raise Unavailable(
                            "HAProxy's master could not reload",
                            remedy="run haproxy -c, or see its log",
                        )
        except TimeoutError:
            raise TimedOut(f"HAProxy has no new worker after {self._timeout_s:g} s") from None

    async def _processes(self) -> tuple[int, set[bytes]]:
        """Return the number of failed reloads, and the process ids of current workers.

        The master does not answer while it replaces itself; it is asked until it does.
        """
        while True:
            try:
                shown = await self._ask_master(b"show proc")
            except Unavailable:
                shown = b""
            if failed := _FAILED_RELOADS.search(shown):
                return int(failed[1]), set(_CURRENT_WORKER.findall(shown))
            await asyncio.sleep(_POLL_S)

    async def _workers(self) -> Mapping[bytes, Callable[[bytes], Awaitable[bytes]]]:
        """Return how to ask each worker, by process id."""
        asking = partial(converse, timeout_s=self._timeout_s, limit=_MAX_LISTED)
        workers: dict[bytes, Callable[[bytes], Awaitable[bytes]]] = {
            _CURRENT: partial(asking, self._socket)
        }
        if (master := self._master) is not None:

            def through_master(pid: bytes) -> Callable[[bytes], Awaitable[bytes]]:
                return lambda command: asking(master, b"@!%s %squit\n" % (pid, command))

            shown = await self._ask_master(b"show proc")
            workers |= {pid: through_master(pid) for pid in _OLD_WORKER.findall(shown)}
        return workers

    async def _ask(self, command: bytes) -> bytes:
        return await converse(self._socket, command, timeout_s=self._timeout_s)

    async def _ask_master(self, command: bytes) -> bytes:
        if self._master is None:
            raise Unavailable("no master_socket is configured")
        return await converse(self._master, command + b"\nquit\n", timeout_s=self._timeout_s)


def _refused(kind: str, file: Path, answer: bytes, *, size: int) -> Unavailable:
    words = " ".join(answer.decode(errors="replace").split())
    shown = "".join(char for char in words if char.isprintable())[:200]
    return Unavailable(
        f"HAProxy does not take the {kind} {file} of {size} bytes: {shown or 'no answer'}",
        remedy="its configuration must name exactly this file, and tune.bufsize must exceed it",
    )
