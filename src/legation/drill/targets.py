"""Where a drill goes: ``HOST:PORT[=SPIFFE-ID][,protocol=http1|http2|tcp][,hello=HEX]``."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from legation.errors import InvalidInput, nearest
from legation.pki import SpiffeID

MAX_TARGETS = 256
_MAX_TEXT = 3000
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z",
    re.ASCII,
)
_PATH = re.compile(r"/[!#-\[\]-~]{0,1023}\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z", re.ASCII)
_HELLO = re.compile(r"[0-9A-Fa-f]{2,1024}\Z", re.ASCII)
_REMEDY = "write HOST:PORT, HOST:PORT=SPIFFE-ID or HOST:PORT,protocol=tcp"


class Protocol(StrEnum):
    """What is spoken inside TLS."""

    HTTP1 = "http1"
    HTTP2 = "http2"
    TCP = "tcp"

    @property
    def alpn(self) -> str | None:
        """Its name in the TLS handshake (RFC 7301), or None."""
        return {Protocol.HTTP1: "http/1.1", Protocol.HTTP2: "h2"}.get(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One TLS endpoint that demands client certificates.

    Attributes:
        host: name or address, without brackets.
        port: TCP port.
        spiffe_id: whom its certificate must name; None for anyone of the trust domain.
        protocol: what it speaks; None to go by what it agrees to in the handshake.
        hello: what to send first over TCP; nothing, if empty.
    """

    host: str
    port: int
    spiffe_id: str | None = None
    protocol: Protocol | None = None
    hello: bytes = b""

    @property
    def name(self) -> str:
        """``host:port``, by which reports call it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def server_name(self) -> str | None:
        """The name for the server_name extension; RFC 6066, section 3 allows no address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return self.host
        return None

    def __str__(self) -> str:
        identity = f"={self.spiffe_id}" if self.spiffe_id else ""
        spoken = f",protocol={self.protocol}" if self.protocol else ""
        hello = f",hello={self.hello.hex()}" if self.hello else ""
        return f"{self.name}{identity}{spoken}{hello}"


def parse_target(text: str) -> Target:
    """Read one target.

    Raises:
        InvalidInput: not one.
    """
    if len(text) > _MAX_TEXT:
        raise InvalidInput(f"a target has at most {_MAX_TEXT} characters", remedy=_REMEDY)
    where, *options = text.split(",")
    address, equals, identity = where.partition("=")
    host, port = _address(address, text)
    found = _options(options, text)
    protocol = _protocol(found["protocol"]) if "protocol" in found else None
    return Target(
        host=host,
        port=port,
        spiffe_id=str(SpiffeID.parse(identity)) if equals else None,
        protocol=protocol,
        hello=_hello(found["hello"], protocol) if "hello" in found else b"",
    )


def _address(address: str, text: str) -> tuple[str, int]:
    host, colon, digits = address.rpartition(":")
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    if colon and 0 < port < 65536:
        if host.startswith("[") and host.endswith("]"):
            try:
                return str(ipaddress.IPv6Address(host[1:-1])), port
            except ValueError:
                pass
        elif _HOST.match(host):
            return host, port
    raise InvalidInput(f"{text[:80]!a} has no address", remedy=_REMEDY)


def _options(words: Iterable[str], text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in {"protocol", "hello"} or name in found:
            raise InvalidInput(
                f"{text[:80]!a} has an option that a target lacks, or one twice", remedy=_REMEDY
            )
        found[name] = value
    return found


def _protocol(value: str) -> Protocol:
    try:
        return Protocol(value)
    except ValueError:
        words = [str(each) for each in Protocol]
        close = nearest(value, words)
        raise InvalidInput(
            f"{value[:40]!a} is no protocol",
            remedy=f"did you mean {close}?" if close else f"use one of {', '.join(words)}",
        ) from None


def _hello(digits: str, protocol: Protocol | None) -> bytes:
    if protocol is not Protocol.TCP:
        raise InvalidInput("only protocol=tcp takes a hello", remedy=_REMEDY)
    if not _HELLO.match(digits) or len(digits) % 2:
        raise InvalidInput(
            f"{digits[:40]!a} is no hello", remedy="write 1 to 512 bytes in hexadecimal"
        )
    return bytes.fromhex(digits)


def check_path(path: str) -> None:
    """Refuse what cannot be the target of an HTTP request (RFC 9112, section 3.2.1).

    Raises:
        InvalidInput: not an absolute path of printable ASCII.
    """
    if not _PATH.match(path):
        raise InvalidInput(
            f"{path[:80]!a} is not a path", remedy="write an absolute path, such as /healthz"
        )


def allowing_policy(identities: Sequence[str], *, path: str, name: str) -> str:
    """Return a policy, as YAML, by which decoys may ask `identities` for `path`.

    Raises:
        InvalidInput: not SPIFFE IDs of one trust domain, not a path, or not a name.
    """
    check_path(path)
    parsed = [SpiffeID.parse(identity) for identity in identities]
    if len(domains := {each.trust_domain for each in parsed}) != 1:
        raise InvalidInput(
            "the services must be of one trust domain", remedy="drill each by itself"
        )
    if not _NAME.match(name):
        raise InvalidInput(f"{name[:80]!a} is not a policy's name")
    targets = ", ".join(f'"{each}"' for each in parsed)
    return f"""\
apiVersion: legation/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  target: {{spiffeIDs: [{targets}]}}
  action: ALLOW
  rules:
    - from: [{{spiffeIDs: ["spiffe://{domains.pop()}/legation/decoy/*"]}}]
      to: [{{methods: [GET], paths: ["{path}"]}}]
"""
