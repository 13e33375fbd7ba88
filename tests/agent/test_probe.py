"""The probe, against servers of the openssl command and of asyncio."""

import asyncio
import contextlib
import ssl
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from legation.agent.identities import probe
from legation.agent.identities.probe import ProbeFailed, StartTLS, served_chain
from legation.agent.identity import AgentIdentity
from legation.agent.tls import server_context, use_identity
from legation.causes import Cause
from legation.errors import TimedOut
from legation.pki import WORKLOAD, KeyAlgorithm, SpiffeID, generate_key
from tests.support.scripted_authority import TRUST_DOMAIN, ScriptedAuthority

API = SpiffeID(TRUST_DOMAIN, "/api")


@pytest.fixture(scope="module")
def stub():
    return ScriptedAuthority()


@pytest.fixture(scope="module")
def identity(stub):
    key = generate_key()
    return AgentIdentity.of(stub.certify(WORKLOAD, API, key.public_key()), key)


def der(identity):
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in identity.chain)


@contextlib.asynccontextmanager
async def listening(on_connection, **options):
    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, **options)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def tls_server(stub, identity, *, version=ssl.TLSVersion.TLSv1_3):
    """Serve TLS that demands a client certificate; yield the port and who completed it."""
    context = server_context(stub.bundle.x509_authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    use_identity(context, identity.chain, identity.private_key)
    peers = asyncio.Queue()

    async def serve(reader, writer):
        peers.put_nowait(writer.get_extra_info("peercert"))
        writer.close()

    async with listening(serve, ssl=context) as port:
        yield port, peers


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_chain_is_seen_without_a_client_certificate(stub, identity, version):
    """An endpoint that demands a client certificate has shown its own chain before."""
    async with tls_server(stub, identity, version=version) as (port, peers):
        assert await served_chain("127.0.0.1", port) == der(identity)
        assert peers.empty()


async def test_with_credentials_the_handshake_is_completed(stub, identity):
    """Given a certificate to show, the probe completes the handshake like any peer."""
    async with tls_server(stub, identity) as (port, peers):
        assert await served_chain("127.0.0.1", port, credentials=identity) == der(identity)
        assert await asyncio.wait_for(peers.get(), 10)


async def test_credentials_that_the_endpoint_refuses_do_not_hide_its_chain(stub, identity):
    """What the endpoint shows is known even when it refuses what the probe shows."""
    stranger = ScriptedAuthority().identity()
    async with tls_server(stub, identity) as (port, peers):
        assert await served_chain("127.0.0.1", port, credentials=stranger) == der(identity)
        assert peers.empty()


async def test_postgres_is_asked_for_tls_first(stub, identity):
    """With StartTLS.POSTGRES the SSLRequest goes first, and TLS follows the S."""
    context = server_context(stub.bundle.x509_authorities)
    use_identity(context, identity.chain, identity.private_key)

    async def serve(reader, writer):
        assert await reader.readexactly(8) == bytes.fromhex("0000000804d2162f")
        writer.write(b"S")
        with contextlib.suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    async with listening(serve) as port:
        chain = await served_chain("127.0.0.1", port, starttls=StartTLS.POSTGRES)
        assert chain == der(identity)


async def test_a_postgres_without_tls_is_called_plaintext():
    """A PostgreSQL that answers N offers no TLS, and the cause says so."""

    async def serve(reader, writer):
        await reader.readexactly(8)
        writer.write(b"N")
        writer.close()

    async with listening(serve) as port:
        with pytest.raises(ProbeFailed, match="does not offer TLS") as caught:
            await served_chain("127.0.0.1", port, starttls=StartTLS.POSTGRES)
    assert caught.value.cause is Cause.PLAINTEXT


async def test_an_endpoint_without_tls_is_called_plaintext():
    """What answers a ClientHello with HTTP does not speak TLS."""

    async def serve(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with listening(serve) as port:
        with pytest.raises(ProbeFailed, match="does not speak TLS") as caught:
            await served_chain("127.0.0.1", port)
    assert caught.value.cause is Cause.PLAINTEXT


async def test_a_silent_endpoint_is_given_up_in_time():
    """An endpoint that accepts and says nothing costs the timeout, not more."""
    done = asyncio.Event()

    async def serve(reader, writer):
        await done.wait()
        writer.close()

    async with listening(serve) as port:
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            await served_chain("127.0.0.1", port, timeout_s=0.2)
        done.set()


async def test_a_closed_port_is_unavailable():
    """Where nobody listens the failure says so."""
    async with listening(lambda reader, writer: None) as port:
        pass
    with pytest.raises(ProbeFailed, match="cannot be reached"):
        await served_chain("127.0.0.1", port)


async def test_an_endless_answer_is_bounded(monkeypatch):
    """An endpoint that pours out handshake records is left after a bounded amount."""
    monkeypatch.setattr(probe, "MAX_BYTES", 1 << 16)

    async def serve(reader, writer):
        # A ServerHello that claims 64 KiB and never ends.
        writer.write(b"\x16\x03\x03\x40\x00" + b"\x0b\x00\xff\xff" + bytes(0x3FFC))
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"\x16\x03\x03\x40\x00" + bytes(0x4000))
                await writer.drain()
        writer.close()

    async with listening(serve) as port:
        with pytest.raises(ProbeFailed):
            await served_chain("127.0.0.1", port)


async def test_a_server_of_the_openssl_command_is_seen(identity, tmp_path, stub):
    """The chain of a server that is not ours, asked by name, is seen as it presents it."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(identity.to_pem())
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem)),
        *("-cert_chain", str(pem), "-naccept", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(10):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT "):
                assert line
        port = int(line.rpartition(b":")[2])
        chain = await served_chain("127.0.0.1", port, server_name="api.example.org")
        assert chain[0] == der(identity)[0]
    finally:
        process.kill()
        await process.wait()


async def test_a_post_quantum_leaf_is_seen_or_named(stub, tmp_path):
    """A server whose only key is ML-DSA is seen by a TLS library that knows it, else the
    probe says that there is nothing in common, and from which version on there is.
    """
    ssl_engine = pytest.importorskip("OpenSSL.SSL")
    key = generate_key(KeyAlgorithm.ML_DSA_65)
    identity = AgentIdentity.of(stub.certify(WORKLOAD, API, key.public_key()), key)
    context = ssl_engine.Context(ssl_engine.TLS_SERVER_METHOD)
    context.use_certificate(identity.chain[0])
    pem = tmp_path / "server.pem"
    pem.write_bytes(identity.to_pem())
    context.use_privatekey_file(str(pem))

    async def serve(reader, writer):
        server = ssl_engine.Connection(context, None)
        server.set_accept_state()
        server.bio_write(await reader.read(1 << 14))
        with contextlib.suppress(ssl_engine.Error):
            server.do_handshake()
        with contextlib.suppress(ssl_engine.Error):
            writer.write(server.bio_read(1 << 16))
        writer.close()

    async with listening(serve) as port:
        if ssl.OPENSSL_VERSION_INFO >= (3, 5):
            assert (await served_chain("127.0.0.1", port))[0] == der(identity)[0]
            return
        with pytest.raises(ProbeFailed, match="no parameters in common") as caught:
            await served_chain("127.0.0.1", port)
    assert caught.value.cause is Cause.NO_COMMON_PARAMETERS
    assert "OpenSSL 3.5" in caught.value.remedy
