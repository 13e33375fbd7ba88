"""The real authority with its HTTP edges on 127.0.0.1: store, keys, TLS and all."""

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from legation.authority.http_server import HTTPServer
from legation.authority.https import ServingTLS
from legation.authority.initialisation import FirstOperator
from legation.authority.keystore import RawKey
from legation.authority.rest.application import build_application
from legation.authority.settings import AuthoritySettings
from legation.authority.status_http import build_status_application
from legation.authority.wiring import Authority, build, initialise
from legation.clock import SystemClock
from legation.pki import (
    TrustDomain,
    build_request,
    certificate_from_der,
    certificates_to_pem,
    generate_key,
    private_key_to_pem,
)
from legation.pki.pem import encode
from tests.support.rest_server import Connection


class RealAuthority:
    """A running authority, its ports, and the first administrator's identity file."""

    def __init__(self, directory: Path, authority: Authority, admin: Path, roots: Path) -> None:
        clock = SystemClock()
        credentials = authority.serving.credentials
        self.directory = directory
        self.authority = authority
        self.admin = admin
        self.roots = roots
        self.tls = ServingTLS(
            certificates_pem=credentials.certificates_pem,
            key_pem=credentials.key_pem,
            authorities_pem=credentials.authorities_pem,
        )
        self.rest = HTTPServer(
            build_application(authority.services, clock=clock),
            host="127.0.0.1",
            port=0,
            tls=self.tls,
        )
        self.status = HTTPServer(
            build_status_application(authority.services.status, clock=clock),
            host="127.0.0.1",
            port=0,
        )
        self.connections: list[Connection] = []

    def connect(self, identity: Path | None) -> Connection:
        context = ssl.create_default_context(cafile=str(self.roots))
        if identity:
            context.load_cert_chain(identity)
        connection = Connection(self.rest.port, context)
        self.connections.append(connection)
        return connection

    async def enlist(self, admin: Connection, name: str, role: str) -> Path:
        """Create an operator over REST and return its identity file."""
        key = generate_key()
        csr = encode("CERTIFICATE REQUEST", build_request(key)).decode()
        answer = await admin.ask("POST", "/v1/operators", {"name": name, "role": role, "csr": csr})
        assert answer.status == 201, answer.body
        file = self.directory / f"{name}.pem"
        file.write_bytes(answer.json["chain_pem"].encode() + private_key_to_pem(key))
        return file


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[RealAuthority]:
    settings = AuthoritySettings(
        trust_domain=TrustDomain("example.org"), data_dir=directory / "data"
    )
    kek, key = RawKey(secrets.token_bytes(32)), generate_key()
    operator = FirstOperator(name="root", csr=build_request(key))
    begun = await initialise(settings, clock=SystemClock(), kek=kek, operator=operator)
    chain = certificates_to_pem(certificate_from_der(der) for der in begun.operator_chain)
    admin, roots = directory / "root.pem", directory / "roots.pem"
    admin.write_bytes(chain + private_key_to_pem(key))
    roots.write_bytes(encode("CERTIFICATE", begun.root))
    async with build(settings, clock=SystemClock(), kek=kek) as authority:
        real = RealAuthority(directory, authority, admin, roots)
        authority.serving.subscribe(
            lambda new: real.tls.reload(
                certificates_pem=new.certificates_pem,
                key_pem=new.key_pem,
                authorities_pem=new.authorities_pem,
            )
        )
        await asyncio.gather(real.rest.start(), real.status.start())
        try:
            yield real
        finally:
            for connection in real.connections:
                connection.close()
            await asyncio.gather(real.rest.stop(), real.status.stop())
