"""The REST interface over TLS on 127.0.0.1, and clients that speak to it as strangers would."""

import asyncio
import contextlib
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legation.authority.http.connection import Limits
from legation.authority.http.server import HTTPServer
from legation.authority.http.tls import ServingTLS
from legation.authority.model import Role
from legation.authority.rest.application import build_application
from legation.clock import SystemClock
from tests.support.fake_services import FakeAuthority, Hierarchy


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:legation:problem:{problem['code']}"
        assert b"Traceback" not in self.body
        return str(problem["code"])


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        if context is None:
            self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        else:
            self._http = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {**({"content-type": "application/json"} if body is not None else {})}
        data = raw if body is None else json.dumps(body).encode()
        return await asyncio.to_thread(self._ask, method, path, data, {**sent, **(headers or {})})

    def _ask(
        self,
        method: str,
        path: str,
        data: bytes | Iterator[bytes] | None,
        headers: dict[str, str],
    ) -> Answer:
        self._http.request(method, path, data, headers)
        response = self._http.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())

    async def connect(self) -> None:
        await asyncio.to_thread(self._http.connect)

    def close(self) -> None:
        self._http.close()


class RestServer:
    """A fake authority behind the real interface."""

    def __init__(self, directory: Path, *, limits: Limits | None = None, clock=None) -> None:
        self.directory = directory
        self.authority = FakeAuthority()
        self.hierarchy = self.authority.hierarchy
        self.refused: list[tuple[str, str]] = []
        _, chain, key = self.hierarchy.serving()
        self.tls = ServingTLS(
            certificates_pem=chain,
            key_pem=key,
            authorities_pem=self.hierarchy.roots_pem(),
            on_refused=lambda cause, words: self.refused.append((cause.value, words)),
        )
        self.application = build_application(
            self.authority.services(), clock=clock or SystemClock()
        )
        self.server = HTTPServer(
            self.application, host="127.0.0.1", port=0, tls=self.tls, limits=limits
        )
        self.serials: dict[str, int] = {}
        self.connections: list[Connection] = []
        self.roots = directory / "roots.pem"
        self.roots.write_bytes(self.hierarchy.roots_pem())

    @property
    def port(self) -> int:
        return self.server.port

    def enlist(self, name: str, role: Role, **options: Any) -> Path:
        """Add an operator and return the file with its chain and key."""
        self.serials[name], chain, key = self.authority.add_operator(name, role, **options)
        return self.identity_file(name, chain, key)

    def identity_file(self, name: str, chain: bytes, key: bytes) -> Path:
        file = self.directory / f"{name}.pem"
        file.write_bytes(chain + key)
        return file

    def context(self, identity: Path | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.roots))
        if identity:
            context.load_cert_chain(identity)
        return context

    def connect(self, identity: Path | None) -> Connection:
        connection = Connection(self.port, self.context(identity))
        self.connections.append(connection)
        return connection

    def connect_as(self, name: str, role: Role) -> Connection:
        return self.connect(self.enlist(name, role))


@contextlib.asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[RestServer]:
    server = RestServer(directory, **options)
    await server.server.start()
    try:
        yield server
    finally:
        for connection in server.connections:
            connection.close()
        await server.server.stop()


async def run(
    *command: str, stdin: bytes | None = None, cwd: Path | None = None
) -> tuple[int, bytes, bytes]:
    """Run a tool without blocking the loop that serves it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 30)
    assert process.returncode is not None
    return process.returncode, out, err


__all__ = ["Answer", "Connection", "Hierarchy", "RestServer", "run", "serving"]
