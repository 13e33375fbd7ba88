"""Policies in the real Envoy: mTLS listeners with the RBAC filters, and a client for them."""

import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from legation.policy import CompiledRBAC

TYPE = "type.googleapis.com/envoy.extensions.filters."
TRANSPORT = "type.googleapis.com/envoy.extensions.transport_sockets."
HTTP_RBAC = TYPE + "http.rbac.v3.RBAC"
NETWORK_RBAC = TYPE + "network.rbac.v3.RBAC"
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


class Authority:
    """A certificate authority for the callers of one test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._certificate = self._sign(self._name, self._key.public_key(), None)
        self.root = directory / "root.pem"
        self.root.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *names: x509.GeneralName) -> Path:
        """Write a certificate and its key into one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), x509.SubjectAlternativeName(names))
        path = self._directory / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def client(self, path: Path) -> ssl.SSLContext:
        """Return a client context with the identity in `path`, which asks for no name."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.check_hostname = False
        context.load_cert_chain(path)
        return context

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName | None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            # What Python's default context asks for from 3.13 on (RFC 5280, section 4.2.1).
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names is None:
            builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
        else:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def http_listener(
    name: str, rbac: CompiledRBAC, tls: Mapping[str, Any] | None, log: Path
) -> dict[str, Any]:
    """Return a listener that answers by itself what the two RBAC filters let through.

    Its answers tell the status and the path; what the filters found is in its log, because
    Envoy fills in the metadata of a refusal only after it has written the refusal.
    """
    told = {
        "code": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "path": "%REQ(:PATH)%",
    }
    manager = {
        "@type": TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        # The settings of the product's inbound listeners.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "local_reply_config": {"body_format": {"json_format": told}},
        "access_log": [
            _access_log(
                log, {"id": "%REQ(X-ID)%", "rbac": "%DYNAMIC_METADATA(envoy.filters.http.rbac)%"}
            )
        ],
        "http_filters": [
            {"name": "deny", "typed_config": {"@type": HTTP_RBAC, **rbac.deny}},
            {"name": "allow", "typed_config": {"@type": HTTP_RBAC, **rbac.allow}},
            {"name": "router", "typed_config": {"@type": TYPE + "http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
    }
    return _listener(name, [{"name": "http", "typed_config": manager}], tls)


def tcp_listener(
    name: str, rbac: CompiledRBAC, tls: Mapping[str, Any] | None, log: Path
) -> dict[str, Any]:
    """Return a listener that sends back what it gets, if the two RBAC filters let it."""
    told = {
        "id": "%DOWNSTREAM_REMOTE_PORT%",
        "details": "%CONNECTION_TERMINATION_DETAILS%",
        "rbac": "%DYNAMIC_METADATA(envoy.filters.network.rbac)%",
    }
    filters = [
        {"name": "deny", "typed_config": {"@type": NETWORK_RBAC, **rbac.deny}},
        {"name": "allow", "typed_config": {"@type": NETWORK_RBAC, **rbac.allow}},
        {"name": "echo", "typed_config": {"@type": TYPE + "network.echo.v3.Echo"}},
    ]
    return _listener(name, filters, tls) | {"access_log": [_access_log(log, told)]}


def read_log(log: Path, *, count: int) -> dict[str, dict[str, Any]]:
    """Return the `count` entries of a log by their ``id``, as soon as Envoy has written them."""
    deadline = time.monotonic() + 10
    lines: list[str] = []
    while len(lines) < count and time.monotonic() < deadline:
        lines = log.read_text().splitlines()
    assert len(lines) == count
    return {str(entry["id"]): entry for entry in map(json.loads, lines)}


def _access_log(log: Path, told: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(log),
            "log_format": {"json_format": dict(told)},
        },
    }


def _listener(
    name: str, filters: list[dict[str, Any]], tls: Mapping[str, Any] | None
) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": filters}
    if tls is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": tls}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        # The client says which port it called; the policies' ports can be anything then.
        "listener_filters": [
            {
                "name": "proxy_protocol",
                "typed_config": {"@type": TYPE + "listener.proxy_protocol.v3.ProxyProtocol"},
            }
        ],
        "filter_chains": [chain],
    }


def server_tls(server: Path, root: Path) -> dict[str, Any]:
    """Return a transport socket that asks every client for a certificate."""
    return {
        "@type": TRANSPORT + "tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(server)},
                    "private_key": {"filename": str(server)},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(root)}},
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a listener of `http_listener` told.

    Attributes:
        location: where it redirects to, if it does.
    """

    code: int
    details: str
    path: str
    location: str | None


class Caller:
    """One kept-alive connection; opened when needed, and again after Envoy closed it."""

    def __init__(
        self,
        listener: int,
        context: ssl.SSLContext | None,
        *,
        port: int,
        source_port: int = 40000,
    ) -> None:
        self._listener = listener
        self._context = context
        self._header = f"PROXY TCP4 127.0.0.1 127.0.0.1 {source_port} {port}\r\n".encode()
        self._socket: socket.socket | None = None

    def __enter__(self) -> "Caller":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._reader.close()
            self._socket.close()
            self._socket = None

    def ask(self, method: str, target: str, *, identifier: str) -> Answer:
        """Send one HTTP/1.1 request, which the log knows as `identifier`."""
        request = f"{method} {target} HTTP/1.1\r\nhost: a\r\nx-id: {identifier}\r\n\r\n"
        self._connected().sendall(request.encode("latin-1"))
        self._reader.readline()
        headers: dict[bytes, bytes] = {}
        while line := self._reader.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        length = int(headers.get(b"content-length", b"0"))
        told = json.loads(self._reader.read(length))
        if headers.get(b"connection") == b"close":
            self.__exit__(None, None, None)
        location = headers.get(b"location")
        return Answer(
            code=told["code"],
            details=told["details"],
            path=told["path"] or "",
            location=None if location is None else location.decode(),
        )

    def echoed(self) -> bool:
        """Tell whether a byte sent to a `tcp_listener` comes back."""
        self._connected().sendall(b"?")
        try:
            return self._reader.read(1) == b"?"
        except ConnectionError:
            return False

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raw = socket.create_connection(("127.0.0.1", self._listener), timeout=10)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.sendall(self._header)
            self._socket = self._context.wrap_socket(raw) if self._context else raw
            self._reader = self._socket.makefile("rb")
        return self._socket
