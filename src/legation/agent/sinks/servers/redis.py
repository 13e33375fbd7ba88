"""Redis: `CONFIG SET` of its TLS files, which it reads anew even when their names are the same.

It has no revocation lists: a revoked client is let in until its certificate expires.
"""

from dataclasses import dataclass
from pathlib import Path

from legation.agent.private_files import read_bounded
from legation.agent.sinks.servers.runtime_socket import converse
from legation.agent.sinks.servers.server import LOADS_NO_LISTS
from legation.config.sinks import SinkFiles
from legation.errors import Unavailable

_MAX_PASSWORD = 4096
_LINE = b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """A server behind a Unix socket."""

    socket: Path
    password_file: Path | None
    files: SinkFiles
    timeout_s: float
    acknowledges: bool = True
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = (LOADS_NO_LISTS,)

    async def load(self, files: Path) -> None:
        """Set all three files in one command, so that they are taken together or not at all.

        Raises:
            Unavailable: it does not answer, or does not take them.
            TimedOut: it takes longer than `timeout_s`.
        """
        options = {
            "tls-cert-file": self.files.chain,
            "tls-key-file": self.files.key,
            "tls-ca-cert-file": self.files.bundle,
        }
        words = [b"CONFIG", b"SET"]
        for option, name in options.items():
            words += [option.encode(), bytes(files / (name or ""))]
        commands = [words]
        if self.password_file is not None:
            password = read_bounded(self.password_file, limit=_MAX_PASSWORD).split(b"\n")[0]
            commands.insert(0, [b"AUTH", password])
        # QUIT, so that the answer ends with the connection.
        sent = b"".join(map(_encoded, [*commands, [b"QUIT"]]))
        answer = await converse(self.socket, sent, timeout_s=self.timeout_s)
        for line in answer.split(_LINE)[: len(commands)]:
            if line != b"+OK":
                said = line.decode(errors="replace").lstrip("-")[:200]
                raise Unavailable(f"Redis refuses: {said or 'no answer'}")


def _encoded(words: list[bytes]) -> bytes:
    """Write a command in Redis's protocol (RESP): an array of strings with their lengths."""
    parts = [b"*%d" % len(words)]
    for word in words:
        parts += [b"$%d" % len(word), word]
    return _LINE.join(parts) + _LINE
