"""What one proxy stands in front of, and whom it calls.

A `ProxySpec` travels as Envoy's node metadata, under the key ``legation``, so an agent
needs no file about the proxies behind it: whoever starts an Envoy says what it is for,
and the agent decides from the caller's attested identity whether it may be that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Self, TypeVar

from legation.errors import InvalidInput, LimitExceeded, nearest
from legation.pki.spiffe_id import SpiffeID

METADATA_KEY = "legation"
MAX_ENDPOINTS = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HOST_LABELS = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")

_T = TypeVar("_T")


class Protocol(StrEnum):
    """What an application speaks."""

    HTTP = "http"  # HTTP/1.1, and WebSocket
    HTTP2 = "http2"  # HTTP/2 with prior knowledge, and gRPC
    TCP = "tcp"  # anything in which the client speaks first
    # Anything in which the server does, such as MySQL or SMTP. Who has an identity but no
    # permission sees the greeting: Envoy judges a connection at the client's first byte.
    TCP_SERVER_FIRST = "tcp-server-first"

    @property
    def is_tcp(self) -> bool:
        """Tell whether it is passed on as bytes, and not as requests."""
        return self in {Protocol.TCP, Protocol.TCP_SERVER_FIRST}


@dataclass(frozen=True, slots=True)
class Address:
    """A host, which is an IP address or a DNS name, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port``; an IPv6 address stands in brackets.

        Raises:
            InvalidInput: not an address with a port from 1 to 65535.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        name = host[1:-1] if bracketed else host
        valid_host = _is_ip(name) and (":" in name) == bracketed
        valid_host = valid_host or (not bracketed and bool(_HOST_LABELS.match(name)))
        if not (colon and valid_host and port.isascii() and port.isdigit() and len(port) <= 5):
            raise InvalidInput(
                f"{text[:80]!a} is not an address",
                remedy="write host:port, for example 127.0.0.1:8443",
            )
        if not 1 <= int(port) <= 65535:
            raise InvalidInput(f"{port} is not a port", remedy="ports go from 1 to 65535")
        return cls(name, int(port))

    @property
    def is_ip(self) -> bool:
        """Tell whether the host is an IP address."""
        return _is_ip(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A port where the proxy receives calls for its application.

    Attributes:
        listen: where peers connect with mutual TLS, ``ip:port``.
        app: where the application listens, ``host:port``.
        protocol: what the application speaks.
        spiffe_id: the identity it is served under; None for the caller's only one.
    """

    listen: str
    app: str
    protocol: Protocol = Protocol.HTTP
    spiffe_id: str | None = None

    def __post_init__(self) -> None:
        _check_listen(self.listen)
        Address.parse(self.app)
        if self.spiffe_id is not None:
            SpiffeID.parse(self.spiffe_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """A local port through which the application calls one other service.

    Attributes:
        listen: where the application connects without TLS, ``ip:port``.
        upstream: the peer's mutual TLS port, ``host:port``.
        spiffe_id: exactly who must answer there.
        protocol: what the application speaks.
    """

    listen: str
    upstream: str
    spiffe_id: str
    protocol: Protocol = Protocol.HTTP

    def __post_init__(self) -> None:
        _check_listen(self.listen)
        Address.parse(self.upstream)
        SpiffeID.parse(self.spiffe_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """One proxy.

    Attributes:
        name: unique among the proxies of one agent; the enforcement point is called so.
        inbound: where it receives calls.
        outbound: where its application calls out.
        spiffe_id: the identity it acts under; None for the caller's only one.

    Raises:
        InvalidInput: a bad name or address, one port twice, or two identities.
    """

    name: str
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    spiffe_id: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise InvalidInput(
                f"{self.name[:80]!a} is not a proxy name",
                remedy="use up to 64 letters, digits, dots, dashes and underscores",
            )
        if not self.inbound and not self.outbound:
            raise InvalidInput(f"proxy {self.name} has neither inbound nor outbound ports")
        if max(len(self.inbound), len(self.outbound)) > MAX_ENDPOINTS:
            raise LimitExceeded(f"a proxy has at most {MAX_ENDPOINTS} ports in each direction")
        listens = [end.listen for end in self.inbound] + [end.listen for end in self.outbound]
        twice = sorted({listen for listen in listens if listens.count(listen) > 1})
        if twice:
            raise InvalidInput(f"proxy {self.name} listens twice on {twice[0]}")
        if len(self._named_identities()) > 1:
            raise InvalidInput(
                f"proxy {self.name} names two identities",
                remedy="start one proxy for each identity",
            )

    @property
    def identity(self) -> str | None:
        """The one identity that this spec names anywhere, or None."""
        return next(iter(self._named_identities()), None)

    def _named_identities(self) -> set[str]:
        named = {self.spiffe_id, *(end.spiffe_id for end in self.inbound)}
        return {identity for identity in named if identity is not None}

    def to_metadata(self) -> dict[str, object]:
        """Render what `from_metadata` reads."""
        metadata: dict[str, object] = {
            "name": self.name,
            "inbound": [
                _without_none(
                    listen=end.listen,
                    app=end.app,
                    protocol=str(end.protocol),
                    spiffe_id=end.spiffe_id,
                )
                for end in self.inbound
            ],
            "outbound": [
                {
                    "listen": end.listen,
                    "upstream": end.upstream,
                    "spiffe_id": end.spiffe_id,
                    "protocol": str(end.protocol),
                }
                for end in self.outbound
            ],
        }
        return metadata | _without_none(spiffe_id=self.spiffe_id)

    @classmethod
    def from_metadata(cls, metadata: object) -> Self:
        """Parse the ``legation`` part of an Envoy node's metadata.

        Raises:
            InvalidInput: a field is missing, unknown, or of the wrong kind; the message
                names its path.
        """
        fields = _fields(metadata, "legation", {"name", "inbound", "outbound", "spiffe_id"})
        return cls(
            name=_text(fields, "name", "legation"),
            inbound=tuple(
                _inbound(item, f"legation.inbound[{place}]")
                for place, item in enumerate(_items(fields, "inbound"))
            ),
            outbound=tuple(
                _outbound(item, f"legation.outbound[{place}]")
                for place, item in enumerate(_items(fields, "outbound"))
            ),
            spiffe_id=_optional_text(fields, "spiffe_id", "legation"),
        )


def _inbound(item: object, path: str) -> Inbound:
    fields = _fields(item, path, {"listen", "app", "protocol", "spiffe_id"})
    return Inbound(
        listen=_text(fields, "listen", path),
        app=_text(fields, "app", path),
        protocol=_protocol(fields, path),
        spiffe_id=_optional_text(fields, "spiffe_id", path),
    )


def _outbound(item: object, path: str) -> Outbound:
    fields = _fields(item, path, {"listen", "upstream", "protocol", "spiffe_id"})
    return Outbound(
        listen=_text(fields, "listen", path),
        upstream=_text(fields, "upstream", path),
        spiffe_id=_text(fields, "spiffe_id", path),
        protocol=_protocol(fields, path),
    )


def _fields(item: object, path: str, known: set[str]) -> Mapping[str, object]:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{path} is not an object")
    for key in item:
        if key not in known:
            meant = nearest(str(key), known)
            raise InvalidInput(
                f"{path} has an unknown field {str(key)[:80]!a}",
                remedy=f"did you mean {meant!r}?"
                if meant
                else f"known are {', '.join(sorted(known))}",
            )
    return item


def _items(fields: Mapping[str, object], key: str) -> Sequence[object]:
    items = fields.get(key, ())
    if not isinstance(items, list | tuple):
        raise InvalidInput(f"legation.{key} is not a list")
    if len(items) > MAX_ENDPOINTS:
        raise LimitExceeded(f"legation.{key} has more than {MAX_ENDPOINTS} items")
    return items


def _text(fields: Mapping[str, object], key: str, path: str) -> str:
    if key not in fields:
        raise InvalidInput(f"{path}.{key} is missing")
    value = fields[key]
    if not isinstance(value, str):
        raise InvalidInput(f"{path}.{key} is not text")
    return value


def _optional_text(fields: Mapping[str, object], key: str, path: str) -> str | None:
    return None if fields.get(key) is None else _text(fields, key, path)


def _protocol(fields: Mapping[str, object], path: str) -> Protocol:
    text = _optional_text(fields, "protocol", path) or Protocol.HTTP
    try:
        return Protocol(text)
    except ValueError:
        raise InvalidInput(
            f"{path}.protocol is {text[:80]!a}", remedy=f"known are {', '.join(Protocol)}"
        ) from None


def _check_listen(text: str) -> None:
    if not Address.parse(text).is_ip:
        raise InvalidInput(
            f"a proxy cannot listen on the name {text!a}", remedy="listen on an IP address"
        )


def _without_none(**fields: _T | None) -> dict[str, _T]:
    return {key: value for key, value in fields.items() if value is not None}


def _is_ip(text: str) -> bool:
    # A zone index ("fe80::1%eth0") is valid for Python and unknown to Envoy.
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
