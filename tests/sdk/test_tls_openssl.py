"""Both engines against OpenSSL's own command line, as client and as server."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from legation.causes import Cause
from legation.pki import certificates_to_pem, private_key_to_pem
from legation.sdk.authorize import authorize_id
from legation.sdk.model import X509SVID
from tests.support.sdk_source import Authority, MemorySource
from tests.support.sdk_tls import ENGINES, ask, connect, echo_server, hang_up, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
AUTHORITY = Authority()
API = "spiffe://example.org/api"


def files(folder: Path, svid: X509SVID) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "leaf.pem").write_bytes(certificates_to_pem(svid.chain[:1]))
    (folder / "chain.pem").write_bytes(certificates_to_pem(svid.chain[1:]))
    (folder / "key.pem").write_bytes(private_key_to_pem(svid.private_key))
    (folder / "roots.pem").write_bytes(AUTHORITY.bundle().to_pem())
    return [
        "-cert", str(folder / "leaf.pem"), "-cert_chain", str(folder / "chain.pem"),
        "-key", str(folder / "key.pem"), "-CAfile", str(folder / "roots.pem"),
    ]  # fmt: skip


async def s_client(port: int, *arguments: str) -> str:
    """Connect, send a line, and return all that OpenSSL says."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello from openssl\n")
    said = b""
    # Our line is among what it says only when it came back.
    while b"hello from openssl" not in said:
        part = await asyncio.wait_for(process.stdout.read(65536), 10)
        if not part:
            break
        said += part
    process.stdin.close()
    if process.returncode is None:
        process.terminate()
    await process.wait()
    return said.decode(errors="replace")


@pytest.mark.parametrize("engine", ENGINES)
async def test_openssl_is_served_with_the_whole_chain(engine: str, tmp_path: Path) -> None:
    """It verifies our chain, is offered no session ticket, and gets its line back."""
    api = MemorySource(AUTHORITY.issue("/api"), AUTHORITY.bundle())
    async with echo_server(engine, api) as server:
        said = await s_client(server.port, *files(tmp_path, AUTHORITY.issue("/web")))
    assert "Verify return code: 0 (ok)" in said
    assert "TLSv1.3" in said
    assert "hello from openssl" in said
    assert "New Session Ticket" not in said


@pytest.mark.parametrize("engine", ENGINES)
async def test_openssl_is_refused_when_revoked(engine: str, tmp_path: Path) -> None:
    """The same client gets nothing back once its certificate is revoked."""
    api, web = MemorySource(AUTHORITY.issue("/api"), AUTHORITY.bundle()), AUTHORITY.issue("/web")
    api.revoke(web.serial)
    async with echo_server(engine, api) as server:
        said = await s_client(server.port, *files(tmp_path, web))
        await until(lambda: bool(api.reports))
        assert server.peers == []
    assert "hello from openssl" not in said
    assert api.causes == [Cause.CERTIFICATE_REVOKED]


@pytest.mark.parametrize("engine", ENGINES)
async def test_openssl_without_a_certificate_sees_why(engine: str, tmp_path: Path) -> None:
    """The alert says that a certificate is required."""
    api = MemorySource(AUTHORITY.issue("/api"), AUTHORITY.bundle())
    async with echo_server(engine, api) as server:
        said = await s_client(server.port)
    assert "alert certificate required" in said
    assert api.causes == [Cause.NO_CLIENT_CERTIFICATE]


@asynccontextmanager
async def s_server(*arguments: str) -> AsyncIterator[int]:
    """Run OpenSSL as a server that turns lines round."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_server", "-accept", "127.0.0.1:0", "-rev", "-tls1_3", *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while b"ACCEPT" not in (line := await asyncio.wait_for(process.stdout.readline(), 10)):
            assert line, "openssl s_server has ended"
        yield int(line.decode().rpartition(":")[2])
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize("engine", ENGINES)
async def test_our_client_speaks_with_openssl(engine: str, tmp_path: Path) -> None:
    """OpenSSL demands and accepts our certificate; we recognise its SPIFFE ID."""
    web = MemorySource(AUTHORITY.issue("/web"), AUTHORITY.bundle())
    identity = files(tmp_path, AUTHORITY.issue("/api"))
    async with s_server(*identity, "-Verify", "4", "-verify_return_error") as port:
        streams = await connect(engine, port, web, authorize_id(API))
        assert await ask(streams, b"ping\n") == b"gnip\n"
        await hang_up(streams)
        with pytest.raises(OSError, match="wrong_identity"):
            await connect(engine, port, web, authorize_id("spiffe://example.org/other"))
