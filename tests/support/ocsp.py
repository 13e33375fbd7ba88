"""Certificates of a running authority, and clients that ask about them."""

import base64
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from legation.pki import build_request, certificate_from_der, certificates_to_pem, generate_key
from legation.pki.ocsp import CertificateID, StatusRequest
from tests.support.authority import ADMIN, Agent, World, certificate_of
from tests.support.rest_server import Answer, Connection, run

REQUEST_TYPE = {"content-type": "application/ocsp-request"}


@dataclass(kw_only=True)
class Asker:
    """A workload's certificate, and questions about it.

    Attributes:
        leaf, issuer: the certificates.
        agent: who asked for the leaf.
    """

    world: World
    agent: Agent
    leaf: x509.Certificate
    issuer: x509.Certificate
    connection: Connection

    @property
    def serial(self) -> int:
        """Of the leaf."""
        return self.leaf.serial_number

    @property
    def url(self) -> str:
        """Of the responder."""
        return f"http://127.0.0.1:{self.world.status.port}/ocsp"

    def question(
        self, *, serial: int | None = None, hash_name: str = "sha1", nonce: bytes | None = None
    ) -> StatusRequest:
        """Return a question about the leaf, or about another serial number."""
        wanted = self.serial if serial is None else serial
        return StatusRequest(
            certificate_id=CertificateID.of(self.issuer, wanted, hash_name=hash_name), nonce=nonce
        )

    async def post(self, data: bytes, **headers: str) -> Answer:
        """Ask by POST."""
        return await self.connection.ask(
            "POST", "/ocsp", raw=data, headers={**REQUEST_TYPE, **headers}
        )

    async def get(self, data: bytes, *, method: str = "GET", **headers: str) -> Answer:
        """Ask by GET."""
        text = urllib.parse.quote(base64.b64encode(data).decode(), safe="")
        return await self.connection.ask(method, f"/ocsp/{text}", headers=headers)

    def files(self) -> tuple[Path, Path]:
        """Write the leaf and the issuer; return where."""
        leaf, issuer = (self.world.directory / name for name in ("leaf.pem", "issuer.pem"))
        leaf.write_bytes(certificates_to_pem([self.leaf]))
        issuer.write_bytes(certificates_to_pem([self.issuer]))
        return leaf, issuer

    async def openssl(self, *options: str, trust: Path | None = None) -> tuple[int, str]:
        """Ask with `openssl ocsp`; return its status and all that it says."""
        leaf, issuer = self.files()
        code, out, err = await run(
            "openssl", "ocsp", *options, "-issuer", str(issuer), "-cert", str(leaf),
            "-url", self.url, "-CAfile", str(trust or self.world.roots),
        )  # fmt: skip
        return code, (out + err).decode()

    async def revoke(self, reason: str = "keyCompromise") -> None:
        """Revoke the leaf."""
        revocations = self.world.services.revocations
        await revocations.revoke_serial(self.serial, reason=reason, actor=ADMIN)


async def certified(world: World, **entry: Any) -> Asker:
    """Let an agent join, and have a workload certified."""
    agent = await world.enrol()
    made = await world.entry(agent, **entry)
    async with agent.connected() as caller:
        (result,) = await caller.issue((made.id, build_request(generate_key())))
    leaf = certificate_of(result)
    issuer = certificate_from_der(result.certificate.certificates[1])
    return Asker(
        world=world,
        agent=agent,
        leaf=leaf,
        issuer=issuer,
        connection=Connection(world.status.port, None),
    )
