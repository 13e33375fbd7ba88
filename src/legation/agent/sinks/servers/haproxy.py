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
from collections.abc import Mapping
from pathlib import Path

from legation.agent.private_files import read_bounded
from legation.agent.sinks.servers.runtime_socket import converse
from legation.agent.sinks.servers.server import CRL_ON_HANDSHAKE, ONLY_NEW_CONNECTIONS
from legation.config.sinks import ReloadHAProxy, SinkFiles
from legation.errors import TimedOut, Unavailable

_MAX_FILE = 1 << 26
_BEGUN = (b"transaction created for", b"transaction updated for")
_COMMITTED = b"success!"
_IN_USE = b"Status: Used"
_FAILED_RELOADS = re.compile(rb"^[0-9]+ +master .*\[failed: ([0-9]+)\]", re.MULTILINE)
_CURRENT_WORKER = re.compile(rb"^([0-9]+) +worker +0 ", re.MULTILINE)
_POLL_S = 0.02


class HAProxy:
    """A process behind `stats socket PATH level admin`, and its master behind `-S PATH`."""

    acknowledges = True
    capabilities: tuple[str, ...] = (CRL_ON_HANDSHAKE,)
    notes: tuple[str, ...] = (ONLY_NEW_CONNECTIONS,)

    def __init__(self, reload: ReloadHAProxy, files: SinkFiles, *, timeout_s: float) -> None:
        self._socket, self._master = reload.socket, reload.master_socket
        self._timeout_s = timeout_s
        # The certificate first: committing one of the others may be the last of its link.
        named = {"cert": files.combined, "ca-file": files.bundle, "crl-file": files.crl}
        self._names = {kind: name for kind, name in named.items() if name is not None}
        self._loaded: Mapping[str, bytes] = {}  # kind: digest of what is known to be in force

    async def load(self, files: Path) -> None:
        """Replace what differs from what was loaded last.

        Raises:
            Unavailable: it does not answer, or does not take a file.
            TimedOut: it takes longer than the time limit.
        """
        contents = {
            kind: read_bounded(files / name, limit=_MAX_FILE) for kind, name in self._names.items()
        }
        digests = {kind: hashlib.sha256(content).digest() for kind, content in contents.items()}
        loaded, self._loaded = self._loaded, {}
        changed = [kind for kind, digest in digests.items() if loaded.get(kind) != digest]
        by_commit = await self._can_commit(files, changed, known=bool(loaded))
        for kind in changed if by_commit else ():
            if not await self._replace(kind, files / self._names[kind], contents[kind]):
                by_commit = False
                break
        if not by_commit:
            await self._reload()
        self._loaded = digests

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

    async def _replace(self, kind: str, file: Path, content: bytes) -> bool:
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
